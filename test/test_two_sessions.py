"""Two days in one town: the second finds itself in the first one's map."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from selavpr_ros.maps.keyframe import MapPose
from selavpr_ros.maps.opening import open_map
from selavpr_ros.models import load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.settings import make_settings
from selavpr_ros.simulation import Camera, DriveSettings, World, drive, take_images
from selavpr_ros.simulation.light import EVENING, MORNING

SIGMA_M = 2.0
LENGTH_M = 60.0


def frames(start_m, start_ns, light, seed):
    """One lap; the odometry begins at zero wherever the robot does, and drifts."""
    world = World.generate(3, LENGTH_M)
    settings = DriveSettings(laps=1, image_rate_hz=2.0, start_m=start_m, start_ns=start_ns)
    trajectory = drive(world.route, settings, seed)
    yield from take_images(world, Camera(width=160, height=120), trajectory, (light,), seed)


@pytest.fixture(scope='module')
def model():
    return load_model('hog', image_size=(120, 160))


@pytest.fixture(scope='module')
def town(tmp_path_factory, model):
    """A map of the morning, with the poses that a back-end found."""
    path = tmp_path_factory.mktemp('town') / 'town.vprmap'
    settings = make_settings({'map.path': str(path), 'model.weights': 'hog'})
    with closing(open_map(settings, model.model_id)) as keyframe_map:
        recognizer = PlaceRecognizer(model, settings, keyframe_map)
        found = {}
        for frame in frames(0.0, 10**18, MORNING, 1):
            keyframe = recognizer.recognize(
                frame.image, frame.stamp_ns, frame.odometry_pose).keyframe
            if keyframe:
                found[keyframe.id] = MapPose('map', frame.true_pose)
        assert keyframe_map.set_map_poses(found) == len(keyframe_map) > 50
    return settings


def test_the_second_day_finds_itself_in_the_map_of_the_first(town, model):
    errors_m, distances_m, true_poses = [], [], {}
    with closing(open_map(town, model.model_id)) as keyframe_map:
        before = len(keyframe_map)
        recognizer = PlaceRecognizer(model, town, keyframe_map)
        for frame in frames(0.4 * LENGTH_M, 2 * 10**18, EVENING, 2):
            found = recognizer.recognize(
                frame.image, frame.stamp_ns, frame.odometry_pose)
            here = true_poses[frame.stamp_ns] = frame.true_pose
            for closure in found.loop_closures:
                place = closure.candidate.match.keyframe
                if place.id.session_id == 1:
                    distances_m.append(
                        place.place.distance_to(true_poses[closure.query.stamp_ns]))
            assert (found.relocalization is not None) == (
                found.loop_closure is not None
                and found.loop_closure.match.keyframe.id.session_id == 1)
            if found.relocalization:
                assert found.relocalization.frame == 'map'
                errors_m.append(
                    (found.relocalization.pose.translation_m - here.translation_m)[:2])
                variance = np.diag(found.relocalization.covariance)
                assert (variance[:2] >= SIGMA_M**2).all()
        assert len(keyframe_map) > before
        assert [str(session) for session in keyframe_map.sessions] == ['1', '2']
    assert len(distances_m) >= 20
    assert max(distances_m) < 5.0
    assert len(errors_m) >= 15
    assert (np.abs(errors_m) < 2 * SIGMA_M).mean() > 0.95


def test_a_robot_finds_itself_in_the_map_of_another_one(tmp_path, model):
    """Both share a map in Milvus Lite; the first one's keyframes are not on the second's disk."""
    settings = [make_settings({
        'map.path': f'milvus://{tmp_path}/fleet.db', 'map.own_path': f'{tmp_path}/{robot}.vprmap',
        'robot_id': robot, 'model.weights': 'hog'}) for robot in (1, 2)]
    with closing(open_map(settings[0], model.model_id, model.global_dim)) as keyframe_map:
        recognizer = PlaceRecognizer(model, settings[0], keyframe_map)
        for frame in frames(0.0, 10**18, MORNING, 1):
            recognizer.recognize(frame.image, frame.stamp_ns, frame.true_pose)
    accepted = []
    with closing(open_map(settings[1], model.model_id, model.global_dim)) as keyframe_map:
        recognizer = PlaceRecognizer(model, settings[1], keyframe_map)
        for frame in frames(0.4 * LENGTH_M, 2 * 10**18, EVENING, 2):
            found = recognizer.recognize(frame.image, frame.stamp_ns, frame.odometry_pose)
            if found.loop_closure:
                keyframe = found.loop_closure.match.keyframe
                assert str(keyframe.id.session) == '1/1'
                accepted.append(keyframe.place.distance_to(frame.true_pose))
        assert keyframe_map.shared_error == ''
        assert [str(session) for session in keyframe_map.sessions] == ['2/1']
    assert len(accepted) >= 20
    assert max(accepted) < 5.0
