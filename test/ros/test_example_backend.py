"""The example back-end over DDS: by messages alone, and together with the real vpr_node."""

from __future__ import annotations

import math
import signal
import subprocess
import sys

import pytest
from live import SECOND, TIMEOUT_S, Spinner, place, raw_message, wait_until
from nav_msgs.msg import Odometry, Path
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from selavpr_msgs.msg import Keyframe, KeyframeId, KeyframePoses, LoopClosure
from selavpr_msgs.srv import GetKeyframes
from selavpr_ros.pose import Pose
from selavpr_ros.ros.conversions import ns_to_stamp, pose_from_message, pose_message, stamp_to_ns

pytest.importorskip('gtsam', reason='needs gtsam: pip install gtsam')

LAP = 12  # seconds
RADIUS_M = 20.0


@pytest.fixture
def backend(listener):
    """An ExampleBackend of this process, and what it publishes."""
    from selavpr_ros.ros.example_backend import ExampleBackend

    listener.poses, listener.paths = [], []
    listener.node.create_subscription(
        KeyframePoses, '/keyframe_poses', listener.poses.append, QoSProfile(depth=10))
    listener.node.create_subscription(
        Path, '/example_backend/path', listener.paths.append, QoSProfile(depth=10))
    spinner = Spinner(lambda context: ExampleBackend(
        context=context, parameter_overrides=[Parameter('period', value=0.2)]))
    yield spinner.node
    spinner.close()


@pytest.fixture
def send(listener, backend):
    """(message) -> nothing; the back-end hears it."""
    publishers = {}
    for kind, topic, listeners in ((Keyframe, '/vpr/keyframe', 2), (Odometry, '/odom', 1),
                                   (LoopClosure, '/vpr/loop_closures', 2)):
        publisher = listener.node.create_publisher(kind, topic, QoSProfile(depth=100))
        wait_until(lambda p=publisher, n=listeners: p.get_subscription_count() == n, topic)
        publishers[kind] = publisher
    return lambda message: publishers[type(message)].publish(message)


def keyframe_id(number, session=1, kept=True):
    return KeyframeId(
        session_id=session, keyframe_id=number if kept else 0, stamp=ns_to_stamp(number * SECOND))


def odometry_at(second):
    """Twice round a circle; odometry turns too far, so the laps do not meet."""
    turn = 2.2 * math.pi * second / LAP
    return Pose.planar(RADIUS_M * math.sin(turn), RADIUS_M * (1.0 - math.cos(turn)), turn)


def keyframe_message(second, frame='odom', session=1):
    message = Keyframe(id=keyframe_id(second, session), has_pose=True, pose_frame=frame)
    message.pose.pose = pose_message(odometry_at(second))
    return message


def closure_message(second, kept=True, session=1):
    return LoopClosure(keyframe_from=keyframe_id(second - LAP),
                       keyframe_to=keyframe_id(second, session, kept))


def odometry_message(second):
    message = Odometry()
    message.header.stamp, message.header.frame_id = ns_to_stamp(second * SECOND), 'odom'
    message.pose.pose = pose_message(odometry_at(second))
    return message


def gap(path):
    """Metres by which the second lap of a path misses the first."""
    poses = [pose_from_message(stamped.pose) for stamped in path.poses]
    return sum(a.distance_to(b) for a, b in zip(poses, poses[LAP:], strict=False)) / LAP


def wait_for_path(listener, length):
    return wait_until(
        lambda: listener.paths and len(listener.paths[-1].poses) == length and listener.paths[-1],
        f'a path of {length} poses')


