"""What chance does, learned from candidates that are elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.unrelated import LEAST_RATIO, MOST_RATIO, Spread, Unrelated

ELSEWHERE = np.array([False, *[True] * 19])


def query(best: float, level: float, seed: int = 0) -> np.ndarray:
    """(20,) scores: the best, and others around the level, a tenth of it apart."""
    rest = level * (1.0 + 0.1 * np.random.default_rng(seed).standard_normal(19))
    return np.array([best, *rest])


def learned(level: float, queries: int = 60) -> Unrelated:
    found = Unrelated()
    for seed in range(queries):
        _, found = found.standardise(query(1.2 * level, level, seed), ELSEWHERE)
    return found


@pytest.mark.parametrize('level', [0.012, 0.2, 1.9])
def test_the_level_and_its_deviation_are_learned(level):
    found = learned(level)
    assert found.level == pytest.approx(level, rel=0.05)
    assert np.sqrt(found.within.mean) == pytest.approx(0.1, abs=0.03)
    assert found.queries == 60


def test_a_score_counts_by_its_deviations_whatever_the_scale():
    small, large = learned(0.02), learned(0.4)
    for times in (1.0, 1.5, 3.0):
        one = small.standardise(query(0.02 * times, 0.02, 7), ELSEWHERE)[0]
        other = large.standardise(query(0.4 * times, 0.4, 7), ELSEWHERE)[0]
        np.testing.assert_allclose(one, other, rtol=0.15, atol=0.3)


def test_it_follows_a_change_of_light():
    found = learned(0.02)
    for seed in range(200):
        _, found = found.standardise(query(0.05, 0.04, seed), ELSEWHERE)
    assert found.level == pytest.approx(0.04, rel=0.1)


def test_a_query_of_much_structure_has_a_level_of_its_own():
    found = learned(0.02)
    usual = found.standardise(query(0.04, 0.02), ELSEWHERE)[0][0]
    rich = found.standardise(query(0.04, 0.035), ELSEWHERE)[0][0]
    assert rich < 0.5 * usual


def test_without_candidates_elsewhere_the_usual_level_counts_and_nothing_is_learned():
    found = learned(0.02)
    deviations, after = found.standardise(np.array([0.2, 0.19]), np.array([False, False]))
    assert (deviations > 10.0).all()
    assert after == found


def test_ratios_rise_with_the_score_and_stay_in_bounds():
    ratios = Unrelated().ratios(np.linspace(-5.0, 60.0, 400))
    assert (np.diff(ratios) >= -1e-9).all()
    assert LEAST_RATIO <= ratios.min() < 0.5
    assert 20.0 < ratios.max() <= MOST_RATIO


@pytest.mark.parametrize('scores', [np.zeros(20), np.full(20, 0.3), np.full(20, 1.0)])
def test_scores_that_are_all_the_same_speak_for_nothing(scores):
    found = Unrelated()
    for _ in range(5):
        deviations, found = found.standardise(scores, ELSEWHERE)
    assert (found.ratios(deviations) <= 1.0).all()


def test_the_best_of_new_places_is_learned_and_a_true_one_is_not():
    found = Unrelated()
    for _ in range(400):
        found = found.learn_best(5.0, 1.0, 1.0)
    assert found.best.mean > 4.0
    assert found.ratios(np.array([5.0]))[0] < Unrelated().ratios(np.array([5.0]))[0]
    revisit = Unrelated()
    for _ in range(400):
        revisit = revisit.learn_best(20.0, MOST_RATIO, 0.02)
    assert revisit.best.mean == pytest.approx(Unrelated().best.mean, abs=0.1)


def test_a_spread_has_the_mean_and_variance_of_its_samples():
    samples = np.random.default_rng(1).normal(3.0, 2.0, 200)
    found = Spread(0.0, 0.0, 0.0)
    for sample in samples:
        found = found.add(sample, 1.0, memory=1e9)
    assert found.mean == pytest.approx(samples.mean())
    assert found.variance == pytest.approx(samples.var())
    assert found.add(float('nan'), 1.0, 10.0) == found


def test_it_survives_the_way_into_a_file_and_back():
    found = learned(0.03)
    assert Unrelated.from_json(found.to_json()) == found


@pytest.mark.parametrize('text', [
    '', 'no json', '{}', '[1]', '{"level": 1}',
    replace(Unrelated(), level=float('nan')).to_json(),
    json.dumps({**json.loads(Unrelated().to_json()), 'within': {'mean': 'x'}}),
    replace(Unrelated(), within=Spread(1.0, 0.0, 0.0)).to_json(),
    replace(Unrelated(), level=-1.0).to_json()])
def test_what_is_damaged_is_refused(text):
    with pytest.raises(ValueError, match='.'):
        Unrelated.from_json(text)
