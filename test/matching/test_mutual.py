"""Mutual nearest neighbours against the published scores and against the plain formula."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch.nn import functional

from selavpr_ros.maps.local_codec import encode
from selavpr_ros.matching import mutual
from selavpr_ros.matching.mutual import (
    binary_similarity,
    count_encoded_matches,
    count_mutual_matches,
    match_encoded,
    mutual_matches,
    mutual_matches_binary,
    rank_by_matches,
)

SELAVPR_CASES = [
    'random_16x16x32_k10', 'nonsquare_7x9x16_k4', 'full_61x61x128_k3_seed13',
    'three_identical_candidates_tie', 'reversed_copy', 'duplicate_query_rows_first_index_wins']
FOL_CASES = ['random_300x16_pad25_k8', 'full_3600x128_pad231_k3_seed32', 'around_threshold_0.7',
             'all_below_threshold']


def plain_counts(query: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """The formula, all at once."""
    similarities = torch.einsum('nd,kmd->knm', query, matches)
    nearest_match, nearest_query = similarities.argmax(2), similarities.argmax(1)
    back = nearest_query.gather(1, nearest_match)
    return (back == torch.arange(len(query))).sum(1)


def _case(shared, file: str, name: str):
    golden = torch.load(shared / 'goldens' / file, weights_only=False)[name]
    if 'q' in golden:
        return golden, golden['q'], golden['cands']
    spec = importlib.util.spec_from_file_location('cases', shared / 'goldens' / 'cases.py')
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    return golden, *cases.make_case(**golden['gen'])


@pytest.mark.parametrize('name', SELAVPR_CASES)
def test_equals_the_published_scores_and_order(shared, name):
    golden, query, candidates = _case(shared, 'selavpr_rerank.pt', name)
    counts = count_mutual_matches(query, candidates)
    assert counts.dtype == torch.int64
    assert counts.tolist() == golden['scores'].tolist()
    assert rank_by_matches(counts).tolist() == golden['stable_order'].tolist()


@pytest.mark.parametrize('name', FOL_CASES)
def test_threshold_equals_the_published_scores(shared, name):
    golden, query, candidates = _case(shared, 'fol_rerank.pt', name)
    assert count_mutual_matches(query, candidates, 0.7).tolist() == golden['scores'].tolist()


def test_exactly_one_match_counts_one(shared):
    golden, query, candidates = _case(shared, 'selavpr_rerank.pt', 'exactly_one_match_scores_zero')
    assert golden['scores'].tolist() == [0]  # the published code loses it
    assert count_mutual_matches(query, candidates).tolist() == [1]


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize('tile_bytes', [1, 4 * 90 * 7, 1 << 20])
def test_tiles_do_not_change_the_counts(monkeypatch, tile_bytes):
    monkeypatch.setattr(mutual, '_TILE_BYTES', {'cpu': tile_bytes})
    query, matches = _unit(83, 8), _unit(5, 90, 8, seed=1)
    assert count_mutual_matches(query, matches).tolist() == plain_counts(query, matches).tolist()


def test_first_index_wins_ties_across_tiles(monkeypatch):
    monkeypatch.setattr(mutual, '_TILE_BYTES', {'cpu': 4 * 2})  # tiles of one row
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    match = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert mutual_matches(query, match).tolist() == [[0, 0], [2, 1]]


def test_pairs_are_found_again_after_a_permutation():
    query = _unit(50, 16)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    pairs = mutual_matches(query, query[order])
    assert len(pairs) == 50
    assert (order[pairs[:, 1]] == pairs[:, 0]).all()


def test_candidates_of_different_lengths_and_float16():
    query = _unit(40, 16)
    counts = count_mutual_matches(query, [query[:30].half(), query.half(), query[:0].half()])
    assert counts.tolist() == [30, 40, 0]


def test_nothing_to_compare():
    assert count_mutual_matches(_unit(4, 8), torch.empty(0, 5, 8)).shape == (0,)
    assert count_mutual_matches(torch.empty(0, 8), _unit(2, 5, 8)).tolist() == [0, 0]
    assert rank_by_matches(torch.empty(0, dtype=torch.int64)).tolist() == []


def test_ties_keep_the_retrieval_rank():
    assert rank_by_matches(torch.tensor([3, 9, 3, 9, 3])).tolist() == [1, 3, 0, 2, 4]


def test_temporary_memory_does_not_grow_with_the_candidates():
    query = _unit(3721, 32)
    script_peak = []
    for candidates in (1, 12):
        with torch.profiler.profile(profile_memory=True) as profile:
            count_mutual_matches(query, query.expand(candidates, -1, -1))
        live = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == '[memory]':
                live += event.nbytes()
                peak = max(peak, live)
        script_peak.append(peak)
    assert 0 < script_peak[1] < 256 << 20
    assert script_peak[1] < 2 * script_peak[0]


def _signs(count, bits=128, seed=0):
    return np.packbits(np.random.default_rng(seed).random((count, bits)) > 0.5, axis=1)


def _plain_binary(query, match, limit):
    """The formula, all at once."""
    distance = (np.unpackbits(query, axis=1)[:, None] != np.unpackbits(match, axis=1)[None]).sum(2)
    nearest, back = distance.argmin(1), distance.argmin(0)
    return [(i, j) for i, j in enumerate(nearest.tolist())
            if distance[i, j] < limit and distance[:, j].min() == distance[i, j]
            and (back[j] == i or nearest[back[j]] != j)]


def test_binary_pairs_equal_the_plain_formula():
    query, match = _signs(300), _signs(280, seed=1)
    match[:100] = query[50:150]  # equal
    match[100:150, 0] = query[200:250, 0]
    for min_similarity, limit in ((0.55, 28.8), (0.2, 51.2), (-1.0, 129)):
        pairs = mutual_matches_binary(query, match, min_similarity).pairs
        assert pairs.tolist() == [list(p) for p in _plain_binary(query, match, limit)]
    assert len(mutual_matches_binary(query, match)) == 100


def test_equal_binary_features_count_once():
    query = np.repeat(_signs(1), 200, axis=0)
    assert mutual_matches_binary(query, query).pairs.tolist() == [[0, 0]]
    assert len(mutual_matches_binary(query[:0], query)) == 0
    assert len(mutual_matches_binary(query, query[:0])) == 0


@pytest.mark.parametrize('codec', ['float16', 'int8', 'binary'])
def test_encoded_candidates_count_as_they_are_kept(codec):
    query, other = _unit(300, 128), _unit(300, 128, seed=1)
    near = functional.normalize(query + 0.03 * _unit(300, 128, seed=2), dim=1)
    candidates = [encode(near, codec), None, encode(other, codec), encode(query[:0], codec)]
    counts = count_encoded_matches(query, candidates)
    assert counts.dtype == torch.int64
    assert counts[0] == 300
    assert counts[1] == counts[3] == 0
    assert counts[2] < (5 if codec == 'binary' else 200)


@pytest.mark.parametrize('codec', ['float16', 'int8', 'binary'])
def test_pairs_of_encoded_candidates_have_the_cosine_of_their_features(codec):
    query = _unit(300, 128)
    near = functional.normalize(query + 0.03 * _unit(300, 128, seed=2), dim=1)
    near = near[torch.randperm(300, generator=torch.Generator().manual_seed(3))]
    found, nothing = match_encoded(query, [encode(near, codec), None])
    cosine = (query[found.pairs[:, 0]] * near[found.pairs[:, 1]]).sum(1)
    assert len(found) == 300
    assert len(nothing.pairs) == len(nothing.similarity) == 0
    # A sign tells a cosine of 0.95 to 0.04.
    assert np.abs(found.similarity - cosine.numpy()).max() < (0.2 if codec == 'binary' else 2e-3)
    assert abs(found.similarity.mean() - cosine.mean()) < 0.01


def test_a_threshold_of_cosines_becomes_one_of_signs():
    assert binary_similarity(1.0) == 1.0
    assert binary_similarity(0.0) == pytest.approx(0.0)
    assert binary_similarity(0.5) == pytest.approx(1 / 3)
    query = _unit(300, 128)
    near = functional.normalize(query + 0.2 * _unit(300, 128, seed=2), dim=1)  # cosine 0.98
    encoded = [encode(near, 'binary')]
    assert count_encoded_matches(query, encoded, 0.8)[0] == 300
    assert count_encoded_matches(query, encoded, 0.9999)[0] == 0
