"""Fit what a model's evidence means, and measure on data held out whether it is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from selavpr_ros.calibration import FEATURES, Calibration, LogisticModel, evidence_of
from selavpr_ros.errors import CalibrationError
from selavpr_ros.evaluation.recall import (
    describe,
    described_queries,
    look_closer,
    retrieve,
)
from selavpr_ros.evaluation.reliability import Reliability, reliability
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.models import VprModel
from selavpr_ros.replay.ground_truth import GroundTruth
from selavpr_ros.replay.records import Run

# Evidence that models may use, the richest first: geometry is looked at for few candidates.
KNOWN = (FEATURES, ('similarity', 'local_score', 'mean_similarity'), ('similarity',))
LEAST = 20  # true and false candidates each; fewer say nothing about probabilities
FOLDS = 5  # of a single recording
WEAK_PENALTY = 100.0  # scikit-learn's C: where classes separate, the slope stays finite


@dataclass(frozen=True, eq=False)
class Samples:
    """Candidates of which the truth is known.

    Attributes:
        name: of the recording.
        evidence: (N, 4) columns FEATURES, NaN where unknown.
        is_true: (N,) bool.
        query: (N,) which query asked, in order of time.
    """

    name: str
    evidence: np.ndarray
    is_true: np.ndarray
    query: np.ndarray

    def __len__(self) -> int:
        return len(self.is_true)


def _samples(name: str, rows: Sequence[tuple[dict[str, float], bool, int]]) -> Samples:
    table = [[evidence[feature] for feature in FEATURES] for evidence, _, _ in rows]
    return Samples(name, np.array(table, float).reshape(-1, len(FEATURES)),
                   np.array([true for _, true, _ in rows], bool),
                   np.array([query for _, _, query in rows], int))


# ---- where they come from -----------------------------------------------------------------------


def samples_of_run(name: str, run: Run, truth: GroundTruth) -> Samples:
    """All candidates of a replayed recording; those without truth are left out."""
    rows = []
    for number, query in enumerate(run.queries):
        stamps_ns = [candidate.match_stamp_ns for candidate in query.candidates]
        for candidate, same in zip(
                query.candidates, truth.same_places(query.stamp_ns, stamps_ns), strict=True):
            if same is not None:
                evidence = {feature: getattr(candidate, feature) for feature in FEATURES}
                rows.append((evidence, same, number))
    return _samples(name, rows)


@torch.inference_mode()
def samples_of_set(
    model: VprModel, asked: EvaluationSet, codec: str, top_k: int, *, progress: bool = False
) -> Samples:
    """All candidates of a set of images; see `recall.evaluate` for the arguments and errors."""
    database = describe(model, asked.database, codec=codec, progress=progress)
    queries = sorted((*asked.answerable, *asked.unanswerable))
    rows = []
    bar = tqdm(described_queries(model, asked, database, queries), total=len(queries),
               desc='searching', unit='query', leave=False, disable=not progress)
    for query, global_descriptor, local in bar:
        ranking = retrieve(
            database.global_descriptors @ global_descriptor, asked.comparable(query), top_k)
        rows += [
            (evidence_of(match), match.keyframe.id.keyframe_id in asked.positives[query], query)
            for match in look_closer(model, database, ranking, local)]
    return _samples(asked.name, rows)


# ---- the fit ------------------------------------------------------------------------------------


def _fit_one(
    features: Sequence[str], evidence: np.ndarray, is_true: np.ndarray
) -> LogisticModel | None:
    """Logistic regression; a feature that would count against a place is left out."""
    from sklearn.linear_model import LogisticRegression

    chosen = list(features)
    while chosen:
        columns = evidence[:, [FEATURES.index(name) for name in chosen]]
        middle, scale = columns.mean(0), columns.std(0) + 1e-9
        fitted = LogisticRegression(C=WEAK_PENALTY, max_iter=1000).fit(
            (columns - middle) / scale, is_true)
        slopes = fitted.coef_[0] / scale
        if (slopes >= 0.0).all():
            intercept = float(fitted.intercept_[0] - slopes @ middle)
            return LogisticModel(dict(zip(chosen, slopes.tolist(), strict=True)), intercept)
        del chosen[int(np.argmin(fitted.coef_[0]))]
    return None


def fit_models(samples: Sequence[Samples]) -> list[LogisticModel]:
    """A model for each set of evidence that may be known, the richest first.

    Raises:
        CalibrationError: too few candidates, or none of the evidence speaks for a place.
    """
    evidence = np.concatenate([each.evidence for each in samples])
    is_true = np.concatenate([each.is_true for each in samples])
    models: list[LogisticModel | None] = []
    for features in KNOWN:
        columns = [FEATURES.index(name) for name in features]
        known = np.isfinite(evidence[:, columns]).all(1)
        true, false = int(is_true[known].sum()), int((~is_true[known]).sum())
        if min(true, false) >= LEAST:
            models.append(_fit_one(features, evidence[known], is_true[known]))
    if not models:
        raise CalibrationError(
            f'{int(is_true.sum())} true and {int((~is_true).sum())} false candidates: at least '
            f'{LEAST} of both are needed; take a longer recording that comes back to its places')
    found = [model for model in models if model]
    if not found:
        raise CalibrationError(
            f'none of {", ".join(FEATURES)} is higher for the same place: is the truth right?')
    return found


def _folds(samples: Sequence[Samples]) -> Iterator[tuple[list[Samples], Samples]]:
    """Each recording held out once; a single one by stretches of time."""
    if len(samples) > 1:
        for number, held_out in enumerate(samples):
            yield [*samples[:number], *samples[number + 1:]], held_out
        return
    whole = samples[0]
    stretch = np.minimum(whole.query * FOLDS // (whole.query.max() + 1), FOLDS - 1)
    for fold in range(FOLDS):
        yield [_part(whole, stretch != fold)], _part(whole, stretch == fold)


def _part(samples: Samples, rows: np.ndarray) -> Samples:
    return Samples(samples.name, samples.evidence[rows], samples.is_true[rows],
                   samples.query[rows])


def predict(models: Sequence[LogisticModel], samples: Samples) -> np.ndarray:
    """(N,) probability of every candidate, NaN where none of the models knows enough."""
    found = np.full(len(samples), np.nan)
    for row, evidence in enumerate(samples.evidence.tolist()):
        known = dict(zip(FEATURES, evidence, strict=True))
        probabilities = (model.probability(known) for model in models)
        found[row] = next((p for p in probabilities if not np.isnan(p)), np.nan)
    return found


def hold_out(samples: Sequence[Samples]) -> Reliability:
    """Reliability for candidates whose recording was not used for the fit.

    Raises:
        CalibrationError: too few candidates.
    """
    probabilities, is_true = [], []
    for rest, held_out in _folds(samples):
        probabilities.append(predict(fit_models(rest), held_out))
        is_true.append(held_out.is_true)
    found, true = np.concatenate(probabilities), np.concatenate(is_true)
    known = np.isfinite(found)
    return reliability(found[known].tolist(), true[known].tolist())


def calibrate(
    model_id: str, codec: str, samples: Sequence[Samples]
) -> tuple[Calibration, Reliability]:
    """Fit a calibration, and say how good it is.

    Raises:
        CalibrationError: too few candidates.
    """
    is_true = np.concatenate([each.is_true for each in samples])
    scores = np.concatenate([each.evidence[:, FEATURES.index('local_score')] for each in samples])
    unrelated = scores[~is_true & np.isfinite(scores)]
    found = hold_out(samples)
    told: dict[str, Any] = {
        'held_out': 'each recording once' if len(samples) > 1 else f'{FOLDS} stretches of time',
        'candidates': int(found.counts.sum()), 'true': int(is_true.sum()),
        'expected_calibration_error': round(found.expected_calibration_error, 4),
        'counts': found.counts.tolist(),
        'share_true': [None if np.isnan(s) else round(float(s), 4) for s in found.share_true]}
    calibration = Calibration(
        model_id, codec, fit_models(samples),
        float(unrelated.mean()) if len(unrelated) else float('nan'),
        ', '.join(f'{each.name} ({len(each)} candidates)' for each in samples), told)
    return calibration, found
