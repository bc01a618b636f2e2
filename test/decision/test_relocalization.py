"""Where the robot is in another session's map."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.decision.relocalization import MOST_HITS, Relocalizer
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose
from selavpr_ros.matching.evidence import Match
from selavpr_ros.pose import Pose
from selavpr_ros.settings import RelocalizationSettings

SETTINGS = RelocalizationSettings(keyframe_sigma_xy=2.0, keyframe_sigma_yaw=0.6)


def at(number, place, session=1, frame=''):
    """An accepted candidate whose keyframe is at a place (x, y, yaw), or nowhere."""
    pose = None if place is None else Pose.planar(*place)
    keyframe = Keyframe(
        KeyframeId(session, number), 0, np.zeros(4, np.float32), pose, 0.0,
        MapPose(frame, pose) if frame else None)
    return Candidate(Match(keyframe, 0, 0.9, 100, 0.5), Decision.ACCEPTED)


def test_those_that_agree_tell_the_pose():
    relocalizer = Relocalizer()
    # The map's frame is turned by a quarter and moved against this session's odometry.
    answers = [
        relocalizer.update(
            at(n, (100.0, 5.0 + n, math.pi / 2)), Pose.planar(float(n), 0.0, 0.0), SETTINGS)
        for n in range(4)]
    assert [answer.frames_used for answer in answers] == [1, 2, 3, 4]
    assert {answer.hypotheses for answer in answers} == {1}
    pose = answers[-1].pose
    np.testing.assert_allclose(pose.translation_m, [100.0, 8.0, 0.0], atol=1e-9)
    assert pose.yaw_rad == pytest.approx(math.pi / 2)
    np.testing.assert_allclose(np.diag(answers[-1].covariance), [4.0] * 3 + [0.36] * 3)


def test_neighbours_that_disagree_make_it_less_certain():
    relocalizer = Relocalizer()
    for n, off_m in enumerate((-1.0, 1.0, -1.0, 1.0)):
        answer = relocalizer.update(
            at(n, (float(n), off_m, 0.0)), Pose.planar(float(n), 0.0, 0.0), SETTINGS)
    np.testing.assert_allclose(answer.pose.translation_m, [3.0, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(np.diag(answer.covariance)[:2], [4.0, 5.0])


def test_places_that_contradict_the_odometry_do_not_agree():
    relocalizer = Relocalizer()
    for n, x_m in enumerate((0.0, 50.0, 100.0, 150.0)):
        answer = relocalizer.update(
            at(n, (x_m, 0.0, 0.0)), Pose.planar(float(n), 0.0, 0.0), SETTINGS)
    assert answer.frames_used == 1


def test_a_robot_that_was_carried_away_is_found_again():
    relocalizer = Relocalizer()
    places = [(float(n), 0.0, 0.0) for n in range(4)] + [(80.0 + n, 30.0, 0.0) for n in range(4)]
    answers = [relocalizer.update(at(n, place), Pose.planar(float(n), 0.0, 0.0), SETTINGS)
               for n, place in enumerate(places)]
    assert [a.frames_used for a in answers] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert answers[-1].pose.translation_m[0] == pytest.approx(83.0)


def test_opposite_headings_do_not_agree():
    relocalizer = Relocalizer()
    for n in range(3):
        answer = relocalizer.update(
            at(n, (0.0, 0.0, math.pi * (n % 2))), Pose.planar(0.0, 0.0, 0.0), SETTINGS)
    assert answer.frames_used == 2


def test_sessions_with_frames_of_their_own_cannot_be_compared():
    relocalizer = Relocalizer()
    for n, session in enumerate((1, 2, 1)):
        answer = relocalizer.update(at(n, (0.0, 0.0, 0.0), session), None, SETTINGS)
    assert (answer.frames_used, answer.frame) == (2, '')
    for n, session in enumerate((1, 2, 3)):
        answer = relocalizer.update(at(n, (0.0, 0.0, 0.0), session, 'map'), None, SETTINGS)
    assert (answer.frames_used, answer.frame) == (3, 'map')


def test_without_poses_the_keyframes_have_to_follow_each_other():
    relocalizer = Relocalizer()
    for n in (5, 60, 62, 66):
        answer = relocalizer.update(at(n, None), None, SETTINGS)
    assert answer.frames_used == 3
    assert answer.pose is None
    assert (np.diag(answer.covariance) > 0.0).all()


def test_only_the_last_hits_count():
    relocalizer = Relocalizer()
    for n in range(9):
        answer = relocalizer.update(at(n, (0.0, 0.0, 0.0)), None, SETTINGS)
    assert answer.frames_used == MOST_HITS


def test_a_reset_forgets():
    relocalizer = Relocalizer()
    for n in range(2):
        relocalizer.update(at(n, (0.0, 0.0, 0.0)), None, SETTINGS)
    relocalizer.reset()
    assert relocalizer.update(at(3, (0.0, 0.0, 0.0)), None, SETTINGS).frames_used == 1


def test_the_places_that_are_left_are_handed_on():
    answer = Relocalizer().update(at(1, (0.0, 0.0, 0.0)), None, SETTINGS, hypotheses=3)
    assert answer.hypotheses == 3
    # An accepted candidate is a place, however little is left of the filter's.
    answer = Relocalizer().update(at(1, (0.0, 0.0, 0.0)), None, SETTINGS, hypotheses=0)
    assert answer.hypotheses == 1
