"""What speaks for a candidate, on pairs counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selavpr_ros.evidence import Match, spread_of
from selavpr_ros.geometry import FUNDAMENTAL, Geometry
from selavpr_ros.keyframe import Keyframe, KeyframeId
from selavpr_ros.matching import NO_MATCHES, LocalMatches

KEYFRAME = Keyframe(KeyframeId(1, 1), 0, np.ones(1, np.float32), None, 0.0)
BARE = Match(KEYFRAME, 0, 0.9, 0, math.nan)


def _grid(side: int) -> np.ndarray:
    at = (np.arange(side) + 0.5) / side
    return np.stack([np.tile(at, side), np.repeat(at, side)], axis=1)


def test_spread_is_1_over_the_whole_image_and_0_in_one_cell():
    assert spread_of(_grid(4)) == pytest.approx(1.0)
    assert spread_of(np.full((50, 2), 0.1)) == 0.0
    assert spread_of(np.array([[0.1, 0.1], [0.9, 0.9]])) == pytest.approx(0.25)  # 1 bit of 4
    assert spread_of(np.array([[1.0, 1.0], [0.99, 0.99]])) == 0.0  # the edge belongs to the last
    assert math.isnan(spread_of(np.empty((0, 2))))


def test_pairs_become_numbers():
    positions = _grid(4)
    pairs = LocalMatches(np.array([[0, 3], [15, 9]]), np.array([0.5, 0.7], np.float32))
    match = BARE.with_pairs(pairs, 16, positions)
    assert (match.local_matches, match.local_score) == (2, 0.125)
    assert match.mean_similarity == pytest.approx(0.6)
    assert match.spread == pytest.approx(0.25)
    assert math.isnan(BARE.with_pairs(pairs, 16, None).spread)


def test_nothing_matches():
    match = BARE.with_pairs(NO_MATCHES, 16, _grid(4))
    assert (match.local_matches, match.local_score) == (0, 0.0)
    assert math.isnan(match.mean_similarity)
    assert math.isnan(match.spread)
    assert math.isnan(match.inlier_score)


def test_inliers_count_as_a_share_of_all_local_features():
    pairs = LocalMatches(np.zeros((8, 2), int), np.ones(8, np.float32))
    seen = Geometry(FUNDAMENTAL, np.arange(8) < 6, 1.0)
    match = Match(KEYFRAME, 0, 0.9, 8, 0.5, geometry=seen, pairs=pairs)
    assert match.inlier_score == pytest.approx(0.375)
    assert math.isnan(BARE.inlier_score)
