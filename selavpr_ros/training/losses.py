"""The losses of SelaVPR, CricaVPR and SALAD, and of a small SelaVPR that starts from scratch.

All losses expect float32: leave autocast before calling them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from selavpr_ros.errors import SettingError
from selavpr_ros.matching.mutual import mutual_matches
from selavpr_ros.models.base import Descriptors

# ---- from scratch -------------------------------------------------------------------------------



def imitation_loss(features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine between unit rows (..., d) and their targets (..., d)."""
    return 1 - (features * targets).sum(dim=-1).mean()


def _contrast(
    query: torch.Tensor, match: torch.Tensor, negative: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Cross-entropy of row i against its match and its negatives, both ways."""
    own = torch.eye(len(query), dtype=torch.bool, device=query.device)
    logits = (query @ match.T / temperature).masked_fill(~negative & ~own, -torch.inf)
    rows = functional.log_softmax(logits, dim=1).diagonal()
    columns = functional.log_softmax(logits, dim=0).diagonal()
    return -(rows + columns).mean() / 2


def local_contrast_loss(
    query: torch.Tensor, match: torch.Tensor, alike: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Ask each local feature to find its own counterpart in the batch, both ways.

    InfoNCE (van den Oord et al., 2018). The other spots of the same image teach to tell spots
    apart, which decides mutual nearest neighbours; the other images teach not to describe the
    mere position.

    Args:
        query: (M, d) unit rows; the loss is 0 for M = 0.
        match: (M, d), unit rows, row i the counterpart of query's row i.
        alike: (M, M) bool, symmetric, pairs that may not count as different.
        temperature: of the softmax.
    """
    if len(query) == 0:
        return query.sum()
    return _contrast(query, match, ~alike, temperature)


def global_contrast_loss(
    query: torch.Tensor, match: torch.Tensor, negative: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Ask each global descriptor to find the other view of its place in the batch, both ways.

    Args:
        query: (B, D) unit rows.
        match: (B, D) unit rows, row i shows the place of query's row i.
        negative: (B, B) bool, symmetric, pairs known to show different places.
        temperature: of the softmax.
    """
    return _contrast(query, match, negative, temperature)


# ---- triplets: SelaVPR --------------------------------------------------------------------------


def global_triplet_loss(
    query: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, margin: float = 0.1
) -> torch.Tensor:
    """Sum of max(0, |q - p| - |q - n| + margin) over B triplets (SelaVPR, global loss).

    The distances are Euclidean and not squared; 1e-6 is added to each difference inside.

    Args:
        query, positive, negative: (B, D), one triplet a row.
    """
    return functional.triplet_margin_loss(
        query, positive, negative, margin=margin, reduction='sum')


def _matched_similarity(
    query: torch.Tensor, match: torch.Tensor, min_similarity: float | None
) -> torch.Tensor:
    pairs = mutual_matches(query.detach(), match.detach(), min_similarity)
    similarities = (query[pairs[:, 0]] * match[pairs[:, 1]]).sum(dim=1)
    return similarities.sum() / max(1, len(pairs))


def mutual_similarity(
    query: torch.Tensor | Sequence[torch.Tensor], match: torch.Tensor | Sequence[torch.Tensor],
    min_similarity: float | None = None,
) -> torch.Tensor:
    """Mean similarity of the mutual nearest neighbours of two images (SelaVPR, local loss).

    The gradient goes through the similarities of the matched pairs; the choice of the pairs is
    constant. So only the matched rows are kept for it, never a matrix of all pairs.

    A single match counts as any other; the published code replaces it by the mean similarity of
    features at the same position. Without a match, similarity and gradient are 0.

    Args:
        query: (B, N, d) unit rows, or B tensors (N, d).
        match: (B, M, d) unit rows, or B tensors (M, d); row i is compared with query's row i.
        min_similarity: count only pairs strictly above it (FoL: 0.7).

    Returns:
        (B,).
    """
    return torch.stack([_matched_similarity(one, other, min_similarity)
                        for one, other in zip(query, match, strict=True)])


def local_triplet_loss(
    query: torch.Tensor | Sequence[torch.Tensor], positive: torch.Tensor | Sequence[torch.Tensor],
    negative: torch.Tensor | Sequence[torch.Tensor], min_similarity: float | None = None,
) -> torch.Tensor:
    """Sum of max(0, s(q, n) - s(q, p)) over B triplets, s the `mutual_similarity`; no margin.

    Source: SelaVPR's mutual nearest neighbour local feature loss.

    Args:
        query, positive, negative: (B, N, d) unit rows, or B tensors (N, d).
        min_similarity: see `mutual_similarity`.
    """
    same = mutual_similarity(query, positive, min_similarity)
    other = mutual_similarity(query, negative, min_similarity)
    return torch.relu(other - same).sum()


def selavpr_terms(
    query: Descriptors, positive: Descriptors, negative: Descriptors
) -> dict[str, torch.Tensor]:
    """SelaVPR's two losses, each the mean over B triplets; published weight of both: 1.

    The published batch: 4 queries, for each its best positive and 2 negatives, so B = 8.

    Args:
        query, positive, negative: of B images each, row i of the three is a triplet.

    Returns:
        'global' and 'local'.
    """
    one, same, other = query.local_features, positive.local_features, negative.local_features
    assert one is not None
    assert same is not None
    assert other is not None
    overall = global_triplet_loss(
        query.global_descriptor, positive.global_descriptor, negative.global_descriptor)
    return {'global': overall / len(one), 'local': local_triplet_loss(one, same, other) / len(one)}


# ---- batches of places: CricaVPR, SALAD, FoL ----------------------------------------------------


def metric_learning() -> tuple[Any, Any]:
    """The modules `losses` and `miners` of pytorch-metric-learning, imported when needed.

    Raises:
        SettingError: it is not installed.
    """
    try:
        from pytorch_metric_learning import losses, miners
    except ImportError as error:
        raise SettingError(
            'training on places needs pytorch-metric-learning, which is not installed: '
            "pip install 'selavpr_ros[train]'") from error
    return losses, miners


def multi_similarity_loss(descriptors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Multi-similarity loss of a batch of places, on its hard pairs (Wang et al., CVPR 2019).

    CricaVPR, SALAD and FoL learn with it on GSV-Cities, with weight 1 and four images a place:
    alpha 1, beta 50, base 0, pairs mined with epsilon 0.1. The mean is over all B images, also
    those without a hard pair. A batch without any has loss 0 and gradient 0.

    Args:
        descriptors: (B, D) unit rows; compared by cosine.
        places: (B,) int64, equal where two images show one place.

    Raises:
        SettingError: pytorch-metric-learning is not installed.
    """
    losses, miners = metric_learning()
    pairs = miners.MultiSimilarityMiner(epsilon=0.1)(descriptors, places)
    loss = losses.MultiSimilarityLoss(alpha=1, beta=50, base=0.0)
    return loss(descriptors, places, pairs)
