"""Poses and the odometry buffer against values worked out by hand."""

import math

import numpy as np
import pytest

from selavpr_ros.errors import PoseError
from selavpr_ros.pose import Pose, PoseBuffer, compose, mean_pose, relative_pose

HALF = math.sqrt(0.5)
SECOND = 1_000_000_000


def turned(axis, degrees):
    """A pose at the origin, rotated about one axis."""
    half = math.radians(degrees) / 2.0
    rotation = np.zeros(4)
    rotation['xyz'.index(axis)] = math.sin(half)
    rotation[3] = math.cos(half)
    return Pose(np.zeros(3), rotation)


def assert_same_place(pose, expected):
    assert pose is not None
    assert pose.distance_to(expected) == pytest.approx(0.0, abs=1e-12)
    assert pose.angle_to(expected) == pytest.approx(0.0, abs=1e-9)


# ---- Pose ------------------------------------------------------------------------------------


def test_planar():
    pose = Pose.planar(1.0, 2.0, math.pi / 2)
    np.testing.assert_allclose(pose.translation_m, [1.0, 2.0, 0.0])
    np.testing.assert_allclose(pose.rotation, [0.0, 0.0, HALF, HALF])


@pytest.mark.parametrize('yaw_rad', [-3.0, -math.pi / 2, 0.0, 1e-9, 0.5, 3.0])
def test_yaw_comes_back(yaw_rad):
    assert (Pose.planar(1, 2, yaw_rad).x_m, Pose.planar(1, 2, yaw_rad).y_m) == (1.0, 2.0)
    assert Pose.planar(0, 0, yaw_rad).yaw_rad == pytest.approx(yaw_rad, abs=1e-12)
    assert Pose.planar(0, 0, yaw_rad + 2 * math.pi).yaw_rad == pytest.approx(yaw_rad, abs=1e-12)


def test_yaw_of_a_rotation_about_other_axes():
    assert turned('x', 90).yaw_rad == pytest.approx(0.0)
    # yaw 90 deg, then roll 90 deg about the new x axis: q = (1/2, 1/2, 1/2, 1/2)
    assert Pose(np.zeros(3), np.full(4, 0.5)).yaw_rad == pytest.approx(math.pi / 2)


def test_distance():
    origin = Pose(np.zeros(3), [0, 0, 0, 1])
    assert origin.distance_to(Pose([1.0, 2.0, -2.0], [0, 0, 0, 1])) == pytest.approx(3.0)


@pytest.mark.parametrize(('first', 'second', 'degrees'), [
    (turned('z', 0), turned('z', 0), 0.0),
    (turned('z', 10), turned('z', 55), 45.0),
    (turned('z', 179), turned('z', -179), 2.0),
    (turned('z', 0), turned('z', 180), 180.0),
    (turned('x', 90), turned('y', 90), 120.0),
    (turned('y', 0), turned('y', 1e-7), 1e-7),
])
def test_angle(first, second, degrees):
    assert math.degrees(first.angle_to(second)) == pytest.approx(degrees, rel=1e-9, abs=1e-12)
    assert second.angle_to(first) == first.angle_to(second)


def test_sign_of_the_quaternion_is_no_rotation():
    pose = turned('x', 33)
    flipped = Pose(pose.translation_m, -pose.rotation)
    assert pose.angle_to(flipped) == 0.0
    assert pose == flipped


def test_equality():
    assert Pose.planar(1, 2, 0.3) == Pose.planar(1, 2, 0.3)
    assert Pose.planar(1, 2, 0.3) != Pose.planar(1, 2, 0.4)
    assert Pose.planar(1, 2, 0.3) != Pose.planar(1, 3, 0.3)
    assert Pose.planar(1, 2, 0.3) != 'pose'


def test_pose_keeps_its_own_read_only_arrays():
    translation_m = np.zeros(3)
    pose = Pose(translation_m, [0, 0, 0, 1])
    translation_m[0] = 9.0
    assert pose.translation_m[0] == 0.0
    assert pose.rotation.dtype == np.float64
    with pytest.raises(ValueError, match='read-only'):
        pose.rotation[0] = 1.0
    with pytest.raises(AttributeError):
        pose.rotation = np.zeros(4)


