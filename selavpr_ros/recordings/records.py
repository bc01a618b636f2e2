"""The results of a run as plain records.

A replay fills them from the PlaceRecognizer (`Run.add`), a listener on the node's topics from
messages; metrics, tables and pictures are made from them alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose
from selavpr_ros.text import counts


@dataclass(frozen=True)
class KeyframeRecord:
    """A keyframe of the map; `pose` in the odometry frame, or None."""

    id: KeyframeId
    stamp_ns: int
    pose: Pose | None = None


def _of(compute: Callable[[Candidate], float]) -> dict[str, Any]:
    """Metadata of a field of evidence: how it is computed from a candidate."""
    return {'compute': compute}


@dataclass(frozen=True)
class CandidateRecord:
    """One judged candidate of a query.

    Every number is a field of selavpr_msgs/PlaceMatch, which describes it, and a column of
    candidates.csv, under the same name.
    """

    match_id: KeyframeId
    match_stamp_ns: int
    similarity: float = field(metadata=_of(lambda c: c.match.similarity))
    local_matches: int = field(metadata=_of(lambda c: c.match.local_matches))
    local_score: float = field(metadata=_of(lambda c: c.match.local_score))
    decision: Decision
    rank_global: int = field(default=0, metadata=_of(lambda c: c.match.rank_global))
    mean_similarity: float = field(
        default=math.nan, metadata=_of(lambda c: c.match.mean_similarity))
    spread: float = field(default=math.nan, metadata=_of(lambda c: c.match.spread))
    overlap: float = field(default=math.nan, metadata=_of(lambda c: c.match.overlap))
    likelihood_ratio: float = field(default=math.nan, metadata=_of(lambda c: c.likelihood_ratio))
    inliers: int = field(default=0, metadata=_of(
        lambda c: c.match.geometry.count if c.match.geometry else 0))
    reprojection_rmse: float = field(default=math.nan, metadata=_of(
        lambda c: c.match.geometry.rmse_px if c.match.geometry else math.nan))
    odometry_ratio: float = field(default=math.nan, metadata=_of(lambda c: c.odometry_ratio))
    probability: float = field(default=math.nan, metadata=_of(lambda c: c.probability))


_COMPUTE = {each.name: each.metadata['compute']
            for each in fields(CandidateRecord) if each.metadata}
EVIDENCE = tuple(_COMPUTE)


def evidence_of(candidate: Candidate) -> dict[str, Any]:
    """The evidence for or against a candidate as numbers, by the names in EVIDENCE."""
    return {name: compute(candidate) for name, compute in _COMPUTE.items()}


def record(candidate: Candidate) -> CandidateRecord:
    """The record of a candidate."""
    keyframe = candidate.match.keyframe
    return CandidateRecord(keyframe.id, keyframe.stamp_ns, decision=candidate.decision,
                           **evidence_of(candidate))


@dataclass(frozen=True, eq=False)
class QueryRecord:
    """One processed image.

    Attributes:
        stamp_ns: stamp of the image.
        candidates: all candidates, best first.
        keyframe_id: id of the keyframe that the query became, or None.
        pose: pose in the odometry frame, or None.
        searched: with how many keyframes, the oldest ones, it was compared; None if unknown.
        stage_ms: milliseconds of each of place_recognizer.STAGES; empty if unknown.
        global_descriptor: (D,) float32, or None.
    """

    stamp_ns: int
    candidates: tuple[CandidateRecord, ...]
    keyframe_id: KeyframeId | None = None
    pose: Pose | None = None
    searched: int | None = None
    stage_ms: tuple[float, ...] = ()
    global_descriptor: np.ndarray | None = None

    @property
    def closure(self) -> CandidateRecord | None:
        """The accepted candidate, or None."""
        accepted = (c for c in self.candidates if c.decision is Decision.ACCEPTED)
        return next(accepted, None)


@dataclass
class Run:
    """Everything that is recorded of one run.

    Attributes:
        model_id: id of the model.
        queries, keyframes: records in the order of time.
        images: number of images that came in; most are not queries, because of `query.max_rate`.
        skipped: number of images and other messages that could not be used, by reason.
        first_error: what was wrong with the first image that could not be used.
        notes: what else is missing or wrong in what was read, a sentence each.
        map_nbytes: bytes of the keyframe map.
        knows_poses: whether the poses of all queries are known; the node publishes only those of
            its keyframes.
    """

    model_id: str = ''
    queries: list[QueryRecord] = field(default_factory=list)
    keyframes: list[KeyframeRecord] = field(default_factory=list)
    images: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first_error: str = ''
    notes: list[str] = field(default_factory=list)
    map_nbytes: int = 0
    knows_poses: bool = True

    def add(self, recognition: Recognition) -> QueryRecord:
        """Record what the PlaceRecognizer found for one image."""
        query, keyframe = recognition.query, recognition.keyframe
        if keyframe:
            self.keyframes.append(KeyframeRecord(keyframe.id, keyframe.stamp_ns, keyframe.pose))
        added = QueryRecord(
            query.stamp_ns, tuple(map(record, recognition.candidates)),
            keyframe.id if keyframe else None, query.pose, recognition.searched,
            recognition.stage_ms, query.global_descriptor)
        self.queries.append(added)
        for earlier in recognition.earlier:
            self.replace_candidates(
                earlier.query.stamp_ns, map(record, earlier.candidates))
        return added

    def describe_loss(self, topic: str, listed: int) -> str:
        """Say what became of a topic's images, if none was used; a bag lists so many of them."""
        lost = f': {counts(self.skipped)}' if self.skipped else ''
        first = f'; the first one: {self.first_error}' if self.first_error else ''
        return (f'no image was used: {self.images} of the {listed} images of {topic} '
                f'came{lost}{first}')

    def candidates_of(self, stamp_ns: int) -> tuple[CandidateRecord, ...]:
        """The candidates of a query; empty if it is unknown."""
        at = self._find(stamp_ns)
        return () if at is None else self.queries[at].candidates

    def replace_candidates(self, stamp_ns: int, candidates: Iterable[CandidateRecord]) -> None:
        """Replace the candidates of a query that later views have changed, if it is known."""
        at = self._find(stamp_ns)
        if at is not None:
            self.queries[at] = replace(self.queries[at], candidates=tuple(candidates))

    def _find(self, stamp_ns: int) -> int | None:
        at = bisect_left(self.queries, stamp_ns, key=lambda query: query.stamp_ns)
        known = at < len(self.queries) and self.queries[at].stamp_ns == stamp_ns
        return at if known else None
