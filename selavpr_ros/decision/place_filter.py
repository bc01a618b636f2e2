"""Stage 5, sequences: where the robot is, by all views together.

A discrete Bayes filter, whose states are the keyframes of the map and "somewhere new". From view
to view the robot follows a known path in either direction, leaves it, or enters one (Xu et al.,
"Probabilistic appearance-invariant topometric localization with new place awareness", 2021;
Cummins and Newman, "FAB-MAP", 2008, for the new place). Only keyframes that were retrieved, or
that the robot may have reached, are ever touched, so that the size of the map costs nothing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from selavpr_ros.maps.keyframe import KeyframeId, SessionId

# Probabilities of entering any known place from somewhere new, and of turning around on a known
# path, from one view to the next; and of leaving the path, for each keyframe that is passed.
ENTER, TURN, LEAVE = 0.1, 0.05, 0.02
# ENTER is spread over at least this many places: a map of a few images does not cover a site.
LEAST_PLACES = 100
# Likelihood ratio of a keyframe that was not among the candidates.
MISSED_RATIO = 0.15
# States of less probability are forgotten, and at most MOST_STATES are kept.
LEAST_BELIEF, MOST_STATES = 1e-7, 200
# Keyframes that the robot passes between two views: the most that count, and their standard
# deviation as a share of them, plus a constant.
MOST_STEPS, STEP_SHARE, STEP_SLACK = 6.0, 0.4, 0.6
# States begin this many keyframes before a session's first, which can be seen from there, too.
LEAD = 4
# The code of a keyframe has the number of its session above this many bits.
BITS = 32


@dataclass(frozen=True, eq=False)
class Belief:
    """Where the robot may be.

    Attributes:
        states: (S,) int64, ascending: the code of a keyframe (`PlaceFilter.code`), negative where
            the robot follows the path of its session backwards.
        probabilities: (S,) of the states.
        new: probability of being somewhere new; with `probabilities` it sums to 1.
    """

    states: np.ndarray
    probabilities: np.ndarray
    new: float

    @property
    def codes(self) -> np.ndarray:
        """(S,) int64 codes of the keyframes, whatever the direction."""
        return np.abs(self.states)


NOWHERE = Belief(np.empty(0, np.int64), np.empty(0), 1.0)


@dataclass(frozen=True, eq=False)
class _Step:
    """What the filter needs of one view to look back."""

    belief: Belief
    ratios: np.ndarray  # (S,) likelihood ratios of the belief's states
    entered: np.ndarray  # (S,) probability of entering each from somewhere new
    offsets: np.ndarray  # (O,) keyframes that the robot may have passed since the view before
    weights: np.ndarray  # (O,) their probabilities
    leave: float  # probability of having left the known path since the view before


def _kernel(steps: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in keyframes and their probabilities, if the robot passed about `steps` of them."""
    steps = min(max(steps, 0.0), MOST_STEPS)
    spread = STEP_SHARE * steps + STEP_SLACK
    offsets = np.arange(-1, math.ceil(steps + 2.0 * spread) + 1)
    weights = np.exp(-0.5 * ((offsets - steps) / spread)**2)
    return offsets, weights / weights.sum()


