"""Stage 5: which candidate becomes a loop closure, and why the others do not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from selavpr_ros.config import GateSettings
from selavpr_ros.keyframe import Keyframe, KeyframeId


class Decision(IntEnum):
    """Accepted, or the first gate that said no; values as in selavpr_msgs/PlaceMatch."""

    ACCEPTED = 0
    REJECT_LOW_SIMILARITY = 1
    REJECT_FEW_LOCAL = 2
    REJECT_TEMPORAL = 5
    REJECT_STATIONARY = 8
    REJECT_DUPLICATE = 10
    REJECT_UNCALIBRATED = 11


NO_CANDIDATES = 'NO_CANDIDATES'


def name_outcome(decisions: Iterable[Decision]) -> str:
    """Name what became of a query: how far the candidate got that came farthest.

    Returns:
        'ACCEPTED', the name of the gate that stopped it, or NO_CANDIDATES.
    """
    # A duplicate is the shadow of a better candidate.
    own = [decision for decision in decisions if decision is not Decision.REJECT_DUPLICATE]
    if not own:
        return NO_CANDIDATES
    # The gates are numbered in the order in which they are asked.
    return Decision.ACCEPTED.name if Decision.ACCEPTED in own else max(own).name


@dataclass(frozen=True)
class Match:
    """A retrieved keyframe with its evidence.

    Attributes:
        keyframe: of the map.
        rank_global: order by similarity, 0 first.
        similarity: cosine of the global descriptors.
        local_matches: mutual nearest neighbours; 0 where local features are not compared.
        local_score: local_matches / the most that the model can have, in [0, 1]; NaN where
            local features are not compared.
    """

    keyframe: Keyframe
    rank_global: int
    similarity: float
    local_matches: int
    local_score: float


@dataclass(frozen=True)
class Candidate:
    """A match with its verdict; `temporal_support` counts the last views that agree."""

    match: Match
    decision: Decision
    temporal_support: int


@dataclass(frozen=True)
class Thresholds:
    """The two gates of a single image, after the model's own values were filled in.

    Attributes:
        min_similarity, min_local_score: the least that passes.
        use_local: whether local features are compared.
        is_safe: False where similarity decides alone and nobody said how much is enough: then
            nothing is accepted.
    """

    min_similarity: float
    min_local_score: float
    use_local: bool
    is_safe: bool = True


def _neighbours(first: KeyframeId, second: KeyframeId, reach: int) -> bool:
    same_session = first.session_id == second.session_id
    return same_session and abs(first.keyframe_id - second.keyframe_id) <= reach


def _judge_evidence(match: Match, thresholds: Thresholds) -> Decision:
    if not thresholds.is_safe:
        return Decision.REJECT_UNCALIBRATED
    if match.similarity < thresholds.min_similarity:
        return Decision.REJECT_LOW_SIMILARITY
    if thresholds.use_local and match.local_score < thresholds.min_local_score:
        return Decision.REJECT_FEW_LOCAL
    return Decision.ACCEPTED


def _judge_views(support: int, is_new_view: bool, gates: GateSettings) -> Decision:
    if support < gates.temporal_min:
        return Decision.REJECT_TEMPORAL
    return Decision.ACCEPTED if is_new_view else Decision.REJECT_STATIONARY


class ClosureDecision:
    """Decides query by query; remembers what the last views agreed on.

    A view is a query that saw something new: the robot moved since the one before. One that
    stands still neither gathers support nor closes the same loop again.
    """

    def __init__(self) -> None:
        self._votes: deque[KeyframeId | None] = deque()

    def reset(self) -> None:
        """Forget what was before: a new session begins."""
        self._votes.clear()

    def judge(
        self, matches: list[Match], is_new_view: bool, gates: GateSettings,
        thresholds: Thresholds,
    ) -> list[Candidate]:
        """Judge a query's matches; at most one is accepted.

        Args:
            matches: in re-ranked order, best first.
            is_new_view: whether the robot moved since the last view.
            gates, thresholds: the current settings.

        Returns:
            One candidate per match, in the same order.
        """
        verdicts = [_judge_evidence(match, thresholds) for match in matches]
        best = next((i for i, v in enumerate(verdicts) if v is Decision.ACCEPTED), None)
        if is_new_view:
            self._vote(None if best is None else matches[best].keyframe.id, gates)
        candidates = []
        for i, (match, verdict) in enumerate(zip(matches, verdicts, strict=True)):
            support = self._support(match.keyframe.id, gates)
            if i == best:
                verdict = _judge_views(support, is_new_view, gates)
            elif verdict is Decision.ACCEPTED:
                verdict = Decision.REJECT_DUPLICATE
            candidates.append(Candidate(match, verdict, support))
        return candidates

    def _vote(self, best: KeyframeId | None, gates: GateSettings) -> None:
        self._votes.append(best)
        while len(self._votes) > gates.temporal_window:
            self._votes.popleft()

    def _support(self, place: KeyframeId, gates: GateSettings) -> int:
        return sum(
            vote is not None and _neighbours(vote, place, gates.temporal_reach)
            for vote in self._votes
        )
