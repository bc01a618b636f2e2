"""Stage 3: the map and its search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selavpr_ros.errors import MapError
from selavpr_ros.keyframe_map import Keyframe, KeyframeId, KeyframeMap

SECOND = 1_000_000_000


def _unit_rows(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _keyframe(number: int, descriptor: np.ndarray, session: int = 1) -> Keyframe:
    """Keyframe n at n seconds, after n / 2 metres."""
    return Keyframe(KeyframeId(session, number), number * SECOND, descriptor,
                    torch.zeros(10, 4, dtype=torch.float16), None, number * 0.5)


@pytest.fixture
def filled() -> KeyframeMap:
    keyframe_map = KeyframeMap()
    for number, row in enumerate(_unit_rows(100), start=1):
        keyframe_map.add(_keyframe(number, row))
    return keyframe_map


def test_search_equals_the_exhaustive_formula(filled):
    query = _unit_rows(1, seed=5)[0]
    similarities = _unit_rows(100) @ query
    found = filled.search(query, top_k=7)
    assert [r.keyframe.id.keyframe_id - 1 for r in found] == np.argsort(-similarities)[:7].tolist()
    assert [r.rank for r in found] == list(range(7))
    np.testing.assert_allclose(
        [r.similarity for r in found], np.sort(similarities)[::-1][:7], atol=1e-6)


def test_a_keyframe_finds_itself_first(filled):
    for keyframe in filled:
        best = filled.search(keyframe.global_descriptor, top_k=1)[0]
        assert best.keyframe is keyframe
        assert best.similarity == pytest.approx(1, abs=1e-6)


def test_empty_map_and_nothing_old_enough(filled):
    query = _unit_rows(1)[0]
    assert KeyframeMap().search(query, top_k=5) == []
    assert filled.search(query, top_k=5, among_first=0) == []


def test_fewer_keyframes_than_asked(filled):
    found = filled.search(_unit_rows(1, seed=3)[0], top_k=20, among_first=4)
    assert sorted(r.keyframe.id.keyframe_id for r in found) == [1, 2, 3, 4]


@pytest.mark.parametrize(('keyframes', 'seconds', 'metres', 'expected'), [
    (0, 0.0, 0.0, 100),
    (20, 0.0, 0.0, 80),
    (0, 30.0, 0.0, 70),  # the query is at second 101: up to second 71 is 30 s or more ago
    (0, 0.0, 10.0, 80),  # and at 50.5 m: up to 40.5 m
    (20, 30.0, 10.0, 70),
    (200, 0.0, 0.0, 0),
])
def test_recent_keyframes_are_excluded(filled, keyframes, seconds, metres, expected):
    count = filled.first_recent(1, 101 * SECOND, 50.5, keyframes, seconds, metres)
    assert count == expected


def test_other_sessions_are_never_recent(filled):
    filled.add(_keyframe(1, _unit_rows(1)[0], session=2))
    assert filled.first_recent(2, 2 * SECOND, 1.0, 20, 30.0, 10.0) == 100
    assert filled.first_recent(3, 0, 0.0, 20, 30.0, 10.0) == 101


def test_ids_stay_and_are_found(filled):
    assert filled[KeyframeId(1, 42)].stamp_ns == 42 * SECOND
    assert str(filled.newest.id) == '1:100'
    with pytest.raises(MapError, match='no keyframe 2:1 in a map of 100'):
        filled[KeyframeId(2, 1)]


def test_ids_must_grow(filled):
    with pytest.raises(MapError, match='keyframe 1:100 comes after 1:100'):
        filled.add(_keyframe(100, _unit_rows(1)[0]))
    assert len(filled) == 100


def test_another_model_is_refused(filled):
    with pytest.raises(MapError, match='length 16 in a map of 32: another model'):
        filled.add(_keyframe(101, _unit_rows(1, dim=16)[0]))
    assert len(filled) == 100


def test_bytes_are_counted(filled):
    per_keyframe = 32 * 4 + 32 * 2 + 10 * 4 * 2  # float32, its float16 in the index, local float16
    assert filled.nbytes == 100 * per_keyframe
