"""Stage 5: which candidate becomes a loop closure, and why the others do not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from selavpr_ros.decision.gates import (
    BEST_GATES,
    FINAL,
    PLACE_GATES,
    Candidate,
    Decision,
    Standing,
    ask,
)
from selavpr_ros.decision.place_filter import Belief, PlaceFilter
from selavpr_ros.decision.unrelated import Unrelated
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.pose import SAME_PLACE_M, SAME_PLACE_RAD, Pose
from selavpr_ros.settings import GateSettings

# Two views of one place are at most so far apart: the field's usual radius, 5 m, for both.
VIEW_M = 10.0
# And no higher or lower than a slope makes them: between that and a storey.
VIEW_HEIGHT_M = 1.0
# Keyframes so near in their order show one place; those farther apart than the second number,
# another one. In between nobody can tell without poses.
PLACE_KEYFRAMES, ELSEWHERE_KEYFRAMES = 5, 10
NEAREST_FIRST = sorted(range(-PLACE_KEYFRAMES, PLACE_KEYFRAMES + 1), key=abs)
# Where a view itself speaks against a candidate, its place alone is no reason to accept it.
LEAST_OWN_RATIO = 1.0
# Where odometry says the robot is not: so many copies of a place are no chance, if they look like
# the place (`Unrelated.looks`).
MOST_COPIES, COPY_LOOKS = 4, 0.5
# Of other places that count as hypotheses.
HYPOTHESIS = 0.05
# Looking back costs time: not before the robot is probably somewhere known.
LOOK_AGAIN_ABOVE = 0.9
# How fast the probability falls with what a keyframe of the place shows less than the best one.
SHARE_EXPONENT = 0.3
# States with less change no verdict.
LEAST_MASS = 1e-4
# What a keyframe looked like is forgotten by so much from view to view.
LOOK_FADES, LEAST_LOOK = 0.8, 0.01
# Of those that looked like it less than the best one, this power of their share.
LOOK_EXPONENT = 4.0
UNKNOWN, NO_ROTATION = np.full(3, np.nan), np.full(4, np.nan)


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


@dataclass(eq=False)
class View:
    """A query that saw something new, as long as later ones may still make it sure.

    Attributes:
        query: what `verify` needs to look at its geometry.
        codes: (K,) of its candidates in the filter.
        candidates: in their order.
        keyframe_id: what it became in the map, or None.
        is_settled: whether it was accepted, or its geometry refused.
    """

    query: Any
    codes: np.ndarray
    candidates: list[Candidate]
    keyframe_id: KeyframeId | None = None
    is_settled: bool = False


@dataclass(frozen=True)
class LoopClosure:
    """A query that shows the place of a keyframe.

    Attributes:
        query: as it was given to `judge`.
        keyframe_id: what the query became in the map, or None.
        candidates: all of the query, by what is known now; one is accepted.
    """

    query: Any
    keyframe_id: KeyframeId | None
    candidates: list[Candidate]

    @property
    def candidate(self) -> Candidate:
        """The accepted one."""
        return next(c for c in self.candidates if c.decision is Decision.ACCEPTED)


@dataclass(frozen=True)
class Verdict:
    """What was decided on a query.

    Attributes:
        candidates: one per match, in the same order; at most one is accepted.
        earlier: loop closures of queries before, the oldest first.
    """

    candidates: list[Candidate]
    earlier: list[LoopClosure]


def _position(pose: Pose | None) -> np.ndarray:
    return pose.translation_m if pose else UNKNOWN


def _odometry_ratios(
    keyframes: Sequence[Keyframe], here: Whereabouts, gates: GateSettings
) -> np.ndarray:
    """(K,) how far off odometry would have to be, as a share of how far it can have drifted."""
    if here.pose is None:
        return np.full(len(keyframes), np.nan)
    gaps_m = np.array([_position(k.pose if k.id.session == here.session else None)
                       for k in keyframes]).reshape(-1, 3) - here.pose.translation_m
    way_m = np.maximum(here.travelled_m - np.array([k.travelled_m for k in keyframes]), 0.0)
    apart = np.linalg.norm(gaps_m, axis=1) / (VIEW_M + gates.max_drift * way_m)
    climbed = np.abs(gaps_m[:, 2]) / (VIEW_HEIGHT_M + gates.max_vertical_drift * way_m)
    return np.maximum(apart, climbed)


@dataclass(frozen=True)
class _Places:
    """Where some keyframes are, in arrays.

    Attributes:
        codes: (n,) int64, of the keyframes.
        firsts: (n,) int64, of the keyframes that showed their places first.
        frames: (n,) int64, which frame the position is in.
        positions_m: (n, 3), NaN where unknown.
        rotations: (n, 4) unit quaternions, NaN where unknown.
    """

    codes: np.ndarray
    firsts: np.ndarray
    frames: np.ndarray
    positions_m: np.ndarray
    rotations: np.ndarray

    def some(self, which: Sequence[int]) -> _Places:
        """Those of some indices."""
        return _Places(self.codes[which], self.firsts[which], self.frames[which],
                       self.positions_m[which], self.rotations[which])

    def keyframes_between(self, others: _Places) -> np.ndarray:
        """(n, m) how far apart two are in the order of keyframes, of the earlier laps, too."""
        ways = [np.abs(one[:, None] - other) for one in (self.codes, self.firsts)
                for other in (others.codes, others.firsts)]
        return np.asarray(np.minimum.reduce(ways))

    def are_near(self, others: _Places) -> np.ndarray:
        """(n, m) whether poses in one frame say that two show one place; unknown ones do not."""
        gaps_m = self.positions_m[:, None] - others.positions_m
        cosines = np.abs(self.rotations @ others.rotations.T)  # of half the angle between them
        return ((self.frames[:, None] == others.frames)
                & (np.linalg.norm(gaps_m, axis=2) <= SAME_PLACE_M)
                & (np.abs(gaps_m[:, :, 2]) <= 2.0 * VIEW_HEIGHT_M)
                & (cosines >= math.cos(SAME_PLACE_RAD / 2.0)))

    def are_one(self, others: _Places) -> np.ndarray:
        """(n, m) whether two show one place."""
        return (self.keyframes_between(others) <= PLACE_KEYFRAMES) | self.are_near(others)

    def are_apart(self, others: _Places) -> np.ndarray:
        """(n, m) whether two are known to show different places."""
        return (self.keyframes_between(others) > ELSEWHERE_KEYFRAMES) & ~self.are_near(others)


@dataclass
class ClosureDecision:
    """Decides query by query, and learns from each.

    A view is a query that saw something new: the robot moved since the one before. One that
    stands still gathers no evidence, and does not close the same loop again.

    Args:
        find: the keyframe of an id, or None.
        verify: look whether the mutual matches of a candidate fit one movement; the match comes
            back with its geometry, or as it is where nobody can look.
        unrelated: what is known of unrelated pairs.
    """

    find: Callable[[KeyframeId], Keyframe | None]
    verify: Callable[[Any, Match], Match]
    unrelated: Unrelated = field(default_factory=Unrelated)

    def __post_init__(self) -> None:
        self.filter = PlaceFilter()
        self._views: deque[View] = deque()
        self._first_seen: dict[int, int] = {}  # codes
        self._frames: dict[object, int] = {}
        self._looked: dict[int, float] = {}  # codes
        self._retrieved: dict[KeyframeId, Keyframe] = {}

    def reset(self) -> None:
        """Forget where the robot was: a new session begins, or it was carried."""
        self.filter.reset()
        self._views.clear()
        self._looked.clear()

    def remember(self, keyframe: KeyframeId, closed_with: KeyframeId) -> None:
        """A new keyframe shows the place of an older one, however far odometry has drifted."""
        self._first_seen[self.filter.code(keyframe)] = self._first_code(
            self.filter.code(closed_with))

    def kept(self, keyframe_id: KeyframeId) -> None:
        """The newest view became a keyframe."""
        if self._views:
            self._views[-1].keyframe_id = keyframe_id

    @property
    def hypotheses(self) -> int:
        """At how many distinct places the robot may be."""
        states, masses = self._likely(self.filter.belief)
        places = self._places([self.filter.keyframe_id(code) for code in states.tolist()], states)
        are_one, found = places.are_one(places), 0
        while len(masses) and masses.max() > 0.0:
            near = are_one[masses.argmax()]
            found += bool(masses[near].sum() >= HYPOTHESIS)
            masses[near] = 0.0
        return found

    @staticmethod
    def _likely(belief: Belief) -> tuple[np.ndarray, np.ndarray]:
        """Codes and probabilities of the states that matter."""
        known = belief.probabilities > LEAST_MASS
        return belief.codes[known], belief.probabilities[known]

    def judge(
        self, query: Any, matches: list[Match], is_new_view: bool, gates: GateSettings, *,
        comparable: int = 0, moved_m: float = math.nan, here: Whereabouts = NOWHERE,
    ) -> Verdict:
        """Judge a query's matches.

        Args:
            query: handed on to `verify` and to the earlier closures.
            matches: in re-ranked order, best first.
            is_new_view: whether the robot moved since the last view.
            gates: the current settings.
            comparable: keyframes that the query was compared with.
            moved_m: since the last view; NaN where it is not known.
            here: where the query was taken.
        """
        keyframes = [match.keyframe for match in matches]
        self._retrieved = {keyframe.id: keyframe for keyframe in keyframes}
        odometry = _odometry_ratios(keyframes, here, gates)
        impossible = odometry > 1.0  # NaN, where nobody knows, is no reason
        codes = np.array([self.filter.code(k.id) for k in keyframes], np.int64)
        ratios = np.where(
            impossible, 0.0, self._weigh(matches, codes, impossible, is_new_view))
        candidates = [
            Candidate(match, Decision.REJECT_UNSURE, likelihood_ratio=ratio, odometry_ratio=limit)
            for match, ratio, limit in zip(matches, ratios.tolist(), odometry.tolist(),
                                           strict=True)]
        if is_new_view:
            steps = self._steps(keyframes, moved_m)
            self.filter.look_back = gates.look_back
            self.filter.update(codes, ratios, comparable, steps)
            self._views.append(View(query, codes, candidates))
            while len(self._views) > gates.look_back + 1:
                self._views.popleft()
        belief = self.filter.belief
        judged = self._judge(query, candidates, codes, belief, gates, is_new_view)
        if not is_new_view:
            return Verdict(judged, [])
        self._views[-1].candidates = judged
        self._views[-1].is_settled = _is_settled(judged)
        is_known = 1.0 - belief.new > LOOK_AGAIN_ABOVE
        return Verdict(judged, list(self._look_again(gates)) if is_known else [])

    # ---- evidence ------------------------------------------------------------------------------

    def _weigh(
        self, matches: Sequence[Match], codes: np.ndarray, impossible: np.ndarray,
        is_new_view: bool,
    ) -> np.ndarray:
        """(K,) likelihood ratios of the candidates, and learn what unrelated ones are like."""
        if not len(matches):
            return np.empty(0)
        scores = np.array([match.score for match in matches])
        best = int(np.where(impossible, -1.0, scores).argmax())
        places = self._places([match.keyframe.id for match in matches], codes)
        apart = self._known_elsewhere(scores, places, best, impossible)
        deviations, known = self.unrelated.standardise(scores, apart)
        looked = np.array([self._looked.get(code, 0.0) for code in codes.tolist()])
        ratios = known.ratios(deviations, looked * self.filter.stays_new)
        if is_new_view:
            shares = (scores / max(float(scores[best]), 1e-9)).clip(max=1.0)**LOOK_EXPONENT
            self._look(codes, known.looks(deviations) * shares)
            self.unrelated = known if impossible[best] else known.learn_best(
                float(deviations[best]), self.filter.belief.new)
        return ratios

    def _known_elsewhere(
        self, scores: np.ndarray, places: _Places, best: int, impossible: np.ndarray
    ) -> np.ndarray:
        """(K,) whether candidates show another place than the best one, by chance alike.

        A copy of the place where odometry says that the robot is not, such as the same corridor on
        another floor, is elsewhere too, but what it shares with the view is no chance.
        """
        apart = places.are_apart(places.some([best]))[:, 0]
        alone, _ = self.unrelated.standardise(scores, np.zeros(len(scores), bool))
        look_alike = impossible & (self.unrelated.looks(alone) >= COPY_LOOKS)
        for _ in range(MOST_COPIES):
            if not (apart & look_alike).any():
                break
            copy = int(np.where(apart & look_alike, scores, -1.0).argmax())
            apart = apart & places.are_apart(places.some([copy]))[:, 0]
        return np.asarray(apart)

    def _look(self, codes: np.ndarray, looks: np.ndarray) -> None:
        """Remember which keyframes looked most like the view: that they do again tells little."""
        looked = {code: faded for code, before in self._looked.items()
                  if (faded := LOOK_FADES * before) > LEAST_LOOK}
        for code, look in zip(codes.tolist(), looks.tolist(), strict=True):
            looked[code] = max(look, looked.get(code, 0.0))
        self._looked = looked

    @staticmethod
    def _steps(keyframes: Sequence[Keyframe], moved_m: float) -> float:
        """How many keyframes the robot has passed since the last view."""
        best = next((k for k in keyframes if k.id.keyframe_id > 1 and k.travelled_m > 0.0), None)
        if best is None or math.isnan(moved_m):
            return 1.0
        return moved_m / (best.travelled_m / (best.id.keyframe_id - 1))

    # ---- places --------------------------------------------------------------------------------

    def _places(self, ids: Sequence[KeyframeId], codes: np.ndarray) -> _Places:
        found = [self._retrieved.get(each) or self.find(each) for each in ids]
        frames = [k.map_pose.frame if k and k.map_pose else each.session
                  for each, k in zip(ids, found, strict=True)]
        numbers = [self._frames.setdefault(frame, len(self._frames)) for frame in frames]
        poses = [k.place if k else None for k in found]
        firsts = [self._first_code(code) for code in codes.tolist()]
        return _Places(codes, np.array(firsts, np.int64),
                       np.array(numbers, np.int64),
                       np.array([_position(pose) for pose in poses]).reshape(-1, 3),
                       np.array([pose.rotation if pose else NO_ROTATION
                                 for pose in poses]).reshape(-1, 4))

    def _first_code(self, code: int) -> int:
        """Of the keyframe that first showed a place: closures tell, of their neighbours, too."""
        if not self._first_seen:
            return code
        beside = (self._first_seen.get(code + away) for away in NEAREST_FIRST)
        return next((first for first in beside if first is not None), code)

    def _probabilities(
        self, candidates: Sequence[Candidate], codes: np.ndarray, belief: Belief
    ) -> tuple[np.ndarray, np.ndarray]:
        """(K,) probability of being at the place of each candidate, and of seeing what it shows.

        Keyframes of one place show more or less of the same view: the second is the first one's
        share of what the best of the place has in common with the query.
        """
        states, probabilities = self._likely(belief)
        ids = [self.filter.keyframe_id(code) for code in states.tolist()]
        own = self._places([candidate.match.keyframe.id for candidate in candidates], codes)
        masses = own.are_one(self._places(ids, states)) @ probabilities
        ratios = np.array([candidate.likelihood_ratio for candidate in candidates])
        masses *= np.minimum(1.0, ratios / LEAST_OWN_RATIO)
        scores = np.array([candidate.match.score for candidate in candidates])
        best = np.where(own.are_one(own), scores, 0.0).max(axis=1)
        shares = (scores / np.maximum(best, 1e-9))**SHARE_EXPONENT
        return masses.clip(max=1.0), masses.clip(max=1.0) * shares

    # ---- verdicts ------------------------------------------------------------------------------

    def _judge(
        self, query: Any, candidates: list[Candidate], codes: np.ndarray, belief: Belief,
        gates: GateSettings, is_new_view: bool,
    ) -> list[Candidate]:
        """Candidates with their probabilities and verdicts; the best of a place has its."""
        if not candidates:
            return []
        at_place, probabilities = self._probabilities(candidates, codes, belief)
        standings = [Standing(candidate, place, belief.new, is_new_view)
                     for candidate, place in zip(candidates, at_place.tolist(), strict=True)]
        # Of the candidates of a sure place, the best one counts.
        judged = [
            replace(standing.candidate, probability=probability,
                    decision=ask(PLACE_GATES, standing, gates, Decision.REJECT_DUPLICATE))
            for standing, probability in zip(standings, probabilities.tolist(), strict=True)]
        sure = [i for i, c in enumerate(judged) if c.decision is Decision.REJECT_DUPLICATE]
        if sure:
            surest = max(sure, key=lambda i: judged[i].match.score)
            best = self._best_of_place(judged, codes, surest)
            winner = replace(judged[best], probability=float(at_place[surest]))
            judged[best] = self._judge_best(
                query, replace(standings[best], candidate=winner), gates)
        return judged

    def _best_of_place(
        self, candidates: Sequence[Candidate], codes: np.ndarray, surest: int
    ) -> int:
        """The one with most in common with the query, of those that show the place of one."""
        places = self._places([candidate.match.keyframe.id for candidate in candidates], codes)
        are_one = places.are_one(places.some([surest]))[:, 0]
        return max((i for i, candidate in enumerate(candidates)
                    if are_one[i] and candidate.decision is not Decision.REJECT_ODOMETRY),
                   key=lambda i: candidates[i].match.score)

    def _judge_best(self, query: Any, standing: Standing, gates: GateSettings) -> Candidate:
        """The best candidate of a sure place: what geometry and motion say."""
        candidate = standing.candidate
        candidate = replace(candidate, match=self.verify(query, candidate.match))
        standing = replace(standing, candidate=candidate)
        return replace(
            candidate, decision=ask(BEST_GATES, standing, gates, Decision.ACCEPTED))

    def _look_again(self, gates: GateSettings) -> Iterator[LoopClosure]:
        """Views that have become sure by those after them, the oldest first."""
        views = list(self._views)[:-1]
        if all(view.is_settled or not view.candidates for view in views):
            return
        beliefs = self.filter.look_again()[:-1]
        for view, belief in zip(views[-len(beliefs):], beliefs[-len(views):], strict=True):
            if view.is_settled or not view.candidates:
                continue
            judged = self._judge(view.query, view.candidates, view.codes, belief, gates, True)
            view.is_settled = _is_settled(judged)
            closed = next((c for c in judged if c.decision is Decision.ACCEPTED), None)
            if closed:
                if view.keyframe_id:
                    self.remember(view.keyframe_id, closed.match.keyframe.id)
                yield LoopClosure(view.query, view.keyframe_id, judged)


def _is_settled(candidates: Sequence[Candidate]) -> bool:
    """Whether nothing that is seen later changes the verdict."""
    return any(candidate.decision in FINAL for candidate in candidates)
