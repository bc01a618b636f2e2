"""What a run was worth, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from selavpr_ros.decision import name_outcome
from selavpr_ros.place_recognizer import STAGES
from selavpr_ros.replay.ground_truth import GroundTruth
from selavpr_ros.replay.records import KeyframeRecord, QueryRecord, Run


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one stage: the median and the 95th percentile over the queries."""

    p50: float
    p95: float


@dataclass(frozen=True)
class TruthMetrics:
    """What the ground truth says.

    Attributes:
        positive: what counts as the same place, in words.
        true_closures, false_closures: accepted loop closures by their truth.
        unknown_closures: those of which the truth does not tell.
        precision: true / (true + false); None without closures.
        revisits: queries with at least one positive among the keyframes they were compared with;
            None where it is not known what they were compared with.
        recall_at_1: share of the revisits whose best candidate is a positive.
        closed: share of the revisits that ended in a true loop closure.
    """

    positive: str
    true_closures: int
    false_closures: int
    unknown_closures: int
    precision: float | None
    revisits: int | None
    recall_at_1: float | None
    closed: float | None


@dataclass(frozen=True)
class Metrics:
    """The numbers of a run.

    Attributes:
        images: received; `skipped` of them, or of the poses, by reason.
        queries, keyframes, closures: counts.
        queries_with_pose: whose pose in the odometry frame was known; None if nobody told.
        outcomes: queries by the farthest gate that their candidates came to, e.g. ACCEPTED.
        candidates: candidates by their decision.
        latency_ms: by stage and in total; empty if it was not measured.
        map_bytes: memory of the keyframe map.
        truth: None without ground truth.
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
    truth: TruthMetrics | None


def outcome(query: QueryRecord) -> str:
    """Name what became of a query (`decision.name_outcome`)."""
    return name_outcome(candidate.decision for candidate in query.candidates)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def latencies(queries: list[QueryRecord]) -> dict[str, Latency]:
    """Percentiles of every stage and of their sum ('total')."""
    stage_ms = np.array([query.stage_ms for query in queries if query.stage_ms])
    if not len(stage_ms):
        return {}
    columns = np.column_stack([stage_ms, stage_ms.sum(axis=1)])
    p50, p95 = np.percentile(columns, [50, 95], axis=0).tolist()
    names = (*STAGES, 'total')
    return {name: Latency(*values) for name, *values in zip(names, p50, p95, strict=True)}


def _is_revisit(
    query: QueryRecord, keyframes: list[KeyframeRecord], truth: GroundTruth
) -> bool:
    stamps_ns = [keyframe.stamp_ns for keyframe in keyframes[: query.searched]]
    return any(truth.same_places(query.stamp_ns, stamps_ns))


def _best_is_true(query: QueryRecord, truth: GroundTruth) -> bool:
    if not query.candidates:
        return False
    return bool(truth.is_same_place(query.stamp_ns, query.candidates[0].match_stamp_ns))


def closure_truth(query: QueryRecord, truth: GroundTruth | None) -> bool | None:
    """Whether the query's loop closure is a true one; None if unknown, or if there is none."""
    if truth is None or query.closure is None:
        return None
    return truth.is_same_place(query.stamp_ns, query.closure.match_stamp_ns)


def judge(run: Run, truth: GroundTruth) -> TruthMetrics:
    """Compare a run with the ground truth."""
    verdicts = Counter(closure_truth(query, truth) for query in run.queries if query.closure)
    revisits = None
    if all(query.searched is not None for query in run.queries):
        revisits = [q for q in run.queries if _is_revisit(q, run.keyframes, truth)]
    found = sum(_best_is_true(query, truth) for query in revisits or [])
    closed = sum(closure_truth(query, truth) is True for query in revisits or [])
    return TruthMetrics(
        positive=truth.description,
        true_closures=verdicts[True],
        false_closures=verdicts[False],
        unknown_closures=verdicts[None],
        precision=_ratio(verdicts[True], verdicts[True] + verdicts[False]),
        revisits=None if revisits is None else len(revisits),
        recall_at_1=_ratio(found, len(revisits or [])),
        closed=_ratio(closed, len(revisits or [])),
    )


def summarise(run: Run, truth: GroundTruth | None = None) -> Metrics:
    """Turn a run into numbers; of an empty run, too."""
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
        truth=judge(run, truth) if truth else None,
    )