def _gather(states: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of the wanted states, 0 for those that are absent."""
    if not len(states):
        return np.zeros(wanted.shape)
    at = np.searchsorted(states, wanted).clip(max=len(states) - 1)
    return np.where(states[at] == wanted, values[at], 0.0)


def _with_lead(codes: np.ndarray, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the LEAD states before first keyframes, which can be seen from there, too."""
    is_first = (codes & (2**BITS - 1)) == LEAD + 1
    before = codes[is_first, None] - np.arange(1, LEAD + 1)
    return (np.concatenate([codes, before.ravel()]),
            np.concatenate([ratios, np.repeat(ratios[is_first], LEAD)]))


@dataclass
class PlaceFilter:
    """The filter and what it remembers.

    Attributes:
        belief: the belief after the last view.
        look_back: number of earlier views that are remembered.
    """

    look_back: int = 20
    belief: Belief = NOWHERE
    _steps: deque[_Step] = field(default_factory=deque)
    _sessions: dict[SessionId, int] = field(default_factory=dict)

    def code(self, keyframe_id: KeyframeId) -> int:
        """The code of a keyframe; the codes of a session are consecutive."""
        session = self._sessions.setdefault(keyframe_id.session, len(self._sessions))
        return ((session + 1) << BITS) + LEAD + keyframe_id.keyframe_id

    def keyframe_id(self, code: int) -> KeyframeId:
        """The keyframe of a code; it need not be in the map."""
        session = list(self._sessions)[(code >> BITS) - 1]
        return KeyframeId(session.session_id, (code & (2**BITS - 1)) - LEAD, session.robot_id)

    def reset(self) -> None:
        """Forget where the robot was."""
        self.belief = NOWHERE
        self._steps.clear()

    @property
    def stays_new(self) -> float:
        """Probability that a robot that is somewhere new at the next view is so already."""
        new = self.belief.new
        return new / (new + LEAVE * (1.0 - new))

    def update(
        self, codes: np.ndarray, ratios: np.ndarray, comparable: int, steps: float
    ) -> Belief:
        """Take in a view.

        Args:
            codes: (K,) int64 codes of the retrieved keyframes.
            ratios: (K,) likelihood ratios of each against somewhere new; 0 where the robot cannot
                be.
            comparable: how many keyframes were searched.
            steps: about how many keyframes the robot has passed since the view before.
        """
        offsets, weights = _kernel(steps)
        before = self.belief
        leave = 1.0 - (1.0 - LEAVE)**max(steps, 1.0)
        moved, came = self._move(before, offsets, (1.0 - leave) * weights)
        codes, ratios = _with_lead(codes, ratios)
        met, ratios = np.concatenate([codes, -codes]), np.concatenate([ratios, ratios])
        states, where = np.unique(np.concatenate([moved, met]), return_inverse=True)
        prior = np.bincount(where[: len(moved)], came, len(states)).astype(float)
        entered = np.zeros(len(states))
        entered[where[len(moved):]] = 0.5 * ENTER / max(comparable, LEAST_PLACES, len(codes))
        new = before.new + leave * (1.0 - before.new)
        prior += new * entered
        likelihood = np.full(len(states), MISSED_RATIO)
        likelihood[where[len(moved):]] = ratios
        new *= 1.0 - entered.sum()
        self.belief = self._normalised(states, prior * likelihood, new)
        kept = np.searchsorted(states, self.belief.states)
        self._steps.append(_Step(
            self.belief, likelihood[kept], entered[kept], offsets, weights, leave))
        while len(self._steps) > self.look_back + 1:
            self._steps.popleft()
        return self.belief

    @staticmethod
    def _move(
        before: Belief, offsets: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """States that the robot may have reached along known paths, and their probabilities."""
        starts = np.concatenate([before.states, -before.states])[:, None]
        shares = np.concatenate([(1.0 - TURN) * before.probabilities,
                                 TURN * before.probabilities])[:, None]
        moved = starts + offsets
        # A session has no states more than LEAD keyframes before its first.
        exists = (np.abs(moved) - 1) >> BITS == np.abs(starts) >> BITS
        return moved[exists], (shares * weights)[exists]

    @staticmethod
    def _normalised(states: np.ndarray, masses: np.ndarray, new: float) -> Belief:
        kept = np.flatnonzero(masses >= LEAST_BELIEF * (float(masses.sum()) + new))
        if len(kept) > MOST_STATES:
            kept = np.sort(kept[np.argpartition(masses[kept], -MOST_STATES)[-MOST_STATES:]])
        masses = masses[kept]
        total = float(masses.sum()) + new
        return Belief(states[kept], masses / total, new / total)

    def look_again(self) -> list[Belief]:
        """Beliefs at the remembered views, the oldest first, given all views up to now.

        The backward pass of the forward-backward algorithm (Rabiner 1989).
        """
        found: list[Belief] = []
        after: np.ndarray | None = None
        after_new = 1.0
        for number in range(len(self._steps) - 1, -1, -1):
            step = self._steps[number]
            belief = step.belief
            if after is None:
                after = np.ones(len(belief.states))
            masses, new = belief.probabilities * after, belief.new * after_new
            total = float(masses.sum()) + new
            found.append(Belief(belief.states, masses / total, new / total))
            if number:
                after, after_new = self._before(step, after, after_new,
                                                self._steps[number - 1].belief.states)
        return found[::-1]

    @staticmethod
    def _before(
        step: _Step, after: np.ndarray, after_new: float, states: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Relative likelihood of all later views from each earlier state, and from a new place."""
        values = step.ratios * after
        from_new = float((step.entered * values).sum()) + (
            1.0 - float(step.entered.sum())) * after_new
        ahead, turned = (
            _gather(step.belief.states, values, starts[:, None] + step.offsets) @ step.weights
            for starts in (states, -states))
        stayed = (1.0 - TURN) * ahead + TURN * turned
        fits = (1.0 - step.leave) * stayed + step.leave * from_new
        largest = max(float(fits.max(initial=0.0)), from_new, 1e-300)
        return fits / largest, from_new / largest
