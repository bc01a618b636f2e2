"""Stage 5, what chance does: the scores of candidates that are known to show another place.

How many features two unrelated images share belongs to the site, the light and the model, so no
shipped number can be right. It is learned from every query: most of its candidates are elsewhere,
and how they score tells what a score is worth. An image of much structure shares more with
everything; therefore each query has a level of its own, drawn towards the usual one as long as few
of its candidates are known to be elsewhere (an empirical Bayes estimate, as of a random effect).
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

# The level before anything is learned, of each kind of score (`Match.score`); rather too high.
USUAL_OVERLAP, USUAL_MATCHES, USUAL_SIMILARITY = 0.05, 0.5, 1.5
# Candidates of a query are neighbours of each other: three of them tell as much as one alone.
CORRELATED = 3.0
# No level is lower: a few neighbours that move alike are found in any two images.
LEAST_LEVEL = 0.002
# Of candidates elsewhere, those farther above the level than that count as this far.
COPY_DEVIATIONS = 4.0
# Squared deviation of the usual level, as a share of it, before anything is learned.
UNKNOWN_LEVEL = 0.2
# What is learned holds for so many candidates, and so many queries, before it fades.
MEMORY, LEVEL_MEMORY = 400.0, 50.0
# No site is so uniform that its scores differ by less than this share.
LEAST_DEVIATION = 0.02
# Of the best candidate of a query at a new place, in deviations: that of twenty draws that depend
# on each other; how much this prior weighs, in queries; and no site is taken to be tamer.
BEST_MEAN, BEST_DEVIATION, BEST_WEIGHT, LEAST_BEST = 2.9, 1.2, 100.0, 1.0
# Of a candidate of the same place: a gamma density of shape 2 with this mean; and the share of
# them that look like any other place (something stands before the camera).
SAME_MEAN, LOST_SHARE = 12.0, 0.15
# This share of queries at a new place has a best candidate as good as a true one.
FREAK_SHARE = 0.04
# A new place that looked like a keyframe does so again in the next view with this probability.
FREAK_AGAIN = 0.8
# One view weighs no more than this, for a place or against it.
LEAST_RATIO, MOST_RATIO = 0.05, (1.0 - LOST_SHARE) / FREAK_SHARE


def usual_level(*, has_local: bool, is_grid: bool) -> float:
    """What unrelated images score before anything is learned, see `Match.score`; rather too much.

    Args:
        has_local: whether local features are compared; else similarity alone is.
        is_grid: whether they are a grid, so that their overlap counts.
    """
    if not has_local:
        return USUAL_SIMILARITY
    return USUAL_OVERLAP if is_grid else USUAL_MATCHES


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of what was seen, and how much that was.

    Attributes:
        weight: of all samples, older ones counting less.
        mean, variance: of them.
    """

    weight: float
    mean: float
    variance: float

    def add(self, sample: float, weight: float, memory: float) -> Spread:
        """With one more sample; what is beyond `memory` fades."""
        if not (weight > 0.0 and math.isfinite(weight) and math.isfinite(sample)):
            return self
        kept = min(self.weight, memory)
        share = weight / (kept + weight)
        ahead = sample - self.mean
        return Spread(kept + weight, self.mean + share * ahead,
                      (1.0 - share) * (self.variance + share * ahead**2))


