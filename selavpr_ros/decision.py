"""Stage 5: which candidate becomes a loop closure, and why the others do not."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import IntEnum

from selavpr_ros.config import GateSettings
from selavpr_ros.keyframe_map import Keyframe, KeyframeId
from selavpr_ros.pose import Pose


class Decision(IntEnum):
    """Accepted, or the first gate that said no; values as in selavpr_msgs/PlaceMatch."""

    ACCEPTED = 0
    REJECT_LOW_SIMILARITY = 1
    REJECT_FEW_LOCAL = 2
    REJECT_TEMPORAL = 5
    REJECT_STATIONARY = 8
    REJECT_DUPLICATE = 10


@dataclass(frozen=True)
class Match:
    """A retrieved keyframe with its evidence.

    Attributes:
        keyframe: of the map.
        rank_global: order by similarity, 0 first.
        similarity: cosine of the global descriptors.
        local_matches: mutual nearest neighbours; 0 where local features are not compared.
        local_score: local_matches / number of local features, in [0, 1].
    """

    keyframe: Keyframe
    rank_global: int
    similarity: float
    local_matches: int
    local_score: float


@dataclass(frozen=True)
class Candidate:
    """A match with its verdict; `temporal_support` counts the last queries that agree."""

    match: Match
    decision: Decision
    temporal_support: int = 0


@dataclass(frozen=True)
class Thresholds:
    """The two gates of a single image, after the model's own values were filled in."""

    min_similarity: float
    min_local_score: float
    use_local: bool


def _neighbours(first: KeyframeId, second: KeyframeId, reach: int) -> bool:
    same_session = first.session_id == second.session_id
    return same_session and abs(first.keyframe_id - second.keyframe_id) <= reach


def _judge_evidence(match: Match, thresholds: Thresholds) -> Decision:
    if match.similarity < thresholds.min_similarity:
        return Decision.REJECT_LOW_SIMILARITY
    if thresholds.use_local and match.local_score < thresholds.min_local_score:
        return Decision.REJECT_FEW_LOCAL
    return Decision.ACCEPTED


class ClosureDecision:
    """Decides query by query; remembers the last queries and the last closure."""

    def __init__(self) -> None:
        self._recent: deque[KeyframeId | None] = deque()
        self._last_closure_pose: Pose | None = None

    def reset(self) -> None:
        """Forget what was before: a new session begins."""
        self._recent.clear()
        self._last_closure_pose = None

    def judge(
        self, matches: list[Match], pose: Pose | None, gates: GateSettings, thresholds: Thresholds
    ) -> list[Candidate]:
        """Judge a query's matches, best first; at most one is accepted.

        Args:
            matches: in re-ranked order.
            pose: of the query, or None.
            gates, thresholds: the current settings.
        """
        verdicts = [_judge_evidence(match, thresholds) for match in matches]
        best = next((i for i, v in enumerate(verdicts) if v is Decision.ACCEPTED), None)
        self._remember(None if best is None else matches[best].keyframe.id, gates)
        candidates = []
        for i, (match, verdict) in enumerate(zip(matches, verdicts, strict=True)):
            candidate = Candidate(match, verdict, self._support(match.keyframe.id, gates))
            if i == best:
                candidate = self._judge_motion(candidate, pose, gates)
            elif verdict is Decision.ACCEPTED:
                candidate = replace(candidate, decision=Decision.REJECT_DUPLICATE)
            candidates.append(candidate)
        return candidates

    def _remember(self, best: KeyframeId | None, gates: GateSettings) -> None:
        self._recent.append(best)
        while len(self._recent) > gates.temporal_window:
            self._recent.popleft()

    def _support(self, place: KeyframeId, gates: GateSettings) -> int:
        return sum(
            recent is not None and _neighbours(recent, place, gates.temporal_reach)
            for recent in self._recent
        )

    def _judge_motion(
        self, candidate: Candidate, pose: Pose | None, gates: GateSettings
    ) -> Candidate:
        if candidate.temporal_support < gates.temporal_min:
            return replace(candidate, decision=Decision.REJECT_TEMPORAL)
        before = self._last_closure_pose
        if pose and before and pose.distance_to(before) < gates.min_motion_between:
            return replace(candidate, decision=Decision.REJECT_STATIONARY)
        self._last_closure_pose = pose
        return candidate
