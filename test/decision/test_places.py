"""Which keyframes show one place, and where the robot cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.decision.place_filter import PlaceFilter
from selavpr_ros.decision.places import PlaceBook, Places, Whereabouts, odometry_ratios
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose, SessionId
from selavpr_ros.pose import Pose
from selavpr_ros.settings import GateSettings


def keyframe(number: int, pose: Pose | None = None, session: int = 1, **values) -> Keyframe:
    return Keyframe(KeyframeId(session, number), number, np.ones(1, np.float32), pose,
                    values.pop('travelled_m', float(number)), **values)


def book(*keyframes: Keyframe) -> PlaceBook:
    known = {each.id: each for each in keyframes}
    return PlaceBook(known.get, PlaceFilter())


def places_of(made: PlaceBook, *keyframes: Keyframe) -> Places:
    return made.of(keyframes, np.array([made.filter.code(each.id) for each in keyframes]))


def test_neighbours_in_the_order_are_one_place_and_far_ones_are_apart():
    places = places_of(book(), *map(keyframe, (20, 25, 26, 31)))
    np.testing.assert_array_equal(places.are_one(places)[0], [True, True, False, False])
    np.testing.assert_array_equal(places.are_apart(places)[0], [False, False, False, True])


@pytest.mark.parametrize(('pose', 'is_near'), [
    (Pose.planar(4.9, 0.0, 0.7), True), (Pose.planar(5.1, 0.0, 0.0), False),
    (Pose.planar(0.0, 0.0, 0.9), False), (Pose([0, 0, 2.5], [0, 0, 0, 1]), False), (None, False)])
def test_poses_say_that_laps_are_one_place(pose, is_near):
    places = places_of(book(), keyframe(3, Pose.planar(0.0, 0.0, 0.0)), keyframe(80, pose))
    assert places.are_one(places)[0, 1] == is_near
    assert places.are_apart(places)[0, 1] != is_near


def test_sessions_have_frames_of_their_own_until_the_back_end_says_where_they_are():
    here = Pose.planar(0.0, 0.0, 0.0)
    places = places_of(book(), keyframe(3, here), keyframe(3, here, session=2))
    assert not places.are_near(places)[0, 1]
    moved = MapPose('map', here)
    places = places_of(book(), keyframe(3, here, map_pose=moved),
                       keyframe(3, here, session=2, map_pose=moved))
    assert places.are_near(places)[0, 1]


def test_the_end_of_a_lap_is_no_other_place_than_what_lies_just_before_it():
    """Keyframes before the first link belong to their own lap, beside it on either side."""
    made = book()
    made.remember(KeyframeId(1, 104), KeyframeId(1, 3))
    places = places_of(made, *map(keyframe, (98, 99, 100, 3, 60)))
    apart = places.are_apart(places)
    assert not apart[:3, :3].any()
    assert not apart[1:3, 3].any()
    assert apart[4, :4].all()


def test_a_keyframe_of_another_robot_is_known_while_it_is_at_hand():
    made, pose = book(), Pose.planar(3.0, 0.0, 0.0)
    code = np.array([made.filter.code(KeyframeId(1, 7))])
    assert np.isnan(made.of_codes(code).positions_m).all()
    made.at_hand = {KeyframeId(1, 7): keyframe(7, pose)}
    np.testing.assert_array_equal(made.of_codes(code).positions_m, [pose.translation_m])


def test_odometry_allows_more_the_longer_the_way():
    here = Whereabouts(SessionId(1), Pose.planar(0.0, 0.0, 0.0), 100.0)
    gates = GateSettings(max_drift=0.1)
    pose = Pose.planar(16.0, 0.0, 0.0)
    near, far, foreign = odometry_ratios(
        [keyframe(1, pose, travelled_m=0.0), keyframe(2, pose, travelled_m=95.0),
         keyframe(1, pose, session=2)], here, gates)
    assert near == pytest.approx(16.0 / 20.0)
    assert far == pytest.approx(16.0 / 10.5)
    assert np.isnan(foreign)
    nowhere = Whereabouts(SessionId(1), None, 0.0)
    assert np.isnan(odometry_ratios([keyframe(1, pose)], nowhere, gates)).all()
