"""Two wings that look the same, and an office where floor and lights do, in real images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import pytest

from selavpr_ros.decision.gates import name_outcome
from selavpr_ros.models import load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose, compose
from selavpr_ros.settings import make_settings
from selavpr_ros.simulation import Camera, DriveSettings, World, drive, take_images
from selavpr_ros.simulation.light import MORNING

LENGTH_M = 60.0
WING_M = 200.0
LAP_NS = 1000 * 10**9


@pytest.fixture(scope='module')
def model():
    return load_model('hog', image_size=(120, 160))


@pytest.fixture(scope='module')
def laps():
    """A lap in the first wing, the same in the second, and in the first one again."""
    world = World.generate(3, LENGTH_M)
    camera = Camera(width=160, height=120)
    frames = []
    for lap, wing in enumerate((0, 1, 0)):
        settings = DriveSettings(laps=1, image_rate_hz=2.0, start_ns=10**18 + lap * LAP_NS)
        trajectory = drive(world.route, settings, lap)
        for frame in take_images(world, camera, trajectory, (MORNING,), lap):
            pose = compose(Pose.planar(wing * WING_M, 0.0, 0.0), frame.odometry_pose)
            frames.append((lap, frame.image, frame.stamp_ns, pose))
    return frames


def outcomes(model, laps, **settings):
    """By lap: how often which gate had the last word; views with a closure, and false ones."""
    recognizer = PlaceRecognizer(model, make_settings(settings))
    lap_of = {stamp_ns: lap for lap, _, stamp_ns, _ in laps}
    found, closed, false = [Counter(), Counter(), Counter()], [0, 0, 0], [0, 0, 0]
    for lap, image, stamp_ns, pose in laps:
        recognition = recognizer.recognize(image, stamp_ns, pose)
        found[lap][name_outcome(c.decision for c in recognition.candidates)] += 1
        for closure in recognition.loop_closures:
            of = lap_of[closure.query.stamp_ns]
            there = closure.candidate.match.keyframe.pose
            closed[of] += 1
            false[of] += there.distance_to(closure.query.pose) > 50.0
    return found, closed, false


@pytest.mark.parametrize('gates', [
    {'gates.max_drift': 10.0},
    {'gates.max_drift': 10.0, 'gates.max_vertical_drift': 10.0}])
def test_without_odometry_as_a_gate_the_wings_are_one(model, laps, gates):
    _, _, false = outcomes(model, laps, **gates)
    assert false[0] == 0
    assert false[1] > 30


def test_odometry_tells_a_new_wing_from_an_old_one_and_rules_out_rivals(model, laps):
    found, closed, false = outcomes(model, laps)
    assert false == [0, 0, 0]
    assert found[1]['REJECT_ODOMETRY'] > 30
    share = closed[2] / sum(found[2].values())
    print(f'{share:.2f} of the last lap close a loop')
    assert share > 0.6


def test_an_office_that_looks_alike_everywhere_closes_nothing(shared: Path):
    """Real images at default settings: for twenty seconds all resembles two keyframes."""
    recognizer, closures = PlaceRecognizer(load_model('embedded'), make_settings({})), []
    files = sorted((shared / 'data/places/pepper_offline/run').glob('*.jpg'))
    assert len(files) == 130
    for second, file in enumerate(files):
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        recognition = recognizer.recognize(image, 10**18 + second * 10**9)
        closures += [(closure.query.stamp_ns, closure.candidate.match.keyframe.id)
                     for closure in recognition.loop_closures]
    assert closures == []