def test_near_unit_quaternion_is_normalised():
    pose = Pose(np.zeros(3), [0.0, 0.0, 0.71, 0.71])
    np.testing.assert_allclose(pose.rotation, [0.0, 0.0, HALF, HALF])


@pytest.mark.parametrize(('translation_m', 'rotation', 'words'), [
    ([math.nan, 0, 0], [0, 0, 0, 1], 'translation .*nan.*not finite'),
    ([0, math.inf, 0], [0, 0, 0, 1], 'translation .*inf.*not finite'),
    ([0, 0, 0], [0, 0, math.nan, 1], 'rotation .*nan.*not finite'),
    ([0, 0, 0], [0, 0, 0, 0], 'norm 0 instead of 1.*never set'),
    ([0, 0, 0], [0, 0, 0, 2], 'norm 2 instead of 1'),
    ([0, 0], [0, 0, 0, 1], '3 numbers, got shape'),
    ([0, 0, 0], [0, 0, 1], '4 numbers, got shape'),
    (['a', 0, 0], [0, 0, 0, 1], '3 numbers, got'),
    (None, [0, 0, 0, 1], '3 numbers, got'),
    ([10 ** 400, 0, 0], [0, 0, 0, 1], '3 numbers, got'),
])
def test_what_is_no_pose(translation_m, rotation, words):
    with pytest.raises(PoseError, match=words):
        Pose(translation_m, rotation)


@pytest.mark.parametrize('values', [(math.nan, 0, 0), (0, math.inf, 0), (0, 0, math.inf)])
def test_planar_refuses_what_is_not_finite(values):
    with pytest.raises(PoseError, match='not finite'):
        Pose.planar(*values)


# ---- PoseBuffer ------------------------------------------------------------------------------


