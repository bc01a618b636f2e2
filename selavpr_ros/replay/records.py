"""What a run leaves behind, as plain records.

A replay fills them from the PlaceRecognizer (`Run.add`), a listener on the node's topics from
messages; metrics, tables and pictures are made from them alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from selavpr_ros.decision import Candidate, Decision
from selavpr_ros.keyframe import KeyframeId
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose


@dataclass(frozen=True)
class KeyframeRecord:
    """A keyframe of the map; `pose` in the odometry frame, or None."""

    id: KeyframeId
    stamp_ns: int
    pose: Pose | None = None


@dataclass(frozen=True)
class CandidateRecord:
    """One judged candidate of a query; the fields are those of Match and Candidate."""

    match_id: KeyframeId
    match_stamp_ns: int
    similarity: float
    local_matches: int
    local_score: float
    temporal_support: int
    decision: Decision
    distinctness: float = math.nan
    odometry_ratio: float = math.nan
    mean_similarity: float = math.nan
    spread: float = math.nan
    surplus: float = math.nan
    inliers: int = 0
    reprojection_rmse: float = math.nan
    probability: float = math.nan

    @property
    def inlier_score(self) -> float:
        """As `Match.inlier_score`; NaN without any inlier."""
        return self.local_score * self.inliers / self.local_matches if self.inliers else math.nan


@dataclass(frozen=True, eq=False)
class QueryRecord:
    """One processed image.

    Attributes:
        stamp_ns: of the image.
        candidates: best first.
        keyframe_id: of the keyframe it became, or None.
        pose: in the odometry frame, or None.
        searched: how many keyframes, from the oldest on, it was compared with; None if unknown.
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


def _candidate_record(candidate: Candidate) -> CandidateRecord:
    match = candidate.match
    return CandidateRecord(
        match.keyframe.id, match.keyframe.stamp_ns, match.similarity, match.local_matches,
        match.local_score, candidate.temporal_support, candidate.decision,
        candidate.distinctness, candidate.odometry_ratio, match.mean_similarity, match.spread,
        match.surplus, match.geometry.count if match.geometry else 0,
        match.geometry.rmse_px if match.geometry else math.nan, match.probability)


@dataclass
class Run:
    """Everything that one run has told.

    Attributes:
        model_id: of the model.
        queries, keyframes: in the order of time.
        images: how many came in; most are no queries, because of `query.max_rate`.
        skipped: images and other messages that could not be used, by reason.
        map_nbytes: bytes of the keyframe map.
        knows_poses: whether the poses of all queries were told; the node tells those of its
            keyframes alone.
    """

    model_id: str = ''
    queries: list[QueryRecord] = field(default_factory=list)
    keyframes: list[KeyframeRecord] = field(default_factory=list)
    images: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    map_nbytes: int = 0
    knows_poses: bool = True

    def add(self, recognition: Recognition) -> QueryRecord:
        """Record what the PlaceRecognizer found for one image."""
        query, keyframe = recognition.query, recognition.keyframe
        if keyframe:
            self.keyframes.append(KeyframeRecord(keyframe.id, keyframe.stamp_ns, keyframe.pose))
        record = QueryRecord(
            query.stamp_ns, tuple(map(_candidate_record, recognition.candidates)),
            keyframe.id if keyframe else None, query.pose, recognition.searched,
            recognition.stage_ms,
            query.global_descriptor)
        self.queries.append(record)
        return record
