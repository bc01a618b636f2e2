"""Stage 5, evidence: how much one view speaks for each of its candidates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from selavpr_ros.decision.places import Places
from selavpr_ros.decision.unrelated import Unrelated

# At most this many keyframes where odometry says that the robot cannot be are taken as copies of
# its place, if they look like it by this much (`Unrelated.looks`).
MOST_COPIES, COPY_LOOKS = 4, 0.5
# From view to view, how much a keyframe looked like the views fades by this factor; less than
# LEAST_LOOK is forgotten.
LOOK_FADES, LEAST_LOOK = 0.8, 0.01
# How much a keyframe looks like the view is scaled by its share of the best score, to this power.
LOOK_EXPONENT = 4.0


@dataclass(eq=False)
class Weighing:
    """Turns scores into likelihood ratios, and learns from every query.

    Attributes:
        unrelated: what was learned of unrelated pairs.
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
        """Compute likelihood ratios of a query's candidates, and learn from the unrelated ones.

        Args:
            scores: (K,) scores of the candidates, see `Match.score`.
            places: places of the candidates.
            impossible: (K,) bool, whether odometry says that the robot cannot be there.
            new: probability that the robot is somewhere new.
            stays_new: probability that it was so at the view before, if it is now.
            is_new_view: whether the robot moved since the last view; else nothing is learned.

        Returns:
            (K,) likelihood ratios of each against somewhere new; 0 where impossible.
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
        """(K,) whether candidates show another place than the best one, and are like it by chance.

        A copy of the place, such as the same corridor on another floor, is elsewhere by odometry,
        but what it shares with the view is not chance, so copies and their places are left out.
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
        """Remember how much keyframes looked like the view: to do so again is weak evidence."""
        looked = {code: faded for code, before in self._looked.items()
                  if (faded := LOOK_FADES * before) > LEAST_LOOK}
        for code, look in zip(codes.tolist(), looks.tolist(), strict=True):
            looked[code] = max(look, looked.get(code, 0.0))
        self._looked = looked
