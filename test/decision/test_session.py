"""What belongs to one session: its clock, its way, its newest keyframes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from maps import make_keyframe

from selavpr_ros.decision.session import RunningSession, moved
from selavpr_ros.errors import StampError
from selavpr_ros.maps.keyframe import KeyframeId, SessionId
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.matching.query import Query
from selavpr_ros.pose import Pose
from selavpr_ros.settings import IndexSettings, QuerySettings

SECOND = 1_000_000_000
ID = SessionId(3, 7)


def query(second: float, x_m: float | None = None, descriptor=(1.0, 0.0)) -> Query:
    pose = None if x_m is None else Pose.planar(x_m, 0.0, 0.0)
    return Query(round(second * SECOND), ID, np.array(descriptor, np.float32), None, pose, 0.0)


@pytest.mark.parametrize(('x_m', 'yaw', 'expected'), [
    (0.9, 0.0, False), (1.0, 0.0, True), (0.0, 0.1, False), (0.0, 0.3, True)])
def test_a_robot_moves_by_going_or_by_turning(x_m, yaw, expected):
    assert moved(Pose.planar(0, 0, 0), Pose.planar(x_m, 0, yaw), 1.0, 0.2) is expected


def test_what_is_not_known_counts_as_moved():
    here = Pose.planar(0, 0, 0)
    assert moved(None, here, 1.0, 0.2)
    assert moved(here, None, 1.0, 0.2)
    assert moved(here, here, 0.0, 0.2)


def test_the_first_image_is_due_and_then_one_a_period():
    session, settings = RunningSession(ID), QuerySettings(max_rate=2.0)
    assert session.is_due(0, None, settings)
    session.last_query = query(1.0)
    assert not session.is_due(round(1.4 * SECOND), None, settings)
    assert session.is_due(round(1.46 * SECOND), None, settings)  # cameras jitter
    assert session.is_due(round(0.5 * SECOND), None, settings)  # recognize refuses it


def test_the_clock_was_set_back_if_two_stamps_say_so():
    session = RunningSession(ID)
    session.last_query = query(10.0)
    assert not session.follow_clock(11 * SECOND)
    with pytest.raises(StampError, match=r'8\.000 s before'):
        session.follow_clock(2 * SECOND)
    assert session.follow_clock(3 * SECOND)


def test_one_stamp_behind_is_no_clock_set_back():
    session = RunningSession(ID)
    session.last_query = query(10.0)
    for _ in range(2):
        with pytest.raises(StampError):
            session.follow_clock(2 * SECOND)
        assert not session.follow_clock(11 * SECOND)
    for stamp_ns in (9_500_000_000, 9_600_000_000):  # late, not set back
        with pytest.raises(StampError):
            session.follow_clock(stamp_ns)


def test_images_of_one_stamp():
    session = RunningSession(ID)
    session.last_query = query(10.0)
    with pytest.raises(StampError, match='is that of the last image, too'):
        session.follow_clock(10 * SECOND)
    session.last_query = query(0.0)
    with pytest.raises(StampError, match='the image stamps are 0: the driver sets no stamps'):
        session.follow_clock(0)


def test_the_way_is_the_sum_of_all_steps_but_those_that_no_robot_makes():
    session = RunningSession(ID)
    for second, x_m in enumerate((5.0, 6.0, 4.0, 1000.0, 1001.0)):
        session.travel(Pose.planar(x_m, 0.0, 0.0), second * SECOND)
    session.travel(None, 5 * SECOND)
    assert session.travelled_m == pytest.approx(1.0 + 2.0 + 1.0)


def follow(session: RunningSession, *steps: tuple[float, float]) -> list[bool | None]:
    """For each second and x in metres: whether a jump is confirmed, or None without one."""
    told: list[bool | None] = []
    for second, x_m in steps:
        pose, stamp_ns = Pose.planar(x_m, 0.0, 0.0), round(second * SECOND)
        jump = session.follow_odometry(pose, stamp_ns)
        told.append(jump.is_confirmed if jump else None)
        session.travel(None if told[-1] is False else pose, stamp_ns)
    return told


def test_odometry_that_starts_again_at_zero():
    session = RunningSession(ID)
    assert follow(session, (0.0, 160.0), (0.5, 161.0), (1.0, 0.0), (1.5, 1.0)) == [
        None, None, False, True]


def test_a_slip_of_the_odometry_is_no_new_start():
    session = RunningSession(ID)
    assert follow(session, (0.0, 0.0), (0.5, 1.0), (1.0, 900.0), (1.5, 3.0), (2.0, 4.0)) == [
        None, None, False, None, None]
    assert session.travelled_m == pytest.approx(4.0)


@pytest.mark.parametrize('steps', [
    [(0.0, 0.0), (0.5, 20.0), (1.0, 42.0)],  # a car that is seen first at 40 m/s
    [(0.0, 0.0), (1.0, 0.0), (3.0, 15.0), (5.0, 45.0), (7.0, 90.0)],  # a car that starts
    [(0.0, 0.0), (10.0, 0.0), (20.0, 150.0)],  # with an image every ten seconds
    [(0.0, 0.0), (0.5, 0.5), (1.0, 9.0), (1.5, 9.5)],  # corrected by a loop closure of its own
    [(0.0, 0.0), (0.5, 0.5), (60.0, 700.0)]])  # after a minute without odometry
def test_what_a_robot_can_do_is_no_jump(steps):
    assert follow(RunningSession(ID), *steps) == [None] * len(steps)


def test_odometry_that_starts_again_after_some_seconds():
    assert follow(RunningSession(ID), (0.0, 160.0), (0.5, 161.0), (5.5, 0.0), (6.0, 0.5)) == [
        None, None, False, True]


def test_a_jump_is_told_with_its_numbers():
    session = RunningSession(ID)
    follow(session, (0.0, 160.0), (0.5, 161.0))
    jump = session.follow_odometry(Pose.planar(0.0, 0.0, 0.0), SECOND)
    assert str(jump).startswith('the odometry jumped by 161 m in 0.5 s, which no robot can')


def test_motion_since_the_last_view():
    session = RunningSession(ID)
    assert math.isnan(session.moved_since_view(query(0.0, 0.0)))
    session.last_view = query(0.0, 0.0)
    assert session.moved_since_view(query(1.0, 3.0)) == pytest.approx(3.0)
    assert math.isnan(session.moved_since_view(query(1.0)))
    assert math.isnan(session.moved_since_view(query(1.0, 900.0)))


def test_the_lowest_similarity_is_learned():
    session = RunningSession(ID)
    before = session.lowest_similarity
    session.learn_similarity(query(0.0, descriptor=(0.0, 1.0)))
    assert session.lowest_similarity == before
    session.last_apart = query(0.0)
    session.learn_similarity(query(1.0, descriptor=(0.6, 0.8)))
    assert session.lowest_similarity == pytest.approx(0.6)


def test_keyframes_count_from_1():
    session = RunningSession(ID)
    made = [session.next_keyframe(query(second), has_local=False) for second in (1.0, 2.0)]
    assert [keyframe.id for keyframe in made] == [KeyframeId(3, 1, 7), KeyframeId(3, 2, 7)]
    assert made[1].stamp_ns == 2 * SECOND


def test_what_was_kept_lately_is_no_candidate():
    keyframe_map = KeyframeMap()
    for number in range(1, 31):
        keyframe_map.add(make_keyframe(number, session=3))
    settings = IndexSettings(exclude_recent_keyframes=5, exclude_recent_seconds=0.0)
    session = RunningSession(SessionId(3))
    for kept in (True, True, False, True, False, True):
        session.set_apart(query(100.0), kept)
    assert session.count_old_enough(query(200.0), keyframe_map, settings) == 30 - 3
    assert session.count_old_enough(query(200.0), KeyframeMap(), settings) == 0