def buffer_of(*poses, **settings):
    """A buffer with one pose every 0.1 s from stamp 0 on."""
    buffer = PoseBuffer(10.0, **settings)
    for index, pose in enumerate(poses):
        buffer.add(index * SECOND // 10, pose)
    return buffer


def test_empty_buffer():
    buffer = PoseBuffer(10.0, max_extrapolation_s=1.0)
    assert buffer.interpolate(0) is None
    assert buffer.newest_ns is None
    assert len(buffer) == 0


def test_exact_stamp_gives_the_very_pose():
    pose = Pose.planar(1, 2, 0.3)
    assert buffer_of(Pose.planar(0, 0, 0), pose).interpolate(100_000_000) is pose


@pytest.mark.parametrize('fraction', [0.25, 0.5, 0.9])
def test_linear_position_and_slerp(fraction):
    buffer = buffer_of(Pose.planar(1, 2, 0.0), Pose.planar(3, 1, math.pi / 2))
    expected = Pose.planar(1 + 2 * fraction, 2 - fraction, fraction * math.pi / 2)
    assert_same_place(buffer.interpolate(int(fraction * 1e8)), expected)


def test_slerp_keeps_its_rate_where_plain_mixing_does_not():
    buffer = buffer_of(turned('x', 0), turned('x', 160))
    assert_same_place(buffer.interpolate(25_000_000), turned('x', 40))


def test_slerp_about_different_axes():
    # Halfway from 90 deg about x to 90 deg about y lies (1, 1, 0, 2) / sqrt(6).
    pose = buffer_of(turned('x', 90), turned('y', 90)).interpolate(50_000_000)
    np.testing.assert_allclose(pose.rotation, np.array([1, 1, 0, 2]) / math.sqrt(6))


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_wrap_around_takes_the_short_way(sign):
    last = turned('z', -170)
    buffer = buffer_of(turned('z', 170), Pose(np.zeros(3), sign * last.rotation))
    assert_same_place(buffer.interpolate(50_000_000), turned('z', 180))
    assert_same_place(buffer.interpolate(75_000_000), turned('z', -175))


def test_flipped_sign_of_the_same_rotation_stands_still():
    pose = turned('y', 50)
    buffer = buffer_of(pose, Pose(np.zeros(3), -pose.rotation))
    assert_same_place(buffer.interpolate(30_000_000), pose)


def test_half_a_turn_is_still_a_rotation():
    pose = buffer_of(turned('z', 0), turned('z', 180)).interpolate(50_000_000)
    assert abs(pose.yaw_rad) == pytest.approx(math.pi / 2)


def test_nanoseconds_of_today_are_not_rounded():
    start_ns = 1_795_000_000 * SECOND
    buffer = PoseBuffer(1.0)
    buffer.add(start_ns, Pose.planar(0, 0, 0))
    buffer.add(start_ns + 10, Pose.planar(10, 0, 0))
    assert buffer.interpolate(start_ns + 3).translation_m[0] == pytest.approx(3.0)


def test_outside_is_none():
    buffer = buffer_of(Pose.planar(0, 0, 0), Pose.planar(1, 0, 0))
    assert buffer.interpolate(-1) is None
    assert buffer.interpolate(100_000_001) is None
    assert buffer.newest_ns == 100_000_000


def test_extrapolation_holds_the_nearest_pose_up_to_its_limit():
    buffer = buffer_of(Pose.planar(0, 0, 0), Pose.planar(1, 0, 0), max_extrapolation_s=0.02)
    assert buffer.interpolate(120_000_000) == Pose.planar(1, 0, 0)
    assert buffer.interpolate(-20_000_000) == Pose.planar(0, 0, 0)
    assert buffer.interpolate(120_000_001) is None
    assert buffer.interpolate(-20_000_001) is None


def test_no_interpolation_over_a_hole():
    buffer = buffer_of(Pose.planar(0, 0, 0), Pose.planar(1, 0, 0), max_gap_s=0.3)
    buffer.add(400_000_000, Pose.planar(4, 0, 0))
    buffer.add(700_000_001, Pose.planar(7, 0, 0))
    assert_same_place(buffer.interpolate(200_000_000), Pose.planar(2, 0, 0))
    assert buffer.interpolate(500_000_000) is None
    assert buffer.interpolate(700_000_001) == Pose.planar(7, 0, 0)


def rated(interval_s, *x_m, **settings):
    """A buffer with one pose every `interval_s` from stamp 0 on."""
    buffer = PoseBuffer(1000.0, **settings)
    for index, x in enumerate(x_m):
        buffer.add(round(index * interval_s * SECOND), Pose.planar(x, 0, 0))
    return buffer


def test_the_gap_follows_the_rate_of_slow_odometry():
    buffer = rated(1.0, 0, 1, 2, 3)
    assert buffer.interval_s() == 1.0
    assert_same_place(buffer.interpolate(2 * SECOND + SECOND // 2), Pose.planar(2.5, 0, 0))
    buffer.add(5 * SECOND, Pose.planar(5, 0, 0))  # one message is lost
    assert_same_place(buffer.interpolate(4 * SECOND), Pose.planar(4, 0, 0))
    buffer.add(8 * SECOND, Pose.planar(8, 0, 0))  # two are
    assert buffer.interpolate(7 * SECOND) is None


def test_the_gap_of_fast_odometry_is_half_a_second():
    buffer = rated(0.02, *range(20))
    newest_ns = buffer.newest_ns
    buffer.add(newest_ns + SECOND // 2, Pose.planar(20, 0, 0))
    assert buffer.interpolate(newest_ns + SECOND // 4) is not None
    buffer.add(newest_ns + 2 * SECOND, Pose.planar(21, 0, 0))
    assert buffer.interpolate(newest_ns + SECOND) is None


def test_a_gap_that_is_set_is_the_limit_at_any_rate():
    assert rated(1.0, 0, 1, 2, 3, max_gap_s=0.5).interpolate(SECOND // 2) is None
    assert rated(20.0, 0, 1, 2, 3, max_gap_s=30.0).interpolate(30 * SECOND) is not None
    assert rated(20.0, 0, 1, 2, 3).interpolate(30 * SECOND) is None


def test_no_interpolation_over_a_jump_of_the_odometry():
    buffer = rated(0.02, 160.0, 160.1, 0.0, 0.1)
    assert buffer.interpolate(10_000_000) is not None
    assert buffer.interpolate(30_000_000) is None
    assert_same_place(buffer.interpolate(50_000_000), Pose.planar(0.05, 0, 0))


def test_time_jump_clears_and_says_so():
    buffer = buffer_of(*[Pose.planar(i, 0, 0) for i in range(15)])
    assert buffer.add(50_000_000, Pose.planar(9, 0, 0)) is True
    assert len(buffer) == 1
    assert buffer.newest_ns == 50_000_000
    assert buffer.interpolate(200_000_000) is None
    assert buffer.add(60_000_000, Pose.planar(9, 0, 0)) is False


def test_late_pose_is_ignored():
    buffer = buffer_of(*[Pose.planar(i, 0, 0) for i in range(5)])
    assert buffer.add(380_000_000, Pose.planar(99, 0, 0)) is False
    assert len(buffer) == 5
    assert buffer.interpolate(400_000_000) == Pose.planar(4, 0, 0)


def test_duplicate_stamp_replaces():
    buffer = buffer_of(Pose.planar(0, 0, 0), Pose.planar(1, 0, 0))
    assert buffer.add(100_000_000, Pose.planar(2, 0, 0)) is False
    assert len(buffer) == 2
    assert_same_place(buffer.interpolate(50_000_000), Pose.planar(1, 0, 0))


def test_old_poses_are_forgotten():
    buffer = PoseBuffer(1.0)
    for index in range(500):
        buffer.add(index * 10_000_000, Pose.planar(index, 0, 0))
    assert len(buffer) == 101
    assert buffer.interpolate(3_989_999_999) is None
    assert_same_place(buffer.interpolate(3_990_000_000), Pose.planar(399, 0, 0))


def test_number_of_poses_is_bounded():
    buffer = PoseBuffer(1e6, max_poses=3)
    for index in range(50):
        buffer.add(index, Pose.planar(index, 0, 0))
    assert len(buffer) == 3
    assert buffer.interpolate(47) == Pose.planar(47, 0, 0)


@pytest.mark.parametrize('settings', [
    {'max_age_s': -1.0}, {'max_age_s': math.nan}, {'max_age_s': 1.0, 'max_gap_s': -0.1},
    {'max_age_s': 1.0, 'max_extrapolation_s': math.inf}, {'max_age_s': 1.0, 'max_poses': 1}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match='got'):
        PoseBuffer(**settings)


def test_a_step_and_back():
    start = Pose(np.array([1.0, -2.0, 0.5]), np.array([0.1, 0.2, 0.3, 0.927]))
    end = Pose(np.array([-4.0, 3.0, 2.0]), np.array([-0.4, 0.1, 0.2, 0.889]))
    step = relative_pose(start, end)
    again = compose(start, step)
    np.testing.assert_allclose(again.translation_m, end.translation_m, atol=1e-12)
    assert again.angle_to(end) == pytest.approx(0.0, abs=1e-7)


def test_a_known_step():
    start = Pose.planar(1.0, 1.0, math.pi / 2)
    end = compose(start, Pose.planar(2.0, 0.5, math.pi / 4))
    np.testing.assert_allclose(end.translation_m, [0.5, 3.0, 0.0], atol=1e-12)
    assert end.yaw_rad == pytest.approx(0.75 * math.pi)


def test_the_mean_of_poses():
    turned = Pose(np.array([2.0, 0.0, 0.0]), -Pose.planar(0.0, 0.0, 0.2).rotation)
    mean = mean_pose([Pose.planar(0.0, 0.0, 0.0), turned])
    np.testing.assert_allclose(mean.translation_m, [1.0, 0.0, 0.0])
    assert mean.yaw_rad == pytest.approx(0.1)
