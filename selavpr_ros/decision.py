"""Stage 5: which candidate becomes a loop closure, and why the others do not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from selavpr_ros.config import GateSettings
from selavpr_ros.evidence import Match
from selavpr_ros.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.pose import Pose


class Decision(IntEnum):
    """Accepted, or the first gate that said no; values as in selavpr_msgs/PlaceMatch."""

    ACCEPTED = 0
    REJECT_LOW_SIMILARITY = 1
    REJECT_FEW_LOCAL = 2
    REJECT_AMBIGUOUS = 4
    REJECT_TEMPORAL = 5
    REJECT_GEOMETRY = 6
    REJECT_STATIONARY = 8
    REJECT_ODOMETRY = 9
    REJECT_DUPLICATE = 10
    REJECT_UNCALIBRATED = 11
    REJECT_LOW_PROBABILITY = 12


NO_CANDIDATES = 'NO_CANDIDATES'
# The gates in the order in which they are asked.
ORDER = (
    Decision.REJECT_UNCALIBRATED, Decision.REJECT_LOW_SIMILARITY, Decision.REJECT_FEW_LOCAL,
    Decision.REJECT_GEOMETRY, Decision.REJECT_LOW_PROBABILITY, Decision.REJECT_ODOMETRY,
    Decision.REJECT_AMBIGUOUS, Decision.REJECT_TEMPORAL, Decision.REJECT_STATIONARY,
    Decision.ACCEPTED)
# Two views of one place are at most so far apart: the field's usual radius, 5 m, for both.
VIEW_M = 10.0
# And no higher or lower than a slope makes them: between that and a storey.
VIEW_HEIGHT_M = 1.0
UNKNOWN = np.full(3, np.nan)


def name_outcome(decisions: Iterable[Decision]) -> str:
    """Name what became of a query: how far the candidate got that came farthest.

    Returns:
        'ACCEPTED', the name of the gate that stopped it, or NO_CANDIDATES.
    """
    # A duplicate is the shadow of a better candidate.
    own = [decision for decision in decisions if decision is not Decision.REJECT_DUPLICATE]
    return max(own, key=ORDER.index).name if own else NO_CANDIDATES


@dataclass(frozen=True)
class Candidate:
    """A match with its verdict.

    Attributes:
        match: see there.
        decision: accepted, or the first gate that said no.
        temporal_support: how many of the last views agree.
        distinctness: 1 - the best score of a candidate that is another place / its own score:
            0 is as good as that one, negative is worse. NaN where no candidate is known to be
            another place.
        odometry_ratio: how far odometry places it from here / how far it may, over all or upwards
            alone, whichever is more: above 1 they disagree. NaN without odometry, and of other
            sessions, which have one of their own.
    """

    match: Match
    decision: Decision
    temporal_support: int
    distinctness: float = math.nan
    odometry_ratio: float = math.nan


@dataclass(frozen=True)
class Whereabouts:
    """Where odometry says that the query was taken.

    Attributes:
        session: the running one, whose odometry frame it is.
        pose: of the robot, or None.
        travelled_m: since the session's start.
    """

    session: SessionId
    pose: Pose | None
    travelled_m: float


NOWHERE = Whereabouts(SessionId(0), None, 0.0)


@dataclass(frozen=True)
class Thresholds:
    """The two gates of a single image, after the model's own values were filled in.

    Attributes:
        min_similarity, min_local_score: the least that passes.
        use_local: whether local features are compared.
        is_safe: False where similarity decides alone and nobody said how much is enough: then
            nothing is accepted.
        use_geometry: whether the mutual matches have to fit one movement.
    """

    min_similarity: float
    min_local_score: float
    use_local: bool
    is_safe: bool = True
    use_geometry: bool = False


def _neighbours(first: KeyframeId, second: KeyframeId, reach: int) -> bool:
    same_session = first.session == second.session
    return same_session and abs(first.keyframe_id - second.keyframe_id) <= reach


def _positions(poses: Sequence[Pose | None]) -> np.ndarray:
    """(K, 3) metres, NaN without a pose."""
    return np.array([pose.translation_m if pose else UNKNOWN for pose in poses]).reshape(-1, 3)


def _distances_m(keyframes: Sequence[Keyframe]) -> np.ndarray:
    """(K, K) metres between keyframes; NaN where they are not known in one frame."""
    moved = [keyframe.map_pose for keyframe in keyframes]
    apart = _distances_within(_positions([m.pose if m else None for m in moved]),
                              [m.frame if m else None for m in moved])
    by_odometry = _distances_within(_positions([k.pose for k in keyframes]),
                                    [k.id.session for k in keyframes])
    return np.where(np.isnan(apart), by_odometry, apart)


def _distances_within(positions_m: np.ndarray, frames: Sequence[Hashable]) -> np.ndarray:
    """(K, K) metres between positions (K, 3) of the same frame, NaN for others."""
    apart = np.sqrt(((positions_m[:, None] - positions_m) ** 2).sum(axis=2))
    return np.where(_same(frames), apart, np.nan)


def _same(values: Sequence[Hashable]) -> np.ndarray:
    """(K, K) whether two of the values are equal."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    codes = np.array([numbers[value] for value in values])
    return codes[:, None] == codes