def test_keyframes_that_close_loops_come_back_where_they_belong(listener, send):
    for second in range(1, 2 * LAP + 1):
        send(keyframe_message(second))
    for second in range(LAP + 1, 2 * LAP + 1):
        send(closure_message(second))
    path = wait_for_path(listener, 2 * LAP)
    apart = sum(odometry_at(s).distance_to(odometry_at(s + LAP)) for s in range(1, LAP + 1)) / LAP
    wait_until(lambda: gap(listener.paths[-1]) < 0.6 * apart, 'laps that meet')
    sent = wait_until(lambda: len(listener.poses[-1].ids) == 2 * LAP and listener.poses[-1],
                      'all keyframes')
    assert (sent.header.frame_id, path.header.frame_id) == ('map', 'map')
    assert sorted(i.keyframe_id for i in sent.ids) == list(range(1, 2 * LAP + 1))
    by_id = {i.keyframe_id: pose for i, pose in zip(sent.ids, sent.poses, strict=True)}
    assert pose_from_message(by_id[1]).distance_to(odometry_at(1)) < 0.01


def test_a_query_that_was_not_kept_is_found_in_odometry(listener, send):
    for second in range(1, LAP + 1):
        send(keyframe_message(second))
    for second in range(LAP + 1, 2 * LAP + 1):
        send(closure_message(second, kept=False))

    def send_again():  # odometry is best effort
        for second in range(1, 2 * LAP + 1):
            send(odometry_message(second))
        send(closure_message(2 * LAP, kept=False))

    listener.insist(send_again, lambda: listener.paths and len(
        listener.paths[-1].poses) == 2 * LAP, 'all queries')
    assert len(listener.poses[-1].ids) == LAP
    stamps_ns = [stamp_to_ns(stamped.header.stamp) for stamped in listener.paths[-1].poses]
    assert stamps_ns == [second * SECOND for second in range(1, 2 * LAP + 1)]


def test_the_map_of_an_earlier_session_is_asked_for_and_stays(listener, send):
    asked = []

    def answer(request, response):
        asked.append(request)
        response.keyframes = [keyframe_message(s, frame='map') for s in range(1, LAP + 1)]
        return response

    listener.node.create_service(GetKeyframes, '/vpr/get_keyframes', answer)
    for second in range(LAP + 1, 2 * LAP + 1):
        send(keyframe_message(second, session=2))
        send(closure_message(second, session=2))
    path = wait_for_path(listener, LAP)
    assert asked
    assert {i.session_id for i in listener.poses[-1].ids} == {2}
    middle = pose_from_message(path.poses[LAP // 2].pose)
    assert middle.distance_to(odometry_at(LAP // 2 + 1)) < 2.0


def test_vpr_node_and_the_back_end_work_together(listener, backend, eager):
    eager(pose_source='odom', gates__max_drift=10.0)
    for second, number in enumerate([1, 2, 3, 4, 5, 6, 1, 2, 3, 4], start=1):
        listener.send_odometry(second * SECOND, x_m=float(second))
        listener.send('/image', raw_message(place(number), second * SECOND))
        listener.wait_for_candidates(second)
    assert listener.received['closures']

    def in_map():
        answer = listener.call(
            GetKeyframes, '/vpr/get_keyframes', GetKeyframes.Request(), twice=True)
        return answer.keyframes if answer.keyframes[0].pose_frame == 'map' else None

    keyframes = wait_until(in_map, 'keyframes in the frame map')
    apart = [pose_from_message(keyframes[i].pose.pose) for i in (0, 6)]
    assert 5.0 < apart[0].distance_to(apart[1]) < 5.999  # 6.0 by odometry


def test_the_program_ends_when_it_is_interrupted(listener, tmp_path):
    log = tmp_path / 'log'
    with log.open('w') as output:
        process = subprocess.Popen(
            [sys.executable, '-m', 'selavpr_ros.ros.example_backend'], stdout=output,
            stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: 'example_backend' in listener.node.get_node_names(), log.read_text)
        for signal_number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            process.send_signal(signal_number)
        assert process.wait(TIMEOUT_S) == 0, log.read_text()
    finally:
        process.kill()
    assert log.read_text() == ''


def test_without_gtsam_the_program_says_what_to_install(monkeypatch):
    from selavpr_ros.ros.example_backend import main

    monkeypatch.setitem(sys.modules, 'gtsam', None)
    with pytest.raises(SystemExit, match=r"pip install 'selavpr_ros\[backend\]'"):
        main([])
