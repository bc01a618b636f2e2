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

# A candidate whose own likelihood ratio is below this loses probability in proportion: to show a
# likely place is not enough, if the view itself speaks against the candidate.
LEAST_OWN_RATIO = 1.0
# Probability from which a place counts as a hypothesis.
HYPOTHESIS = 0.05
# Looking back costs time; it is done only above this probability of being somewhere known.
LOOK_AGAIN_ABOVE = 0.9
# The probability of a keyframe is scaled by its share of its place's best score, to this power.
SHARE_EXPONENT = 0.3
# States of less probability are left out; they change no verdict.
LEAST_MASS = 1e-4


@dataclass(eq=False)
class View:
    """A query that saw something new, kept as long as later ones may still make it sure.

    Attributes:
        query: the query, as `verify` takes it.
        codes: (K,) codes of its candidates in the filter.
        candidates: its candidates in the same order.
        keyframe_id: the keyframe that it became in the map, or None.
        is_settled: whether no later view changes its verdict.
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
        query: the query as it was given to `judge`.
        keyframe_id: the keyframe that the query became in the map, or None.
        candidates: all candidates of the query, judged by what is known now; one is accepted.
    """

    query: Any
    keyframe_id: KeyframeId | None
    candidates: list[Candidate]

    @property
    def candidate(self) -> Candidate:
        """The accepted candidate."""
        return next(c for c in self.candidates if c.decision is Decision.ACCEPTED)


@dataclass(frozen=True)
class Verdict:
    """What was decided on a query.

    Attributes:
        candidates: one per match, in the same order; at most one is accepted.
        earlier: loop closures of earlier queries, the oldest first.
    """

    candidates: list[Candidate]
    earlier: list[LoopClosure]


@dataclass
class ClosureDecision:
    """Decides query by query, and learns from each.

    A view is a query that saw something new: the robot moved since the view before. A robot that
    stands still gathers no evidence, and does not close the same loop again.

    Args:
        find: returns the keyframe of an id, or None.
        verify: computes whether the mutual matches of a candidate fit one movement; returns the
            match with its geometry, or unchanged where geometry cannot be computed.
        learned: what was learned of unrelated pairs before.
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
        """Forget where the robot was: a new session begins, or the robot was carried."""
        self.filter.reset()
        self._views.clear()
        self._weighing.reset()

    def remember(self, keyframe: KeyframeId, closed_with: KeyframeId) -> None:
        """Note that a keyframe shows the place of an older one, however far odometry drifted."""
        self._places.remember(keyframe, closed_with)

    def kept(self, keyframe_id: KeyframeId) -> None:
        """Note that the newest view became a keyframe."""
        if self._views:
            self._views[-1].keyframe_id = keyframe_id

    @property
    def unrelated(self) -> Unrelated:
        """What was learned of unrelated pairs by now."""
        return self._weighing.unrelated

    @property
    def hypotheses(self) -> int:
        """Number of distinct places where the robot may be."""
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
            query: passed to `verify`, and kept in loop closures.
            matches: in re-ranked order, best first.
            is_new_view: whether the robot moved since the last view.
            gates: the current settings.
            comparable: number of keyframes that the query was compared with.
            moved_m: metres since the last view; NaN if unknown.
            here: where the query was taken.
        """
        keyframes = [match.keyframe for match in matches]
        self._places.at_hand = {keyframe.id: keyframe for keyframe in keyframes}
        codes = np.array([self.filter.code(k.id) for k in keyframes], np.int64)
        odometry = odometry_ratios(keyframes, here, gates)
        ratios = self._weighing.weigh(
            np.array([match.score for match in matches]), self._places.of(keyframes, codes),
            odometry > 1.0,  # False for NaN: unknown odometry excludes nothing
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
        """(K,) probabilities of being at each candidate's place, and (K,) of each candidate.

        Keyframes of one place show more or less of the query's view: the second probability is
        the first one, scaled by the candidate's share of the best score of its place.
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
        """Candidates with probabilities and verdicts; the best of a sure place has the place's."""
        if not candidates:
            return []
        at_place, probabilities = self._probabilities(candidates, codes, belief)
        standings = [Standing(candidate, place, belief.new, is_new_view)
                     for candidate, place in zip(candidates, at_place.tolist(), strict=True)]
        # Candidates of a sure place are duplicates, except for the best one.
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
        """Index of the candidate with the best score of those that show the place of `surest`."""
        places = self._places.of([candidate.match.keyframe for candidate in candidates], codes)
        are_one = places.are_one(places.some([surest]))[:, 0]
        return max((i for i, candidate in enumerate(candidates)
                    if are_one[i] and candidate.decision is not Decision.REJECT_ODOMETRY),
                   key=lambda i: candidates[i].match.score)

    def _judge_best(self, query: Any, standing: Standing, gates: GateSettings) -> Candidate:
        """The best candidate of a sure place, judged by geometry and motion."""
        candidate = standing.candidate
        candidate = replace(candidate, match=self.verify(query, candidate.match))
        standing = replace(standing, candidate=candidate)
        return replace(
            candidate, decision=ask(BEST_GATES, standing, gates, Decision.ACCEPTED))

    def _look_again(self, gates: GateSettings) -> Iterator[LoopClosure]:
        """Loop closures of earlier views that later ones have made sure, the oldest first."""
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
    """Whether no later view changes the verdict."""
    return any(candidate.decision in FINAL for candidate in candidates)
