"""Stage 4: what speaks for a candidate, before anybody decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from selavpr_ros.keyframe import Keyframe
from selavpr_ros.local_codec import EncodedFeatures
from selavpr_ros.matching import NO_MATCHES, LocalMatches, match_encoded
from selavpr_ros.models.base import VprModel

if TYPE_CHECKING:
    from selavpr_ros.geometry import Geometry

CELLS = 4  # a side of the grid that `spread` looks at


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
        mean_similarity: mean cosine of the mutual matches; NaN without any.
        spread: how evenly the mutual matches lie over the query image, in [0, 1]: 0 is in one
            cell of 4 x 4, 1 the same number in all; NaN where they are no grid, or none.
        surplus: the share of local features that match beyond what unrelated images give, 1 is
            all of them; NaN without a calibration.
        geometry: whether the mutual matches fit one movement; None where nobody looked.
        probability: that both show the same place, in [0, 1]; NaN without a calibration.
        pairs: the mutual matches.
    """

    keyframe: Keyframe
    rank_global: int
    similarity: float
    local_matches: int
    local_score: float
    mean_similarity: float = math.nan
    spread: float = math.nan
    surplus: float = math.nan
    geometry: Geometry | None = None
    probability: float = math.nan
    pairs: LocalMatches = NO_MATCHES

    @property
    def inlier_score(self) -> float:
        """Inliers / the most local features that the model can have; NaN where nobody looked."""
        if self.geometry is None or not self.local_matches:
            return math.nan
        return self.local_score * self.geometry.count / self.local_matches

    def with_pairs(self, pairs: LocalMatches, most: int, positions: np.ndarray | None) -> Match:
        """The same candidate, its local features compared.

        Args:
            pairs: mutual matches with it.
            most: local features that an image can have.
            positions: (N, 2) of the query's local features, or None where they are no grid.
        """
        return replace(
            self, pairs=pairs, local_matches=len(pairs), local_score=len(pairs) / most,
            mean_similarity=float(pairs.similarity.mean()) if len(pairs) else math.nan,
            spread=math.nan if positions is None else spread_of(positions[pairs.pairs[:, 0]]))


def rerank(
    matches: Sequence[Match], query: torch.Tensor, features: Sequence[EncodedFeatures | None],
    model: VprModel,
) -> list[Match]:
    """Compare local features, and order candidates by their mutual matches.

    Args:
        matches: K candidates by similarity; the more similar one wins a tie.
        query: (N, d) float32 unit rows.
        features: K local features as the map keeps them; None has none.
        model: whose they are.
    """
    most, positions = model.max_local_features, model.local_positions()
    found = match_encoded(query, features, model.match_similarity)
    compared = [match.with_pairs(pairs, most, positions)
                for match, pairs in zip(matches, found, strict=True)]
    return sorted(compared, key=lambda match: -match.local_matches)


def spread_of(positions: np.ndarray) -> float:
    """Entropy of points (P, 2) in [0, 1] over a grid of cells, as a share of the highest one."""
    if not len(positions):
        return math.nan
    cells = (positions * CELLS).astype(int).clip(0, CELLS - 1)
    counts = np.bincount(CELLS * cells[:, 1] + cells[:, 0])
    shares = counts[counts > 0] / len(positions)
    return float(-(shares * np.log(shares)).sum() / math.log(CELLS * CELLS))
