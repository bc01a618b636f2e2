from __future__ import annotations

import io
import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from selavpr_ros.evaluation.reliability import draw_reliability, reliability


def test_a_case_by_hand():
    """In fifths: 0.1 false and 0.2 true, then 0.5, 0.5 and 0.6 of which one is true, 1.0 true."""
    found = reliability([0.5, 0.1, 1.0, 0.5, 0.2, 0.6], [True, False, True, False, True, False], 5)
    assert found.edges == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found.counts.tolist() == [2, 0, 3, 0, 1]
    assert found.probability == pytest.approx([0.15, np.nan, 1.6 / 3, np.nan, 1.0], nan_ok=True)
    assert found.share_true == pytest.approx([0.5, np.nan, 1 / 3, np.nan, 1.0], nan_ok=True)
    gaps = 2 * (0.5 - 0.15) + 3 * (1.6 / 3 - 1 / 3) + 1 * 0.0
    assert found.expected_calibration_error == pytest.approx(gaps / 6)


def test_borders_belong_to_the_bin_below():
    assert reliability([0.0, 0.5, 1.0], [True] * 3, 2).counts.tolist() == [2, 1]


def test_nothing_promised():
    found = reliability([], [])
    assert found.counts.tolist() == [0] * 10
    assert math.isnan(found.expected_calibration_error)


@pytest.mark.parametrize('seed', range(4))
def test_it_is_what_scikit_learn_says(seed):
    random = np.random.default_rng(seed)
    probabilities = np.round(random.random(300), 2)  # many on the borders of bins
    is_true = random.random(300) < probabilities**2
    found = reliability(probabilities, is_true, 10)
    share_true, probability = calibration_curve(is_true, probabilities, n_bins=10)
    filled = found.counts > 0
    assert found.share_true[filled] == pytest.approx(share_true)
    assert found.probability[filled] == pytest.approx(probability)
    assert found.expected_calibration_error == pytest.approx(
        np.sum(np.abs(share_true - probability) * found.counts[filled]) / 300)


def test_the_picture_shows_the_filled_bins():
    figure = draw_reliability(reliability([0.05, 0.15, 0.95], [False, True, True]))
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == [0.0, 1.0, 1.0]
    assert [bar.get_height() for bar in lower.patches][:3] == [1, 1, 0]
    assert upper.get_title() == 'Expected calibration error 0.317'
    figure.savefig(io.BytesIO())


def test_the_picture_without_answers():
    draw_reliability(reliability([], [])).savefig(io.BytesIO())
