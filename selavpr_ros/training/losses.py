"""The three things a small SelaVPR is asked for when it learns from scratch."""

from __future__ import annotations

import torch
from torch.nn import functional


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

    InfoNCE (van den Oord et al., 2018). The other spots of the image teach what mutual nearest
    neighbours are decided by; the other images teach not to describe the mere position.

    Args:
        query: (M, d) unit rows; M = 0 costs nothing.
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
