"""What chance does, learned from candidates that are elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.decision.unrelated import (
    FREAK_AGAIN,
    LEAST_RATIO,
    LOST_SHARE,
    MOST_RATIO,
    USUAL_MATCHES,
    USUAL_OVERLAP,
    USUAL_SIMILARITY,
    Spread,
    Unrelated,
)

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


def test_deviations_by_hand():
    # Level 0.05, (0.25)^2 between queries and (0.15)^2 within.
    nothing = np.zeros(1, bool)
    deviations, _ = Unrelated().standardise(np.array([0.1]), nothing)
    assert deviations[0] == pytest.approx(1.0 / np.sqrt(0.0625 + 0.2 + 0.0225))
    # Six at 0.06 tell as much as two alone: 2 / 0.0225 against 1 / (0.0625 + 0.2), for how large
    # the usual level is is not known yet.
    trust, prior = 2.0 / 0.0225, 1.0 / 0.2625
    variance = 1.0 / (prior + trust)
    level = (prior * 0.05 + trust * 0.06) * variance
    deviations, after = Unrelated().standardise(
        np.array([0.1, *[0.06] * 6]), np.array([False, *[True] * 6]))
    assert deviations[0] == pytest.approx((0.1 / level - 1.0) / np.sqrt(0.0225 + variance))
    assert (after.level, after.queries) == (pytest.approx(0.06), 1.0)
    assert after.within.mean == pytest.approx(0.0225 * 40.0 / 45.0)  # 5 degrees of freedom of none
    assert after.between.mean == pytest.approx((10.0 * 0.0625 + 0.2**2) / 11.0)


def test_a_copy_of_the_place_is_no_part_of_the_level():
    found, copies = learned(0.02), np.array([0.2, *[0.2] * 3, *query(0.0, 0.02)[1:17]])
    _, after = found.standardise(copies, ELSEWHERE)
    assert after.level < 1.02 * found.level
    assert found.standardise(copies, ELSEWHERE)[0][0] > 10.0


def test_no_candidates_are_no_error():
    deviations, after = Unrelated().standardise(np.empty(0), np.empty(0, bool))
    assert (deviations.shape, after) == ((0,), Unrelated())
    assert Unrelated().ratios(np.empty(0)).shape == (0,)


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


@pytest.mark.parametrize('best', [2.0, 3.5, 5.0])
def test_ratios_rise_whatever_the_best_of_new_places_were(best):
    found = Unrelated()
    for seed in range(300):
        found = found.learn_best(best + np.random.default_rng(seed).normal(), 1.0)
    ratios = found.ratios(np.linspace(-5.0, 60.0, 400))
    assert (np.diff(ratios) >= -1e-9).all()
    assert (ratios >= LEAST_RATIO).all()
    assert (ratios <= MOST_RATIO).all()


@pytest.mark.parametrize(('level', 'score'), [
    (USUAL_OVERLAP, 0.0), (USUAL_OVERLAP, 0.05), (USUAL_OVERLAP, 0.1), (USUAL_MATCHES, 0.0),
    (USUAL_MATCHES, 1.0), (USUAL_SIMILARITY, 1.0), (USUAL_SIMILARITY, 2.0)])
def test_a_network_that_tells_nothing_never_speaks_for_a_place(level, score):
    found = Unrelated(level=level)
    for _ in range(100):
        deviations, found = found.standardise(np.full(20, score), ELSEWHERE)
        ratios = found.ratios(deviations)
        assert (ratios <= 1.0).all()
        found = found.learn_best(float(deviations[0]), 1.0)


@pytest.mark.parametrize('scores', [np.zeros(20), np.full(20, 0.3), np.full(20, 1.0)])
def test_scores_that_are_all_the_same_speak_for_nothing(scores):
    found = Unrelated()
    for _ in range(5):
        deviations, found = found.standardise(scores, ELSEWHERE)
    assert (found.ratios(deviations) <= 1.0).all()


def test_the_best_of_new_places_is_learned_and_a_true_one_is_not():
    found = Unrelated()
    for _ in range(400):
        found = found.learn_best(5.0, 1.0)
    assert found.best.mean > 4.0
    assert found.ratios(np.array([5.0]))[0] < Unrelated().ratios(np.array([5.0]))[0]
    revisit = Unrelated()
    for _ in range(400):
        revisit = revisit.learn_best(20.0, 1.0)  # before the filter knows
    assert revisit.best.mean == pytest.approx(Unrelated().best.mean, abs=0.1)
    assert revisit.best.variance == pytest.approx(Unrelated().best.variance, rel=0.1)


def test_what_looked_like_the_view_before_tells_little_when_it_does_again():
    found = Unrelated()
    deviations = np.array([20.0, 20.0, 20.0, 0.0])
    first, half, again, nothing = found.ratios(deviations, np.array([0.0, 0.5, 1.0, 1.0])).tolist()
    assert first > 10.0 > half > again > 1.0
    assert again == pytest.approx((1.0 - LOST_SHARE) / FREAK_AGAIN, rel=0.01)
    assert nothing < 1.0
    np.testing.assert_allclose(found.looks(deviations), [1.0, 1.0, 1.0, 0.0], atol=0.02)


def test_a_spread_has_the_mean_and_variance_of_its_samples():
    samples = np.random.default_rng(1).normal(3.0, 2.0, 200)
    found = Spread(0.0, 0.0, 0.0)
    for sample in samples:
        found = found.add(sample, 1.0, memory=1e9)
    assert found.mean == pytest.approx(samples.mean())
    assert found.variance == pytest.approx(samples.var())
    assert found.add(float('nan'), 1.0, 10.0) == found
    assert found.add(1.0, 0.0, 10.0) == found


def test_what_is_old_fades():
    found = Spread(100.0, 0.0, 0.0).add(11.0, 1.0, memory=10.0)
    assert found == Spread(11.0, pytest.approx(1.0), pytest.approx(10.0))  # 1 of 11


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


def test_what_is_not_known_yet_counts_for_less():
    """At the start of a map nothing is elsewhere, and a score of five levels may be chance."""
    nothing = np.zeros(1, bool)
    seen = [float(replace(Unrelated(), queries=queries).standardise(
        np.array([5.0 * USUAL_OVERLAP]), nothing)[0][0]) for queries in (0.0, 3.0, 30.0, 1000.0)]
    assert seen == sorted(seen)
    assert seen[0] < 0.6 * seen[-1]
