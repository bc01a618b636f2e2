"""Real images, played over DDS into the node as a user starts it: the ids that come out are those
of the replay, and they are right.
"""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import COMPRESSED_TOPIC, IMAGE_TOPIC, write_image_bag
from live import SECOND, TIMEOUT_S, stamp_of, wait_until

from selavpr_msgs.msg import VprStatus
from selavpr_ros.models import load_from_settings
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import Run
from selavpr_ros.recordings.replay import replay
from selavpr_ros.ros.bag_player import play
from selavpr_ros.settings import make_settings

# The stamps are made up: frame n at second n. All else that decides is as a user has it.
SETTINGS = {'pose_timeout': 5.0, 'qos.image_reliability': 'reliable'}
REVISITS = 44  # frames with an earlier frame of the same place
SPEED_M_S = 0.6  # of made-up odometry: farther between two frames than two keyframes have to be
LAP_S = 39  # of the made-up circle; the second lap is a little off the first


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
    """Five poses a second along a circle, none at the stamp of an image.

    Four hundred come before the first image: what is sent best effort before both sides have met
    is lost.
    """
    stamps_ns = [*range(SECOND // 10, SECOND // 2, SECOND // 1000),
                 *(SECOND // 2 + number * SECOND // 5 for number in range(5 * 84))]
    poses = []
    for stamp_ns in stamps_ns:
        angle = 2.0 * np.pi * stamp_ns / SECOND / LAP_S
        radius_m = SPEED_M_S * LAP_S / (2.0 * np.pi)
        poses.append((stamp_ns, Pose.planar(
            radius_m * np.cos(angle), radius_m * np.sin(angle), angle + np.pi / 2.0)))
    return poses


def run_live(bag, listener, process):
    """Play the bag, each image after the answer to the one before; (query, candidates) ids."""
    sent = 0

    def pace(topic, recorded_ns):
        nonlocal sent
        if topic == '/odom':
            is_heard = any(re.match('odometry received: [1-9]', value)
                           for value in listener.values('Input'))
            time.sleep(0.002 if is_heard else 0.1)
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
        (stamp_of(answer) // SECOND, answer.query.keyframe_id, [
            (m.match.stamp.sec, m.match.keyframe_id, m.local_matches)
            for m in answer.matches])
        for answer in listener.candidates]


def run_replay(bag, topic, settings):
    """The same from `vpr replay`'s library, and the (query, keyframe) frames of its closures."""
    recognizer, run = PlaceRecognizer(load_from_settings(settings.model), settings), Run()
    with Bag(bag) as opened:
        track = PoseTrack(opened.poses('/odom'))
        list(replay(opened.images(topic), recognizer, run, track))
    answers = [
        (query.stamp_ns // SECOND, query.keyframe_id.keyframe_id if query.keyframe_id else 0, [
            (c.match_stamp_ns // SECOND, c.match_id.keyframe_id, c.local_matches)
            for c in query.candidates])
        for query in run.queries]
    return answers, [(query.stamp_ns // SECOND, query.closure.match_stamp_ns // SECOND)
                     for query in run.queries if query.closure]


@pytest.mark.parametrize(('weights', 'compressed', 'least'), [
    ('hog', False, 0.6), ('embedded', True, 0.75)])
def test_the_live_node_finds_what_the_replay_finds(
    weights, compressed, least, frames, pairs, tmp_path, listener, start_process, capsys
):
    settings = {**SETTINGS, 'model.weights': weights,
                'image_transport': 'compressed' if compressed else 'raw',
                'pose_source': 'none' if compressed else 'odom'}
    bag = write_image_bag(tmp_path / 'loop', frames, compressed=compressed,
                          odometry=() if compressed else odometry())
    process = start_process(*arguments(settings))
    live = run_live(bag, listener, process)
    replayed, closures = run_replay(
        bag, COMPRESSED_TOPIC if compressed else IMAGE_TOPIC, make_settings(settings))
    assert live == replayed

    edges = sorted((e.keyframe_to.stamp.sec, e.keyframe_from.stamp.sec)
                   for e in listener.received['closures'])
    assert edges == closures  # those of earlier views, too, and each once
    with capsys.disabled():
        print(f'\n{listener.status.model_id} on 84 real images over DDS, default settings: '
              f'{len(edges)} of {REVISITS} revisits closed')
    assert [edge for edge in edges if edge not in pairs] == []
    assert len(edges) >= least * REVISITS
