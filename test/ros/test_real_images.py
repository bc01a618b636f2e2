"""Real images, played over DDS into the node as a user starts it: the ids that come out are those
of the replay, and they are right.
"""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import COMPRESSED_TOPIC, IMAGE_TOPIC, write_image_bag
from live import SECOND, TIMEOUT_S, stamp_of, wait_until

from selavpr_msgs.msg import VprStatus
from selavpr_ros.config import make_settings
from selavpr_ros.decision import Decision
from selavpr_ros.models import load_from_settings
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.replay.bag import Bag
from selavpr_ros.replay.pose_track import PoseTrack
from selavpr_ros.replay.records import Run
from selavpr_ros.replay.replay import replay
from selavpr_ros.ros.bag_player import play

# The stamps are made up: frame n at second n. Every frame is a keyframe, so keyframe n is frame n.
SETTINGS = {
    'keyframe.max_similarity': 1.0, 'keyframe.duplicate_similarity': 1.0,
    'keyframe.min_interval': 0.0,
    'index.exclude_recent_seconds': 0.0, 'pose_timeout': 5.0,
    'qos.image_reliability': 'reliable',
    # The odometry is made up: it never comes back.
    'gates.odometry_check': False, 'gates.ambiguity_radius': 1e6}
REVISITS = 44  # frames with an earlier frame of the same place
SPEED_M_S = 0.6  # of made-up odometry: farther between two frames than two keyframes have to be


@pytest.fixture(scope='module')
def frames(shared: Path) -> list[tuple[int, np.ndarray]]:
    """84 stamped RGB images, two laps."""
    files = sorted((shared / 'data/rtabmap_loop/images').glob('*.jpg'))
    return [(int(file.stem) * SECOND, cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB))
            for file in files]


@pytest.fixture(scope='module')
def pairs(shared: Path) -> set[tuple[int, int]]:
    """(later, earlier) frames of the same place."""
    with (shared / 'data/rtabmap_loop/loops.csv').open() as file:
        return {(int(row['image_a']), int(row['image_b'])) for row in csv.DictReader(file)}


def arguments(settings):
    """For the node's command line."""
    words = [word for name, value in settings.items() for word in ('-p', f'{name}:={value}')]
    return [*words, '-r', f'image:={IMAGE_TOPIC}']


def odometry():
    """Five poses a second along x, none at the stamp of an image."""
    stamps_ns = [SECOND // 2 + number * SECOND // 5 for number in range(5 * 84)]
    return [(ns, Pose.planar(SPEED_M_S * ns / SECOND, 0.0, 0.0)) for ns in stamps_ns]


def run_live(bag, listener, process):
    """Play the bag, each image after the answer to the one before; (query, candidates) ids."""
    sent = 0

    def pace(topic, recorded_ns):
        nonlocal sent
        if topic == '/odom':
            return
        wait_until(lambda: len(listener.candidates) >= sent, f'the answer to image {sent}')
        sent += 1

    listener.wait_for_state(VprStatus.ACTIVE)
    play(bag, listener.node, rate=0.0, pace=pace, timeout_s=TIMEOUT_S)
    listener.wait_for_candidates(sent)
    wait_until(lambda: listener.counted('frames_processed') == sent,
               f'{sent} processed, not {listener.counted("frames_processed")}')
    assert listener.status.frames_dropped == 0
    assert process.stop() == 0
    return [
        (stamp_of(answer), answer.query.keyframe_id, [
            (m.match.session_id, m.match.keyframe_id, m.local_matches, m.decision)
            for m in answer.matches])
        for answer in listener.candidates]


def run_replay(bag, topic, settings):
    """The same from `vpr replay`'s library."""
    recognizer = PlaceRecognizer(load_from_settings(settings.model), settings)
    with Bag(bag) as opened:
        track = PoseTrack(opened.poses('/odom'))
        queries = list(replay(opened.images(topic), recognizer, Run(), track))
    return [
        (query.stamp_ns, query.keyframe_id.keyframe_id if query.keyframe_id else 0, [
            (c.match_id.session_id, c.match_id.keyframe_id, c.local_matches, int(c.decision))
            for c in query.candidates])
        for query in queries]


def measure(answers, pairs):
    """recall@1, true and all loop closures."""
    best = [(query, found[0][1]) for _, query, found in answers if found]
    closures = [(query, keyframe) for _, query, found in answers
                for _, keyframe, _, decision in found if decision == Decision.ACCEPTED]
    right = sum(pair in pairs for pair in best)
    return right / REVISITS, sum(pair in pairs for pair in closures), len(closures)


@pytest.mark.parametrize(('weights', 'compressed'), [('hog', False), ('embedded', True)])
def test_the_live_node_finds_what_the_replay_finds(
    weights, compressed, frames, pairs, tmp_path, listener, start_process, capsys
):
    settings = {**SETTINGS, 'model.weights': weights,
                'image_transport': 'compressed' if compressed else 'raw',
                'pose_source': 'none' if compressed else 'odom'}
    bag = write_image_bag(tmp_path / 'loop', frames, compressed=compressed,
                          odometry=() if compressed else odometry())
    process = start_process(*arguments(settings))
    live = run_live(bag, listener, process)
    assert [(query, found) for _, query, found in live[:21]] == [
        (number, []) for number in range(1, 22)]
    assert live == run_replay(
        bag, COMPRESSED_TOPIC if compressed else IMAGE_TOPIC, make_settings(settings))

    if not compressed:
        places_m = [k.pose.pose.position.x for k in listener.received['keyframes'][10:]]
        assert places_m == pytest.approx([SPEED_M_S * number for number in range(11, 85)])
    recall, right, closures = measure(live, pairs)
    edges = [(e.keyframe_to.keyframe_id, e.keyframe_from.keyframe_id)
             for e in listener.received['closures']]
    assert len(edges) == closures
    with capsys.disabled():
        print(f'\n{listener.status.model_id} on 84 real images over DDS: '
              f'recall@1 {recall:.3f}, {right} of {closures} loop closures right')
    assert recall >= {'hog': 0.93, 'embedded': 0.97}[weights]
    assert right == closures >= 25