def _odometry_ratios(
    keyframes: Sequence[Keyframe], here: Whereabouts, gates: GateSettings
) -> np.ndarray:
    """(K,) how far off odometry would have to be, as a share of how far it can have drifted."""
    if here.pose is None:
        return np.full(len(keyframes), np.nan)
    poses = [k.pose if k.id.session == here.session else None for k in keyframes]
    gaps_m = _positions(poses) - here.pose.translation_m
    way_m = np.maximum(here.travelled_m - np.array([k.travelled_m for k in keyframes]), 0.0)
    apart = np.linalg.norm(gaps_m, axis=1) / (VIEW_M + gates.max_drift * way_m)
    climbed = np.abs(gaps_m[:, 2]) / (VIEW_HEIGHT_M + gates.max_vertical_drift * way_m)
    return np.maximum(apart, climbed)


def judge_scores(match: Match, thresholds: Thresholds) -> Decision:
    """The gates that need nothing but both images' descriptors."""
    if not thresholds.is_safe:
        return Decision.REJECT_UNCALIBRATED
    if match.similarity < thresholds.min_similarity:
        return Decision.REJECT_LOW_SIMILARITY
    if thresholds.use_local and match.local_score < thresholds.min_local_score:
        return Decision.REJECT_FEW_LOCAL
    return Decision.ACCEPTED


def _fits(match: Match, min_inlier_share: float) -> bool:
    """Whether enough mutual matches fit one movement; not where nobody looked."""
    found = match.geometry
    return found is not None and found.count >= min_inlier_share * match.local_matches


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
        self._first_seen: dict[KeyframeId, KeyframeId] = {}

    def reset(self) -> None:
        """Forget what was before: a new session begins."""
        self._votes.clear()

    def remember(self, keyframe: KeyframeId, closed_with: KeyframeId) -> None:
        """A new keyframe shows the place of an older one, however far odometry has drifted."""
        self._first_seen[keyframe] = self._first_seen.get(closed_with, closed_with)

    def judge(
        self, matches: list[Match], is_new_view: bool, gates: GateSettings,
        thresholds: Thresholds, here: Whereabouts = NOWHERE,
    ) -> list[Candidate]:
        """Judge a query's matches; at most one is accepted.

        Args:
            matches: in re-ranked order, best first.
            is_new_view: whether the robot moved since the last view.
            gates, thresholds: the current settings.
            here: where the query was taken.

        Returns:
            One candidate per match, in the same order.
        """
        distinctness = self._distinctness(matches, gates, thresholds)
        ratios = _odometry_ratios([match.keyframe for match in matches], here, gates).tolist()
        verdicts = [self._judge_alone(*each, gates, thresholds)
                    for each in zip(matches, distinctness, ratios, strict=True)]
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
            candidates.append(Candidate(match, verdict, support, distinctness[i], ratios[i]))
        return candidates

    def _judge_alone(
        self, match: Match, distinctness: float, odometry_ratio: float, gates: GateSettings,
        thresholds: Thresholds,
    ) -> Decision:
        """What can be said without the views before."""
        verdict = judge_scores(match, thresholds)
        if verdict is not Decision.ACCEPTED:
            return verdict
        if thresholds.use_geometry and not _fits(match, gates.min_inlier_share):
            return Decision.REJECT_GEOMETRY
        # Nobody's probability is no reason, as long as nobody asks for one.
        if gates.min_probability > 0.0 and not match.probability >= gates.min_probability:
            return Decision.REJECT_LOW_PROBABILITY
        # NaN, where nobody knows, is no reason here.
        if gates.odometry_check and odometry_ratio > 1.0:
            return Decision.REJECT_ODOMETRY
        if distinctness < 1.0 - gates.ambiguity_ratio:
            return Decision.REJECT_AMBIGUOUS
        return Decision.ACCEPTED

    def _distinctness(
        self, matches: Sequence[Match], gates: GateSettings, thresholds: Thresholds
    ) -> list[float]:
        """How much better each match is than the best one of another place (see Candidate)."""
        if not matches:
            return []
        own = np.array([match.local_score if thresholds.use_local else match.similarity
                        for match in matches])
        elsewhere = self._are_elsewhere([match.keyframe for match in matches], gates)
        rivals = np.where(elsewhere, own, -np.inf).max(axis=1)
        with np.errstate(divide='ignore', invalid='ignore'):
            distinctness = 1.0 - rivals / own
        return np.where(np.isfinite(rivals) & (own > 0.0), distinctness, np.nan).tolist()

    def _are_elsewhere(
        self, keyframes: Sequence[Keyframe], gates: GateSettings
    ) -> np.ndarray:
        """(K, K) whether two keyframes are known to show different places."""
        seen = [self._first_seen.get(k.id, k.id) for k in keyframes]
        numbers = np.array([first.keyframe_id for first in seen])
        near = np.abs(numbers[:, None] - numbers) <= gates.temporal_reach
        neighbours = near & _same([first.session for first in seen])
        return (_distances_m(keyframes) > gates.ambiguity_radius) & ~neighbours  # NaN is not

    def _vote(self, best: KeyframeId | None, gates: GateSettings) -> None:
        self._votes.append(best)
        while len(self._votes) > gates.temporal_window:
            self._votes.popleft()

    def _support(self, place: KeyframeId, gates: GateSettings) -> int:
        return sum(
            vote is not None and _neighbours(vote, place, gates.temporal_reach)
            for vote in self._votes
        )
