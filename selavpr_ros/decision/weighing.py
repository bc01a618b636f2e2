"""Stage 5, evidence: how much one view speaks for each of its candidates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from selavpr_ros.decision.places import Places
from selavpr_ros.decision.unrelated import Unrelated

# Where odometry says the robot is not: so many copies of a place are no chance, if they look like
# the place (`Unrelated.looks`).
MOST_COPIES, COPY_LOOKS = 4, 0.5
# What a keyframe looked like is forgotten by so much from view to view.
LOOK_FADES, LEAST_LOOK = 0.8, 0.01
# Of those that looked like it less than the best one, this power of their share.
LOOK_EXPONENT = 4.0


@dataclass(eq=False)
class Weighing:
    """Makes likelihood ratios of scores, and learns from every query.

    Attributes:
        unrelated: what is known of unrelated pairs.
    """

    unrelated: Unrelated
    _looked: dict[int, float] = field(default_factory=dict)  # codes

    def reset(self) -> None:
        """Forget what the last views looked like; what was learned stays."""
        self._looked.clear()

    def weigh(
        self, scores: np.ndarray, places: Places, impossible: np.ndarray, new: float,
        stays_new: float, *, is_new_view: bool,
    ) -> np.ndarray:
        """Likelihood ratios of a query's candidates, and learn what unrelated ones are like.

        Args:
            scores: (K,) of the candidates, see `Match.score`.
            places: of the candidates.
            impossible: (K,) bool, where odometry says that the robot cannot be.
            new: probability that the robot is somewhere new.
            stays_new: probability that it was so in the view before, if it is now.
            is_new_view: whether there is anything to learn from the query.

        Returns:
            (K,), how much likelier the query is at each than somewhere new; 0 where impossible.
        """
        if not len(scores):
            return np.empty(0)
        best = int(np.where(impossible, -1.0, scores).argmax())
        apart = self._known_elsewhere(scores, places, best, impossible)
        deviations, known = self.unrelated.standardise(scores, apart)
        looked = np.array([self._looked.get(code, 0.0) for code in places.codes.tolist()])
        ratios = known.ratios(deviations, looked * stays_new)
        if is_new_view:
            shares = (scores / max(float(scores[best]), 1e-9)).clip(max=1.0)**LOOK_EXPONENT
            self._look(places.codes, known.looks(deviations) * shares)
            self.unrelated = known if impossible[best] else known.learn_best(
                float(deviations[best]), new)
        return np.where(impossible, 0.0, ratios)

    def _known_elsewhere(
        self, scores: np.ndarray, places: Places, best: int, impossible: np.ndarray
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
