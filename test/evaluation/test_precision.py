from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from selavpr_ros.evaluation.precision import judge_scores, precision_recall
from selavpr_ros.evaluation.recall import GLOBAL, Evaluation, Ranking
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.recordings.ground_truth import SamePlace


def test_a_case_by_hand():
    """Best answers 9 true, 8 true, 7 false, 6 true; five queries have a positive."""
    curve = precision_recall([7.0, 9.0, 6.0, 8.0], [False, True, True, True], 5)
    assert curve.thresholds.tolist() == [9.0, 8.0, 7.0, 6.0]
    assert curve.precision == pytest.approx([1, 1, 2 / 3, 3 / 4])
    assert curve.recall == pytest.approx([1 / 5, 2 / 5, 2 / 5, 3 / 5])
    assert curve.average_precision == pytest.approx(1 / 5 + 1 / 5 + 0 + 1 / 5 * 3 / 4)
    assert (curve.safe_recall, curve.safe_threshold) == (2 / 5, 8.0)


def test_answers_of_one_score_are_taken_together():
    curve = precision_recall([5.0, 5.0, 4.0], [True, False, True], 2)
    assert curve.thresholds.tolist() == [5.0, 4.0]
    assert curve.precision == pytest.approx([1 / 2, 2 / 3])
    assert (curve.safe_recall, curve.safe_threshold) == (0.0, np.inf)


def test_a_dip_does_not_come_back_to_precision_1():
    curve = precision_recall([3.0, 2.0, 1.0], [False, True, True], 2)
    assert curve.safe_recall == 0.0


def test_all_right():
    curve = precision_recall([0.9, 0.2], [True, True], 2)
    assert (curve.safe_recall, curve.safe_threshold, curve.average_precision) == (1.0, 0.2, 1.0)


def test_nothing_asked():
    curve = precision_recall([], [], 0)
    assert (curve.safe_recall, curve.safe_threshold, curve.average_precision) == (0.0, np.inf, 0)


@pytest.mark.parametrize('seed', range(5))
def test_it_is_what_scikit_learn_says(seed):
    random = np.random.default_rng(seed)
    true = random.random(200) < 0.4
    scores = np.round(random.normal(size=200) + true, 1)  # with ties
    curve = precision_recall(scores, true, int(true.sum()))
    precision, recall, thresholds = precision_recall_curve(true, scores)
    assert curve.thresholds == pytest.approx(thresholds[::-1])
    assert curve.precision == pytest.approx(precision[-2::-1])
    assert curve.recall == pytest.approx(recall[-2::-1])
    assert curve.average_precision == pytest.approx(
        average_precision_score(true, scores))


def test_queries_without_a_positive_can_only_be_wrong():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    asked = EvaluationSet('three', SamePlace(is_marked=True),
                          images, images.copy(), [[0], [1], []])
    found = {GLOBAL: [Ranking((0, 1), (0.9, 0.1)), Ranking((1, 0), (0.5, 0.4))]}
    without = Evaluation('model', asked, 2, found)
    assert judge_scores(without, GLOBAL).safe_recall == 1.0
    between = Evaluation('model', asked, 2, found, {GLOBAL: [Ranking((2, 0), (0.7, 0.6))]})
    curve = judge_scores(between, GLOBAL)
    assert (curve.safe_recall, curve.safe_threshold) == (0.5, 0.9)
