"""A calibration of evidence whose probability is known."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.calibration import FEATURES
from selavpr_ros.errors import CalibrationError
from selavpr_ros.evaluation.calibrate import (
    Samples,
    calibrate,
    fit_models,
    hold_out,
    predict,
    samples_of_set,
)
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.models import load_model


def _samples(seed: int = 0, count: int = 4000, **changes: np.ndarray) -> Samples:
    """Candidates that are true with P = 1 / (1 + exp(4 - 10 local_score))."""
    random = np.random.default_rng(seed)
    score = random.uniform(0.0, 1.0, count)
    is_true = random.random(count) < 1.0 / (1.0 + np.exp(4.0 - 10.0 * score))
    columns = {'similarity': random.uniform(0.5, 1.0, count), 'local_score': score,
               'mean_similarity': random.uniform(0.6, 0.9, count),
               'inlier_score': np.where(np.arange(count) % 20 < 3, score * 0.8, np.nan)}
    columns.update(changes)
    evidence = np.stack([columns[name] for name in FEATURES], axis=1)
    return Samples(f'town {seed}', evidence, is_true, np.arange(count) // 20)


def test_the_law_behind_the_data_is_found():
    samples = _samples()
    rich, poor, *poorest = fit_models([samples])
    assert set(rich.coefficients) <= set(FEATURES)
    assert poor.coefficients['local_score'] == pytest.approx(10.0, abs=0.6)
    assert poor.probability(dict(zip(FEATURES, [0.7, 0.4, 0.75, np.nan], strict=True))) == (
        pytest.approx(0.5, abs=0.05))
    assert len(poorest) <= 1  # similarity tells nothing here


def test_held_out_probabilities_come_true():
    for samples in ([_samples()], [_samples(1), _samples(2), _samples(3)]):
        found = hold_out(samples)
        assert found.counts.sum() == sum(map(len, samples))
        assert found.expected_calibration_error < 0.03


def test_evidence_that_counts_against_a_place_is_left_out():
    samples = _samples()
    against = _samples(mean_similarity=-samples.evidence[:, 1])
    for model in fit_models([against]):
        assert 'mean_similarity' not in model.coefficients
        assert min(model.coefficients.values()) >= 0.0


def test_truth_that_is_upside_down_is_refused():
    samples = _samples(**{name: np.linspace(1.0, 0.0, 4000) for name in FEATURES})
    rising = Samples('odd', samples.evidence, np.arange(4000) > 2000, samples.query)
    with pytest.raises(CalibrationError, match='is higher for the same place: is the truth right'):
        fit_models([rising])


def test_too_few_candidates_are_no_probabilities():
    with pytest.raises(CalibrationError, match=r'\d+ true and \d+ false candidates: at least 20'):
        fit_models([_samples(count=30)])


def test_systems_without_local_features():
    nothing = np.full(4000, np.nan)
    samples = _samples(similarity=_samples().evidence[:, 1], local_score=nothing,
                       mean_similarity=nothing, inlier_score=nothing)
    calibration, found = calibrate('salad/1/2', 'none', [samples])
    model, = calibration.models
    assert model.coefficients == {'similarity': pytest.approx(10.0, abs=0.6)}
    assert np.isnan(calibration.unrelated_score)
    assert found.expected_calibration_error < 0.03


def test_a_calibration_says_what_it_is_made_of():
    samples = [_samples(1), _samples(2)]
    calibration, found = calibrate('hog/1/2', 'float16', samples)
    assert calibration.provenance == 'town 1 (4000 candidates), town 2 (4000 candidates)'
    false = np.concatenate([each.evidence[~each.is_true, 1] for each in samples])
    assert calibration.unrelated_score == pytest.approx(false.mean())
    told = calibration.reliability
    assert told['held_out'] == 'each recording once'
    assert told['candidates'] == 8000
    assert told['expected_calibration_error'] == pytest.approx(
        found.expected_calibration_error, abs=1e-4)


def test_what_is_not_known_has_no_probability():
    nothing = np.full(200, np.nan)
    samples = _samples(count=200, similarity=nothing, local_score=nothing)
    assert np.isnan(predict(fit_models([_samples()]), samples)).all()


def test_candidates_of_image_folders():
    model = load_model('hog', image_size=(120, 160))
    random = np.random.default_rng(0)
    places = [random.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(6)]
    asked = EvaluationSet(
        'places', 'equal', places, places[:3], [[0], [1], [2]])
    samples = samples_of_set(model, asked, 'float16', 4)
    assert len(samples) == 12
    assert samples.is_true.sum() == 3
    scores = samples.evidence[:, FEATURES.index('local_score')]
    assert scores[samples.is_true].min() > 0.9
    assert scores[~samples.is_true].max() < 0.6
    looked = np.isfinite(samples.evidence[:, FEATURES.index('inlier_score')])
    assert looked.sum() == 9  # the three best of each query
