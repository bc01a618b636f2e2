"""Metrics of a run, alone and against the ground truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from selavpr_ros.decision.gates import name_outcome
from selavpr_ros.evaluation.metrics import RECALL_AT, Latency, share_within
from selavpr_ros.evaluation.precision import PrecisionRecall, precision_recall
from selavpr_ros.place_recognizer import STAGES
from selavpr_ros.recordings.ground_truth import GroundTruth, SamePlace
from selavpr_ros.recordings.records import CandidateRecord, KeyframeRecord, QueryRecord, Run


@dataclass(frozen=True)
class TruthMetrics:
    """Metrics of a run against the ground truth.

    Attributes:
        same_place: what counts as the same place.
        true_closures, false_closures: accepted loop closures by their truth.
        unknown_closures: accepted loop closures that the truth does not cover.
        precision: true / (true + false) loop closures; None without any.
        false_closures_per_km: per kilometre of `Metrics.way_m`; None if that is unknown or 0.
        revisits: queries with at least one positive among the keyframes they were compared with;
            None if the records do not show these keyframes. The figures below are then None, too,
            and `recall` is empty.
        recall: share of the revisits with a positive among the first n candidates, by n; for the
            usual n as far as candidates were recorded.
        closed: share of the revisits that ended in a true loop closure.
        average_precision: area under precision over recall of the best candidates (`judge_best`).
        recall_at_precision_1: recall of the best candidates before the first false one.
        from_score: the lowest score down to which no best candidate is false; None if there is
            none.
    """

    same_place: SamePlace
    true_closures: int
    false_closures: int
    unknown_closures: int
    precision: float | None
    false_closures_per_km: float | None
    revisits: int | None
    recall: dict[int, float]
    closed: float | None
    average_precision: float | None
    recall_at_precision_1: float | None
    from_score: float | None


@dataclass(frozen=True)
class Metrics:
    """The numbers of a run.

    Attributes:
        images: number of images received.
        skipped: number of skipped images or poses, by reason.
        queries, keyframes, closures: counts.
        queries_with_pose: queries with a known pose in the odometry frame; None if the records
            do not tell.
        outcomes: queries by the farthest gate that their candidates reached, e.g. ACCEPTED.
        candidates: candidates by their decision.
        latency_ms: by stage and in total; empty if it was not measured.
        map_bytes: memory of the keyframe map.
        bytes_per_keyframe: `map_bytes` per keyframe; None without keyframes.
        way_m: metres from query to query, by the true poses if there are any, else by odometry;
            None without two poses.
        truth: metrics against the ground truth; None without one.
    """

    model_id: str
    images: int
    skipped: dict[str, int]
    queries: int
    queries_with_pose: int | None
    keyframes: int
    closures: int
    outcomes: dict[str, int]
    candidates: dict[str, int]
    latency_ms: dict[str, Latency]
    map_bytes: int
    bytes_per_keyframe: float | None
    way_m: float | None
    truth: TruthMetrics | None


def outcome(query: QueryRecord) -> str:
    """Name what became of a query (`decision.name_outcome`)."""
    return name_outcome(candidate.decision for candidate in query.candidates)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def latencies(queries: list[QueryRecord]) -> dict[str, Latency]:
    """Percentiles of every stage and of their sum ('total')."""
    stage_ms = np.array([query.stage_ms for query in queries if query.stage_ms])
    if not len(stage_ms):
        return {}
    columns = np.column_stack([stage_ms, stage_ms.sum(axis=1)])
    names = (*STAGES[:stage_ms.shape[1]], 'total')  # a node's messages lack the last stage
    return {name: Latency.of(column) for name, column in zip(names, columns.T, strict=True)}


def _is_revisit(
    query: QueryRecord, keyframes: list[KeyframeRecord], truth: GroundTruth
) -> bool:
    stamps_ns = [keyframe.stamp_ns for keyframe in keyframes[: query.searched]]
    return any(truth.same_places(query.stamp_ns, stamps_ns))


def _revisits(run: Run, truth: GroundTruth) -> list[QueryRecord] | None:
    """The queries that could have been answered, or None if that is not known."""
    shown = len(run.keyframes)  # not those of a map that was there before
    if any(query.searched is None or query.searched > shown for query in run.queries):
        return None
    return [query for query in run.queries if _is_revisit(query, run.keyframes, truth)]


def first_true(query: QueryRecord, truth: GroundTruth) -> int | None:
    """Rank, from 0, of the first candidate that is a positive; None without one."""
    stamps_ns = [candidate.match_stamp_ns for candidate in query.candidates]
    verdicts = truth.same_places(query.stamp_ns, stamps_ns) if stamps_ns else []
    return next((rank for rank, verdict in enumerate(verdicts) if verdict), None)


def _recalls(
    run: Run, revisits: Sequence[QueryRecord], truth: GroundTruth
) -> dict[int, float]:
    listed = max((len(query.candidates) for query in run.queries), default=0)
    ranks = [first_true(query, truth) for query in revisits]
    return {n: share_within(ranks, n, len(ranks))
            for n in RECALL_AT if n <= listed and ranks}


def closure_truth(query: QueryRecord, truth: GroundTruth | None) -> bool | None:
    """Whether the query's loop closure is a true one; None if unknown, or if there is none."""
    if truth is None or query.closure is None:
        return None
    return truth.is_same_place(query.stamp_ns, query.closure.match_stamp_ns)


