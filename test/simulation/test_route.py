import numpy as np
import pytest

from selavpr_ros.simulation import Route

SQUARE = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]])


def test_poses_on_a_square():
    route = Route.through(SQUARE)

    assert route.length_m == pytest.approx(40.0)
    pose = route.pose_at(5.0)
    assert (pose.x_m, pose.y_m, pose.yaw_rad) == pytest.approx((5.0, 0.0, 0.0), abs=1e-6)
    pose = route.pose_at(15.0)
    assert (pose.x_m, pose.y_m, pose.yaw_rad) == pytest.approx((10.0, 5.0, np.pi / 2), abs=1e-6)


def test_lateral_offset_is_to_the_left():
    pose = Route.through(SQUARE).pose_at(15.0, lateral_m=1.0, heading_offset_rad=0.2)

    assert (pose.x_m, pose.y_m) == pytest.approx((9.0, 5.0), abs=1e-6)
    assert pose.yaw_rad == pytest.approx(np.pi / 2 + 0.2, abs=1e-6)


def test_yaw_goes_on_into_the_next_lap_without_a_jump():
    poses = Route.through(SQUARE).poses(np.linspace(0.0, 120.0, 4000))

    assert np.abs(np.diff(poses[:, 2])).max() < 0.6
    assert poses[-1, 2] == pytest.approx(6 * np.pi, abs=1.0)


def test_a_town_route_closes_and_turns_smoothly(town):
    route = town.route

    np.testing.assert_allclose(route.points[0], route.points[-1], atol=1e-9)
    assert np.abs(np.diff(route.headings)).max() < 0.15
