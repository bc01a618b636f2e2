"""From patch tokens to one global descriptor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from selavpr_ros.errors import ImageError
from selavpr_ros.models.backbone import transformer_sizes
from selavpr_ros.models.checkpoints import StateDict, side

GEM_EPS = 1e-6
SINKHORN_ITERATIONS = 3


class GeM(nn.Module):
    """Generalised mean over positions with a learned power (Radenovic et al., PAMI 2018, eq. 3).

    Each token is L2-normalised first; values below `GEM_EPS` count as `GEM_EPS`.
    """

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), power))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (B, ..., D) to (B, D), not normalised."""
        unit = functional.normalize(tokens.flatten(1, -2).float(), dim=-1)  # 1e-6 needs float32
        return unit.clamp(min=GEM_EPS).pow(self.p.float()).mean(dim=1).pow(1 / self.p.float())


def transport(scores: torch.Tensor, dustbin: torch.Tensor) -> torch.Tensor:
    """Distribute patches over clusters by optimal transport, in log space (Cuturi, NeurIPS 2013).

    Every patch has the same mass. Every cluster takes the mass of one patch; the dustbin takes
    the rest, which says nothing about the place.

    Args:
        scores: (B, M, N) for M clusters and N patches, N > M.
        dustbin: (B, N) score of the dustbin for each patch.

    Returns:
        (B, M, N) float32: the shares of the clusters, without the dustbin's.

    Raises:
        ImageError: there are not more patches than clusters.
    """
    clusters, patches = scores.shape[1:]
    if patches <= clusters:
        raise ImageError(
            f'{patches} patches for {clusters} clusters: the image has to be larger')
    log_kernel = torch.cat([scores, dustbin[:, None]], dim=1).float()
    log_mass = -math.log(patches + clusters)
    log_rows = log_kernel.new_full((clusters + 1,), log_mass)
    log_rows[-1] += math.log(patches - clusters)
    column = torch.zeros_like(log_kernel[:, 0])
    for _ in range(SINKHORN_ITERATIONS):
        row = log_rows - torch.logsumexp(log_kernel + column[:, None], dim=2)
        column = log_mass - torch.logsumexp(log_kernel + row[:, :, None], dim=1)
    return (log_kernel + row[:, :, None] + column[:, None] - log_mass).exp()[:, :-1]


def _two_convolutions(width: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, hidden, 1), nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(hidden, dim, 1))


# The files of SALAD and FoL have the transformer one level deeper.
PUBLISHED_NAMES = ((r'^module\.', ''), (r'^backbone\.(?!model\.)', 'backbone.model.'))


def transport_sizes(state: StateDict) -> dict[str, Any]:
    """Arguments of a transformer with `TransportAggregation`, by the published keys."""
    return {
        **transformer_sizes(state, 'backbone.model.'),
        'hidden': side(state, 'aggregator.score.0.weight', 0),
        'clusters': side(state, 'aggregator.score.3.weight', 0),
        'cluster_dim': side(state, 'aggregator.cluster_features.3.weight', 0),
        'token_dim': side(state, 'aggregator.token_features.2.weight', 0),
    }


class TransportAggregation(nn.Module):
    """Patches gathered in clusters by optimal transport, and the class token beside them.

    Source: SALAD (Izquierdo and Civera, CVPR 2024), section 3. FoL uses it with a dustbin of
    its own.

    Args:
        width: length of a token.
        hidden: width of the hidden layer in each of the three small networks.
        clusters, cluster_dim: number of clusters, and length of the vector kept of each.
        token_dim: length of the vector kept of the class token.
    """

    def __init__(
        self, width: int, hidden: int, clusters: int, cluster_dim: int, token_dim: int
    ) -> None:
        super().__init__()
        self.token_features = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, token_dim))
        self.cluster_features = _two_convolutions(width, hidden, cluster_dim)
        self.score = _two_convolutions(width, hidden, clusters)

    def forward(
        self, cls: torch.Tensor, patches: torch.Tensor, dustbin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Aggregate class tokens (B, D) and patches (B, h, w, D).

        Args:
            cls, patches: from the backbone, after its last norm.
            dustbin: score of the dustbin, (B, h * w) or a shape that broadcasts to it.

        Returns:
            (B, token_dim + cluster_dim * clusters) unit rows, the token first, then channel by
            channel; and (B, clusters, h * w), the shares of the clusters in each patch.
        """
        grid = patches.permute(0, 3, 1, 2)
        scores = self.score(grid).flatten(2)
        shares = transport(scores, dustbin.expand(len(scores), scores.shape[2]))
        features = self.cluster_features(grid).flatten(2).float()
        clusters = functional.normalize(features @ shares.transpose(1, 2), dim=1)
        token = functional.normalize(self.token_features(cls).float(), dim=1)
        descriptor = torch.cat([token, clusters.flatten(1)], dim=1)
        return functional.normalize(descriptor, dim=1), shares
