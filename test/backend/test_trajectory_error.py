"""Trajectory errors that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.backend.trajectory_error import align, rmse, trajectory_error
from selavpr_ros.errors import GroundTruthError

CROSS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], float)
WAY = np.array([[0, 0, 0], [3, 0, 0], [3, 4, 0], [1, 5, 2]], float)
QUARTER_TURN = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float)


def test_where_the_frame_begins_and_how_it_is_turned_is_no_error():
    moved = WAY @ QUARTER_TURN.T + [10.0, -20.0, 3.0]
    assert rmse(moved, WAY) > 15.0
    assert trajectory_error(moved, WAY) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(align(moved, WAY), WAY, atol=1e-12)


def test_the_scale_is_an_error():
    assert trajectory_error(3.0 * CROSS, CROSS) == pytest.approx(2.0)


def test_it_is_the_root_of_the_mean_square():
    # Up and down in turn: nothing to turn or shift. 4 points, each 0.5 m off.
    bumps = CROSS + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, -0.5], [0, 0, -0.5]])
    assert trajectory_error(bumps, CROSS) == pytest.approx(0.5)
    assert rmse(np.array([[0.0, 0, 0], [3, 4, 0]]), np.zeros((2, 3))) == pytest.approx(
        np.sqrt(25 / 2))


def test_a_mirror_image_is_an_error():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], float)
    mirrored = corners * [1, 1, -1]
    assert trajectory_error(mirrored, corners) > 0.5


def test_on_a_straight_line_only_the_way_along_it_counts():
    line = np.outer(np.arange(5.0), [1, 0, 0])
    turned = line @ QUARTER_TURN.T
    assert trajectory_error(turned, line) == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(trajectory_error(np.zeros((5, 3)), line))


@pytest.mark.parametrize('counts', [(0, 0), (2, 2), (4, 3)])
def test_too_few_positions_say_how_many(counts):
    with pytest.raises(GroundTruthError, match=f'^{counts[0]} positions .* {counts[1]} true ones'):
        trajectory_error(WAY[: counts[0]], WAY[: counts[1]])
