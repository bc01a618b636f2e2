"""What a score is worth as a gate: precision and recall over every threshold.

Every query's best answer is taken if its score reaches the threshold. It is true if it is a
positive; a query without any positive, e.g. of a first lap, can only be answered wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from selavpr_ros.evaluation.recall import Evaluation


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall by threshold, from the highest one down.

    Attributes:
        thresholds: (T,) decreasing: the scores themselves.
        precision: (T,) true answers / all answers whose score reaches the threshold.
        recall: (T,) true answers / queries that have a positive.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def average_precision(self) -> float:
        """Area under the curve, by steps: sum of (R_n - R_(n-1)) P_n."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    @property
    def safe_recall(self) -> float:
        """Maximum recall at 100 % precision: what is found before the first false answer."""
        return float(self.recall[self.precision == 1.0].max(initial=0.0))

    @property
    def safe_threshold(self) -> float:
        """The lowest threshold without a false answer; infinity where there is none."""
        return float(self.thresholds[self.precision == 1.0].min(initial=np.inf))


def precision_recall(
    scores: Sequence[float], is_true: Sequence[bool], answerable: int
) -> PrecisionRecall:
    """Go through all thresholds; answers of the same score are taken together.

    Args:
        scores: (Q,) score of every query's best answer.
        is_true: (Q,) whether this answer is a positive.
        answerable: how many queries have a positive.
    """
    order = np.argsort(-np.asarray(scores, float), kind='stable')
    sorted_scores = np.asarray(scores, float)[order]
    true = np.cumsum(np.asarray(is_true, bool)[order])
    last = np.flatnonzero(np.diff(sorted_scores, append=-np.inf) != 0.0)
    taken = last + 1
    return PrecisionRecall(
        sorted_scores[last], true[last] / taken, true[last] / max(answerable, 1))


def judge_scores(evaluation: Evaluation, way: str) -> PrecisionRecall:
    """The curve of one way of ordering, over all queries that were asked."""
    asked = evaluation.evaluation_set
    best = [(ranking, asked.positives[query]) for query, ranking in zip(
        asked.answerable, evaluation.rankings[way], strict=True)]
    best += [(ranking, []) for ranking in evaluation.unanswerable.get(way, ())]
    return precision_recall(
        [ranking.scores[0] for ranking, _ in best],
        [ranking.database[0] in positives for ranking, positives in best],
        len(asked.answerable))
