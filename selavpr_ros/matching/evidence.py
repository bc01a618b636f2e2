"""Stage 4: the evidence for a candidate, before the decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from selavpr_ros.maps.keyframe import Keyframe
from selavpr_ros.maps.local_codec import EncodedFeatures
from selavpr_ros.matching.mutual import NO_MATCHES, LocalMatches, match_encoded, mutual_matches
from selavpr_ros.models.base import VprModel

if TYPE_CHECKING:
    from selavpr_ros.matching.geometry import Geometry

CELLS = 4  # cells along a side of the grid of `spread`
MOST_APART = 1.5  # cells by which moves of neighbours that belong together may differ


@dataclass(frozen=True)
class Match:
    """A retrieved keyframe with its evidence.

    Attributes:
        keyframe: the retrieved keyframe.
        rank_global: order by similarity, 0 first.
        similarity: cosine of the global descriptors.
        local_matches: number of mutual matches; 0 where local features are not compared.
        local_score: local_matches / the most that the model can have, in [0, 1]; NaN where
            local features are not compared.
        mean_similarity: mean cosine of the mutual matches; NaN without any.
        spread: how evenly the mutual matches lie over the query image, in [0, 1]: 0 if all are in
            one of 4 x 4 cells, 1 if all cells have the same number. NaN without mutual matches,
            or if local features do not lie on a grid.
        overlap: how much of the view both images have in common, in [0, 1] (`overlap_of`); NaN if
            local features do not lie on a grid.
        geometry: how far the mutual matches fit one movement; None if it was not computed.
        pairs: the mutual matches.
    """

    keyframe: Keyframe
    rank_global: int
    similarity: float
    local_matches: int
    local_score: float
    mean_similarity: float = math.nan
    spread: float = math.nan
    overlap: float = math.nan
    geometry: Geometry | None = None
    pairs: LocalMatches = NO_MATCHES

    @property
    def score(self) -> float:
        """The best evidence for the same place, not negative: `overlap` if it is known, else
        `local_score`, else similarity + 1.
        """
        if math.isnan(self.local_score):
            return max(0.0, 1.0 + self.similarity)
        return self.local_score if math.isnan(self.overlap) else self.overlap

    def with_pairs(self, pairs: LocalMatches, most: int, positions: np.ndarray | None) -> Match:
        """The same match with the results of comparing local features.

        Args:
            pairs: mutual matches of the query with the keyframe.
            most: number of local features that an image can have.
            positions: (N, 2) of both images' local features, or None if they lie on no grid.
        """
        return replace(
            self, pairs=pairs, local_matches=len(pairs), local_score=len(pairs) / most,
            mean_similarity=float(pairs.similarity.mean()) if len(pairs) else math.nan,
            spread=math.nan if positions is None else spread_of(positions[pairs.pairs[:, 0]]),
            overlap=math.nan if positions is None else overlap_of(pairs.pairs, positions))


def rerank(
    matches: Sequence[Match], query: torch.Tensor, features: Sequence[EncodedFeatures | None],
    model: VprModel,
) -> list[Match]:
    """Compare local features, and order candidates by their mutual matches.

    Args:
        matches: K candidates by similarity; the more similar one wins a tie.
        query: (N, d) float32 unit rows.
        features: K local features as the map keeps them; None for a keyframe without.
        model: the model that made the features.
    """
    most, positions = model.max_local_features, model.local_positions()
    found = match_encoded(query, features, model.match_similarity)
    compared = [match.with_pairs(pairs, most, positions)
                for match, pairs in zip(matches, found, strict=True)]
    return sorted(compared, key=lambda match: -match.local_matches)


def _neighbours(rows: int, columns: int) -> int:
    """How many pairs of neighbours a grid has, diagonal ones included."""
    return rows * (columns - 1) + (rows - 1) * columns + 2 * (rows - 1) * (columns - 1)


def overlap_of(pairs: np.ndarray, positions: np.ndarray) -> float:
    """How much of the view two images have in common, by mutual matches that move together.

    Where both show one surface, neighbouring features of one image match neighbours in the other;
    matches by chance land anywhere (Bian et al., "GMS: Grid-based motion statistics", CVPR 2017).
    The result is the share of neighbours on the grid, 8 around each feature, whose matches have
    the same offset to within a cell and a half, which allows for scale and perspective.

    Args:
        pairs: (P, 2) indices of features of the one image and of the other.
        positions: (N, 2) of the features in row-major order, see `VprModel.local_positions`.

    Returns:
        In [0, 1]: 1 is an image with itself.
    """
    columns = int(np.searchsorted(positions[:, 1], positions[0, 1], side='right'))
    rows, most = len(positions) // columns, _neighbours(len(positions) // columns, columns)
    (query_y, match_y), (query_x, match_x) = (pairs // columns).T, (pairs % columns).T
    moves = np.full((rows + 2, columns + 2, 2), np.nan, np.float32)
    moves[query_y + 1, query_x + 1] = np.stack([match_y - query_y, match_x - query_x], axis=1)
    inner, together = moves[1:-1, 1:-1], 0
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        beside = moves[1 + down: 1 + down + rows, 1 + right: 1 + right + columns]
        together += int((np.abs(beside - inner).max(axis=2) <= MOST_APART).sum())
    return together / most if most else 0.0


def shared_view(query: torch.Tensor, match: torch.Tensor, model: VprModel) -> float:
    """How much of the view two images have in common, in [0, 1].

    Args:
        query, match: (N, d) and (M, d) float32 unit rows.
        model: the model that made them. If they lie on no grid, the share of mutual matches is
            returned.
    """
    pairs = mutual_matches(query, match, model.match_similarity).cpu().numpy()
    positions = model.local_positions()
    return (len(pairs) / max(1, len(query)) if positions is None
            else overlap_of(pairs, positions))


def spread_of(positions: np.ndarray) -> float:
    """Entropy of points (P, 2) in [0, 1] over a grid of cells, as a share of the highest one."""
    if not len(positions):
        return math.nan
    cells = (positions * CELLS).astype(int).clip(0, CELLS - 1)
    counts = np.bincount(CELLS * cells[:, 1] + cells[:, 0])
    shares = counts[counts > 0] / len(positions)
    return float(-(shares * np.log(shares)).sum() / math.log(CELLS * CELLS))
