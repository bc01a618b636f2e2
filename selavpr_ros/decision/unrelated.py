"""Stage 5, scores by chance: how candidates score that are known to show another place.

How many features two unrelated images share depends on the site, the light and the model, so no
shipped number can be right. It is learned from every query: most candidates show other places, and
their scores are those of chance. An image with much structure shares more with every other image;
therefore each query has a level of its own, drawn towards the usual one as long as few of its
candidates are known to be elsewhere (an empirical Bayes estimate, as of a random effect).
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

# Level of each kind of score (`Match.score`) before anything is learned; rather too high.
USUAL_OVERLAP, USUAL_MATCHES, USUAL_SIMILARITY = 0.05, 0.5, 1.5
# Candidates of a query are neighbours: this many tell as much as one that is independent.
CORRELATED = 3.0
# The lowest level: any two images have a few neighbouring features that move alike.
LEAST_LEVEL = 0.002
# Scores of candidates elsewhere are clipped at this many deviations above the level.
COPY_DEVIATIONS = 4.0
# Squared deviation of the usual level, as a share of it, before anything is learned.
UNKNOWN_LEVEL = 0.2
# How many candidates, and how many queries' levels, are remembered before old ones fade.
MEMORY, LEVEL_MEMORY = 400.0, 50.0
# The lowest deviation of scores, as a share of the level, even at a uniform site.
LEAST_DEVIATION = 0.02
# The best candidate of a query at a new place, in deviations above the level. The prior is the
# maximum of twenty dependent draws: its mean and deviation, its weight in queries, and the lowest
# deviation that is used.
BEST_MEAN, BEST_DEVIATION, BEST_WEIGHT, LEAST_BEST = 2.9, 1.2, 100.0, 1.0
# A candidate of the same place scores by a gamma density of shape 2 with this mean; this share of
# them looks like any other place (something blocks the camera).
SAME_MEAN, LOST_SHARE = 12.0, 0.15
# This share of queries at a new place has a best candidate as good as a true one.
FREAK_SHARE = 0.04
# A new place that looked like a keyframe does so again in the next view with this probability.
FREAK_AGAIN = 0.8
# Bounds of the likelihood ratio of one view.
LEAST_RATIO, MOST_RATIO = 0.05, (1.0 - LOST_SHARE) / FREAK_SHARE


def usual_level(*, has_local: bool, is_grid: bool) -> float:
    """The score of unrelated images before anything is learned, see `Match.score`; rather high.

    Args:
        has_local: whether local features are compared; else similarity is the score.
        is_grid: whether local features lie on a grid; then their overlap is the score.
    """
    if not has_local:
        return USUAL_SIMILARITY
    return USUAL_OVERLAP if is_grid else USUAL_MATCHES


@dataclass(frozen=True)
class Spread:
    """Mean and variance of weighted samples.

    Attributes:
        weight: total weight of the samples; older ones count less.
        mean, variance: mean and variance of the samples.
    """

    weight: float
    mean: float
    variance: float

    def add(self, sample: float, weight: float, memory: float) -> Spread:
        """With one more sample; all samples before weigh at most `memory` together."""
        if not (weight > 0.0 and math.isfinite(weight) and math.isfinite(sample)):
            return self
        kept = min(self.weight, memory)
        share = weight / (kept + weight)
        ahead = sample - self.mean
        return Spread(kept + weight, self.mean + share * ahead,
                      (1.0 - share) * (self.variance + share * ahead**2))


@dataclass(frozen=True)
class Unrelated:
    """What was learned of unrelated pairs of images, for one model on one map.

    Scores are expressed as shares of the level, which is the mean score of such pairs.

    Attributes:
        level: the usual level.
        between: squared deviation of the levels of single queries from the usual level.
        within: squared deviation of single candidates from their query's level.
        best: the best candidate of queries at new places, in deviations above its query's level.
        queries: how many queries were learned from.
    """

    level: float = USUAL_OVERLAP
    between: Spread = Spread(10.0, 0.25**2, 0.0)
    within: Spread = Spread(40.0, 0.15**2, 0.0)
    best: Spread = Spread(BEST_WEIGHT, BEST_MEAN, BEST_DEVIATION**2)
    queries: float = 0.0

    def standardise(
        self, scores: np.ndarray, is_elsewhere: np.ndarray
    ) -> tuple[np.ndarray, Unrelated]:
        """Tell how far scores are above chance, and learn from the candidates elsewhere.

        Args:
            scores: (K,) scores of a query's candidates, not negative.
            is_elsewhere: (K,) bool, whether each is known to show another place than the best.

        Returns:
            (K,) scores in deviations above the query's level, and what is known now.
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
        """Clip scores that are far higher: they show copies of the place, not chance."""
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
        """Likelihood ratios of scores: the same place against somewhere new.

        Args:
            deviations: (K,) scores in deviations above the query's level.
            looked: (K,) how much each looked like the views just before, in [0, 1], see `looks`.

        Returns:
            (K,) likelihood ratios in [LEAST_RATIO, MOST_RATIO]; they never fall with the score.
        """
        freak = FREAK_SHARE + (FREAK_AGAIN - FREAK_SHARE) * looked
        mean, spread = self.best.mean, max(math.sqrt(self.best.variance), LEAST_BEST)
        # A score below the usual one counts like the usual one.
        at = np.maximum(deviations, max(mean, 0.1))
        # Beyond its mode the density stays constant, so that no better score lowers the ratio.
        same = np.minimum(at, SAME_MEAN / 2.0)
        same = same * (2.0 / SAME_MEAN)**2 * np.exp(-same * (2.0 / SAME_MEAN))
        new = np.exp(-0.5 * ((at - mean) / spread)**2) / (spread * math.sqrt(2.0 * math.pi))
        ratios = ((1.0 - LOST_SHARE) * same + LOST_SHARE * new) / (
            (1.0 - freak) * new + freak * same)
        return np.clip(ratios, LEAST_RATIO, MOST_RATIO)

    def looks(self, deviations: np.ndarray) -> np.ndarray:
        """(K,) in [0, 1]: how much keyframes look like the query's place, wherever they are."""
        return self.ratios(deviations) / MOST_RATIO

    def learn_best(self, deviation: float, new: float) -> Unrelated:
        """Learn from a query's best candidate, weighted by how surely the query was somewhere new.

        Args:
            deviation: score of the best candidate in deviations above the query's level.
            new: probability that the query was somewhere new.
        """
        ratio = float(self.ratios(np.array([deviation]))[0])
        weight = new * (1.0 - ratio / MOST_RATIO) / (1.0 + ratio)
        return replace(self, best=self.best.add(deviation, weight, MEMORY))

    def to_json(self) -> str:
        """What was learned, as text for the map's file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_map(cls, text: str, level: float) -> Unrelated:
        """What `text` of a map's file says; only `level` if the text is missing or damaged."""
        with suppress(ValueError):
            return cls.from_json(text)
        return cls(level=level)

    @classmethod
    def from_json(cls, text: str) -> Unrelated:
        """What `to_json` wrote; ValueError if the text is of another kind."""
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
