"""What speaks for a candidate, on pairs counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.maps.keyframe import Keyframe, KeyframeId
from selavpr_ros.matching.evidence import Match, overlap_of, spread_of
from selavpr_ros.matching.mutual import NO_MATCHES, LocalMatches

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
    assert match.overlap == 0.0


def _every(side: int, move: tuple[int, int] = (0, 0), zoom: float = 1.0) -> np.ndarray:
    """Pairs of all features whose match, moved and magnified, is still on the grid."""
    y, x = np.divmod(np.arange(side * side), side)
    to_y = np.round((y - side / 2) * zoom + side / 2).astype(int) + move[0]
    to_x = np.round((x - side / 2) * zoom + side / 2).astype(int) + move[1]
    inside = (to_y >= 0) & (to_y < side) & (to_x >= 0) & (to_x < side)
    return np.stack([np.arange(side * side), to_y * side + to_x], axis=1)[inside]


def test_overlap_is_1_of_an_image_with_itself_and_0_of_nothing():
    assert overlap_of(_every(9), _grid(9)) == 1.0
    assert overlap_of(np.empty((0, 2), int), _grid(9)) == 0.0
    assert overlap_of(np.array([[4, 7]]), _grid(9)) == 0.0  # one match has no neighbour


def test_overlap_is_the_share_that_is_seen_by_both():
    # Half of the columns are left: 4 of 9, and 4 / 9 of the neighbours, but for the seam.
    assert overlap_of(_every(9, (0, 5)), _grid(9)) == pytest.approx(0.40, abs=0.03)
    assert overlap_of(_every(20, (3, -2)), _grid(20)) == pytest.approx(0.85 * 0.9, abs=0.03)


def test_overlap_allows_for_scale():
    assert overlap_of(_every(30, zoom=1.3), _grid(30)) > 0.5
    assert overlap_of(_every(30, zoom=0.75), _grid(30)) > 0.95


def test_matches_by_chance_have_no_overlap():
    random = np.random.default_rng(0)
    pairs = np.stack([np.arange(900), random.permutation(900)], axis=1)[::3]
    assert overlap_of(pairs, _grid(30)) < 0.01


@pytest.mark.parametrize(('rows', 'columns'), [(7, 7), (4, 9), (9, 4), (1, 8)])
def test_overlap_is_what_counting_neighbours_gives(rows, columns):
    random = np.random.default_rng(rows)
    y, x = np.divmod(np.arange(rows * columns), columns)
    positions = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], axis=1)
    for _ in range(20):
        query = np.flatnonzero(random.random(rows * columns) < 0.8)
        there = random.permutation(rows * columns)[: len(query)]
        still = random.random(len(query)) < 0.5
        there = np.where(still & ~np.isin(query, there[~still]), query, there)
        move = {int(a): np.array([y[b] - y[a], x[b] - x[a]])
                for a, b in zip(query, there, strict=True)}
        beside = [(a, b) for a in range(rows * columns) for b in range(a)
                  if max(abs(y[a] - y[b]), abs(x[a] - x[b])) == 1]
        together = sum(a in move and b in move and np.abs(move[a] - move[b]).max() <= 1.5
                       for a, b in beside)
        found = overlap_of(np.stack([query, there], axis=1), positions)
        assert found == pytest.approx(together / len(beside))


def test_a_single_feature_has_no_neighbours():
    assert overlap_of(np.array([[0, 0]]), np.array([[0.5, 0.5]])) == 0.0


def test_a_grid_need_not_be_square():
    y, x = np.divmod(np.arange(12), 4)
    positions = np.stack([x / 4, y / 3], axis=1)
    pairs = np.stack([np.arange(12)] * 2, axis=1)
    assert overlap_of(pairs, positions) == 1.0
    assert overlap_of(pairs[:4], positions) == pytest.approx(3 / 29)


def test_the_score_is_the_best_evidence_there_is():
    assert BARE.score == pytest.approx(1.9)  # similarity alone, counted from -1
    assert [replace(BARE, similarity=s).score for s in (-1.0, -1.0001, math.nan)] == [0.0] * 3
    pairs = LocalMatches(np.array([[0, 0], [1, 1]]), np.ones(2, np.float32))
    assert BARE.with_pairs(pairs, 16, None).score == 0.125
    assert BARE.with_pairs(pairs, 16, _grid(4)).score == pytest.approx(1 / 42)