@dataclass(frozen=True)
class Unrelated:
    """What is known of unrelated pairs of one model on one map.

    Scores are told as shares of the level: what such pairs have in the mean.

    Attributes:
        level: the usual one.
        between: squared deviation of the levels of single queries.
        within: squared deviation of single candidates from their query's level.
        best: the best candidate of queries at new places, in deviations above its query's level.
        queries: how many were learned from.
    """

    level: float = USUAL_OVERLAP
    between: Spread = Spread(10.0, 0.25**2, 0.0)
    within: Spread = Spread(40.0, 0.15**2, 0.0)
    best: Spread = Spread(BEST_WEIGHT, BEST_MEAN, BEST_DEVIATION**2)
    queries: float = 0.0

    def standardise(
        self, scores: np.ndarray, is_elsewhere: np.ndarray
    ) -> tuple[np.ndarray, Unrelated]:
        """Tell how far scores are above chance, and learn from those that are elsewhere.

        Args:
            scores: (K,) of a query's candidates, not negative.
            is_elsewhere: (K,) bool, whether each is known to show another place than the best.

        Returns:
            (K,) deviations above the query's level, and what is known now.
        """
        apart = self._without_copies(scores[is_elsewhere])
        count, mean = len(apart), float(apart.mean()) if len(apart) else 0.0
        usual = self.level
        trust = count / CORRELATED / self.within.mean
        between = self.between.mean + UNKNOWN_LEVEL / (1.0 + self.queries)
        level_variance = 1.0 / (1.0 / between + trust)
        level = (usual / between + trust * mean) * level_variance
        level = max(level, LEAST_LEVEL)
        deviation = max(math.sqrt(self.within.mean + level_variance), LEAST_DEVIATION)
        return (scores / level - 1.0) / deviation, self._learn(apart, usual, level)

    def _without_copies(self, apart: np.ndarray) -> np.ndarray:
        """Scores, of which the few that are far higher are copies of the place, not chance."""
        if not len(apart):
            return apart
        noise = math.sqrt(self.within.mean + self.between.mean)
        return apart.clip(max=max(self.level, float(np.median(apart)))
                          * (1.0 + COPY_DEVIATIONS * noise))

    def _learn(self, apart: np.ndarray, usual: float, level: float) -> Unrelated:
        if len(apart) < 2:
            return self
        mean = float(apart.mean())
        share = 1.0 / min(self.queries + 1.0, LEVEL_MEMORY)
        variance = float(apart.var(ddof=1)) / level**2
        return replace(
            self, level=max(usual + share * (mean - usual), LEAST_LEVEL),
            between=self.between.add((mean / usual - 1.0)**2, 1.0, LEVEL_MEMORY),
            within=self.within.add(variance, len(apart) - 1.0, MEMORY), queries=self.queries + 1.0)

    def ratios(self, deviations: np.ndarray, looked: np.ndarray | float = 0.0) -> np.ndarray:
        """How much likelier scores are at the same place than somewhere new.

        Args:
            deviations: (K,) above the query's level.
            looked: (K,) how much each looked like the views just before, in [0, 1], see `looks`.

        Returns:
            (K,) likelihood ratios in [LEAST_RATIO, MOST_RATIO]; they never fall with the score.
        """
        freak = FREAK_SHARE + (FREAK_AGAIN - FREAK_SHARE) * looked
        mean, spread = self.best.mean, max(math.sqrt(self.best.variance), LEAST_BEST)
        # What is worse than usual says no more than that.
        at = np.maximum(deviations, max(mean, 0.1))
        # Beyond its mode the density is held: a better score is never less likely the same place.
        same = np.minimum(at, SAME_MEAN / 2.0)
        same = same * (2.0 / SAME_MEAN)**2 * np.exp(-same * (2.0 / SAME_MEAN))
        new = np.exp(-0.5 * ((at - mean) / spread)**2) / (spread * math.sqrt(2.0 * math.pi))
        ratios = ((1.0 - LOST_SHARE) * same + LOST_SHARE * new) / (
            (1.0 - freak) * new + freak * same)
        return np.clip(ratios, LEAST_RATIO, MOST_RATIO)

    def looks(self, deviations: np.ndarray) -> np.ndarray:
        """(K,) in [0, 1], how much keyframes look like the place of the query, wherever it is."""
        return self.ratios(deviations) / MOST_RATIO

    def learn_best(self, deviation: float, new: float) -> Unrelated:
        """Learn from a query that was probably somewhere new, and looked so.

        Args:
            deviation: of its best candidate.
            new: probability that the query was somewhere new.
        """
        ratio = float(self.ratios(np.array([deviation]))[0])
        weight = new * (1.0 - ratio / MOST_RATIO) / (1.0 + ratio)
        return replace(self, best=self.best.add(deviation, weight, MEMORY))

    def to_json(self) -> str:
        """For the map's file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_map(cls, text: str, level: float) -> Unrelated:
        """What a map tells of unrelated images; without it, or if it is damaged, a guess."""
        with suppress(ValueError):
            return cls.from_json(text)
        return cls(level=level)

    @classmethod
    def from_json(cls, text: str) -> Unrelated:
        """What `to_json` wrote; ValueError if it is nothing of that kind."""
        try:
            content = json.loads(text)
            spreads = {name: Spread(**{f.name: float(content[name][f.name])
                                       for f in fields(Spread)})
                       for name in ('between', 'within', 'best')}
            found = cls(level=float(content['level']), queries=float(content['queries']),
                        **spreads)
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f'{type(error).__name__}: {error}') from error
        numbers = [found.level, found.queries, *(
            number for spread in spreads.values() for number in asdict(spread).values())]
        if not all(math.isfinite(number) and number >= 0.0 for number in numbers) or not (
                found.level > 0.0 and found.between.mean > 0.0 and found.within.mean > 0.0):
            raise ValueError(f'{text} has numbers that cannot be')
        return found