def _judged_best(
    run: Run, truth: GroundTruth
) -> Iterator[tuple[QueryRecord, CandidateRecord, bool]]:
    """Every query with its best candidate and whether that is true; unknown ones left out."""
    for query in run.queries:
        if query.candidates:
            best = query.candidates[0]
            verdict = truth.is_same_place(query.stamp_ns, best.match_stamp_ns)
            if verdict is not None:
                yield query, best, verdict


def _score(candidate: CandidateRecord, by_local: bool) -> float:
    if not by_local:
        return candidate.similarity
    return 0.0 if math.isnan(candidate.local_score) else candidate.local_score


def is_by_local(run: Run) -> bool:
    """Whether the run's candidates are scored by local matches; else it is by similarity."""
    return any(not math.isnan(c.local_score) for query in run.queries for c in query.candidates)


def best_answers(
    run: Run, truth: GroundTruth
) -> list[tuple[QueryRecord, CandidateRecord, float, bool]]:
    """Queries, their best candidates, the scores of these, and whether they are true.

    The score is what the gates check first: `local_score`, or the similarity for a system without
    local features. Queries that the truth does not cover are left out.
    """
    by_local = is_by_local(run)
    return [(query, best, _score(best, by_local), verdict)
            for query, best, verdict in _judged_best(run, truth)]


def judge_best(run: Run, truth: GroundTruth, revisits: int) -> PrecisionRecall:
    """Precision and recall of the best candidates if their score alone were the gate.

    Args:
        run, truth: as in `judge`.
        revisits: number of queries that recall is over (`TruthMetrics.revisits`).
    """
    answers = best_answers(run, truth)
    return precision_recall(
        [score for *_, score, _ in answers], [verdict for *_, verdict in answers], revisits)


def known_probabilities(run: Run, truth: GroundTruth) -> tuple[list[float], list[bool]]:
    """Probabilities of candidates, and whether each is true; unknown ones are left out."""
    probabilities, is_true = [], []
    for query in run.queries:
        stamps_ns = [candidate.match_stamp_ns for candidate in query.candidates]
        verdicts = truth.same_places(query.stamp_ns, stamps_ns) if stamps_ns else []
        for candidate, verdict in zip(query.candidates, verdicts, strict=True):
            if verdict is not None and not math.isnan(candidate.probability):
                probabilities.append(candidate.probability)
                is_true.append(verdict)
    return probabilities, is_true


def way_m(run: Run, truth: GroundTruth | None) -> float | None:
    """Metres from query to query; see `Metrics`."""
    true = [truth.pose_at(query.stamp_ns) for query in run.queries] if truth else []
    poses = true if any(true) else [query.pose for query in run.queries]
    positions = [pose.translation_m for pose in poses if pose]
    if len(positions) < 2:
        return None
    return float(sum(np.linalg.norm(b - a) for a, b in pairwise(positions)))


def judge(run: Run, truth: GroundTruth) -> TruthMetrics:
    """Compare a run with the ground truth."""
    verdicts = Counter(closure_truth(query, truth) for query in run.queries if query.closure)
    metres = way_m(run, truth)
    revisits = _revisits(run, truth)
    closed = sum(closure_truth(query, truth) is True for query in revisits or [])
    curve = judge_best(run, truth, len(revisits)) if revisits else None
    return TruthMetrics(
        same_place=truth.same_place,
        true_closures=verdicts[True],
        false_closures=verdicts[False],
        unknown_closures=verdicts[None],
        precision=_ratio(verdicts[True], verdicts[True] + verdicts[False]),
        false_closures_per_km=1e3 * verdicts[False] / metres if metres else None,
        revisits=None if revisits is None else len(revisits),
        recall=_recalls(run, revisits or [], truth),
        closed=_ratio(closed, len(revisits or [])),
        average_precision=curve.average_precision if curve else None,
        recall_at_precision_1=curve.safe_recall if curve else None,
        from_score=curve.safe_threshold if curve and curve.safe_recall else None,
    )


def summarise(run: Run, truth: GroundTruth | None = None) -> Metrics:
    """Compute the metrics of a run, which may be empty."""
    return Metrics(
        model_id=run.model_id,
        images=run.images,
        skipped=dict(run.skipped),
        queries=len(run.queries),
        queries_with_pose=(sum(query.pose is not None for query in run.queries)
                           if run.knows_poses else None),
        keyframes=len(run.keyframes),
        closures=sum(query.closure is not None for query in run.queries),
        outcomes=dict(Counter(map(outcome, run.queries)).most_common()),
        candidates=dict(
            Counter(c.decision.name for q in run.queries for c in q.candidates).most_common()),
        latency_ms=latencies(run.queries),
        map_bytes=run.map_nbytes,
        bytes_per_keyframe=run.map_nbytes / len(run.keyframes) if run.keyframes else None,
        way_m=way_m(run, truth),
        truth=judge(run, truth) if truth else None,
    )
