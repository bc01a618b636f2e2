import numpy as np
import pytest

from selavpr_ros.simulation import draw_passers_by, render
from selavpr_ros.simulation.passers_by import BLOCKED, FARTHEST_M, PERSON_M


@pytest.fixture(scope='module')
def drawings(town):
    """[(N, 2) metres ahead and to the left, ...] of 200 drawings along the route."""
    found = []
    for seed in range(200):
        pose = town.route.pose_at(0.3 * seed)
        things = draw_passers_by(np.random.default_rng(seed), town, pose)
        away = np.array([(t.x_m - pose.x_m, t.y_m - pose.y_m) for t in things]).reshape(-1, 2)
        cos, sin = np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)
        found.append(away @ np.array([[cos, -sin], [sin, cos]]))
    return found


def test_all_are_ahead_and_within_reach(drawings):
    everybody = np.vstack(drawings)

    assert len(everybody) > 400
    assert everybody[:, 0].min() > 0.5
    assert np.hypot(*everybody.T).max() < FARTHEST_M


def test_few_come_close(drawings):
    close = [bool((away[:, 0] < PERSON_M).any()) for away in drawings]

    assert 0.2 * BLOCKED < np.mean(close) < 1.5 * BLOCKED


def test_same_seed_same_crowd_and_it_is_seen(town, small_camera):
    pose = town.route.pose_at(20.0)
    empty = render(town, small_camera, pose)
    first, again, other = (
        render(
            town,
            small_camera,
            pose,
            passers_by=draw_passers_by(np.random.default_rng(seed), town, pose),
        )
        for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first, again)
    assert (first != empty).any()
    assert (first != other).any()
