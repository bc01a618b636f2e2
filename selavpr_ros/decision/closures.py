"""Stage 5: which candidate becomes a loop closure, and why the others do not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, replace
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
from selavpr_ros.decision.places import NOWHERE, PlaceBook, Whereabouts, odometry_ratios
from selavpr_ros.decision.unrelated import Unrelated
from selavpr_ros.decision.weighing import Weighing
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.settings import GateSettings

# Where a view itself speaks against a candidate, its place alone is no reason to accept it.
LEAST_OWN_RATIO = 1.0
# Of other places that count as hypotheses.
HYPOTHESIS = 0.05
# Looking back costs time: not before the robot is probably somewhere known.
LOOK_AGAIN_ABOVE = 0.9
# How fast the probability falls with what a keyframe of the place shows less than the best one.
SHARE_EXPONENT = 0.3
# States with less change no verdict.
LEAST_MASS = 1e-4


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


@dataclass
class ClosureDecision:
    """Decides query by query, and learns from each.

    A view is a query that saw something new: the robot moved since the one before. One that
    stands still gathers no evidence, and does not close the same loop again.

    Args:
        find: the keyframe of an id, or None.
        verify: look whether the mutual matches of a candidate fit one movement; the match comes
            back with its geometry, or as it is where nobody can look.
        learned: what is known of unrelated pairs.
    """

    find: Callable[[KeyframeId], Keyframe | None]
    verify: Callable[[Any, Match], Match]
    learned: InitVar[Unrelated] = Unrelated()

    def __post_init__(self, learned: Unrelated) -> None:
        self.filter = PlaceFilter()
        self._weighing = Weighing(learned)
        self._places = PlaceBook(self.find, self.filter)
        self._views: deque[View] = deque()

    def reset(self) -> None:
        """Forget where the robot was: a new session begins, or it was carried."""
        self.filter.reset()
        self._views.clear()
        self._weighing.reset()

    def remember(self, keyframe: KeyframeId, closed_with: KeyframeId) -> None:
        """A new keyframe shows the place of an older one, however far odometry has drifted."""
        self._places.remember(keyframe, closed_with)

    def kept(self, keyframe_id: KeyframeId) -> None:
        """The newest view became a keyframe."""
        if self._views:
            self._views[-1].keyframe_id = keyframe_id

    @property
    def unrelated(self) -> Unrelated:
        """What is known of unrelated pairs by now."""
        return self._weighing.unrelated

    @property
    def hypotheses(self) -> int:
        """At how many distinct places the robot may be."""
        states, masses = self._likely(self.filter.belief)
        places = self._places.of_codes(states)
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
        self._places.at_hand = {keyframe.id: keyframe for keyframe in keyframes}
        codes = np.array([self.filter.code(k.id) for k in keyframes], np.int64)
        odometry = odometry_ratios(keyframes, here, gates)
        ratios = self._weighing.weigh(
            np.array([match.score for match in matches]), self._places.of(keyframes, codes),
            odometry > 1.0,  # NaN, where nobody knows, is no reason
            self.filter.belief.new, self.filter.stays_new, is_new_view=is_new_view)
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

    @staticmethod
    def _steps(keyframes: Sequence[Keyframe], moved_m: float) -> float:
        """How many keyframes the robot has passed since the last view."""
        best = next((k for k in keyframes if k.id.keyframe_id > 1 and k.travelled_m > 0.0), None)
        if best is None or math.isnan(moved_m):
            return 1.0
        return moved_m / (best.travelled_m / (best.id.keyframe_id - 1))

    # ---- places --------------------------------------------------------------------------------

    def _probabilities(
        self, candidates: Sequence[Candidate], codes: np.ndarray, belief: Belief
    ) -> tuple[np.ndarray, np.ndarray]:
        """(K,) probability of being at the place of each candidate, and of seeing what it shows.

        Keyframes of one place show more or less of the same view: the second is the first one's
        share of what the best of the place has in common with the query.
        """
        states, probabilities = self._likely(belief)
        own = self._places.of([candidate.match.keyframe for candidate in candidates], codes)
        masses = own.are_one(self._places.of_codes(states)) @ probabilities
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
        places = self._places.of([candidate.match.keyframe for candidate in candidates], codes)
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
