"""The teacher of a model with a convolutional stem: the stem's maps of views that are not relit.

A label is one target per image. The stem's maps give every patch of every training image a target
of its own, whatever the light that the student sees it in.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import PATCH, patch_grid
from selavpr_ros.models.conv_stem import CHANNELS, ConvStem, unit
from selavpr_ros.training.initial import fit_stem, principal_components

LOCAL_STAGES = 2  # local features imitate the first two: 28x28 and 14x14 cells at 224 pixels


def _grid(side: int, edge: float) -> torch.Tensor:
    """Sampling positions (1, side, side, 2) in [-1, 1] from -edge to edge."""
    ticks = torch.linspace(-edge, edge, side)
    return torch.stack(torch.meshgrid(ticks, ticks, indexing='xy'), dim=-1)[None]


class Teacher(nn.Module):
    """Targets for the patch tokens and the local features of a SelaVPR.

    Args:
        stem: the student's stem, of which a copy is kept.
        local_dim: length of a local feature.
    """

    local_mean: torch.Tensor
    local_components: torch.Tensor

    def __init__(self, stem: ConvStem, local_dim: int) -> None:
        super().__init__()
        self.stem = copy.deepcopy(stem).requires_grad_(False)
        self.pool = GeM().requires_grad_(False)
        channels = sum(CHANNELS[:LOCAL_STAGES])
        self.register_buffer('local_mean', torch.zeros(channels))
        self.register_buffer('local_components', torch.eye(channels, local_dim))

    def _between(self, maps: list[torch.Tensor], side: int) -> torch.Tensor:
        """The first maps, sampled at the positions of the local features: (B, g, g, C)."""
        grid = _grid(4 * (side // PATCH) - 3, 1 - PATCH / side).to(maps[0])
        grid = grid.expand(len(maps[0]), -1, -1, -1)
        sampled = [
            functional.grid_sample(stage, grid, padding_mode='border', align_corners=False)
            for stage in self.stem.scaled(maps)[:LOCAL_STAGES]
        ]
        return torch.cat([unit(stage) for stage in sampled], dim=1).movedim(1, -1)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Learn scales and principal components from images (B, 3, S, S), normalised."""
        fit_stem(self.stem, images)
        rows = [self._between(self.stem.maps(batch), images.shape[-1]).flatten(0, 2)
                for batch in images.split(16)]
        mean, components = principal_components(
            torch.cat(rows), self.local_components.shape[1])
        self.local_mean.copy_(mean)
        self.local_components.copy_(components)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Describe images (B, 3, S, S), normalised.

        Returns:
            patch tokens (B, S/14, S/14, width) without negative values, as GeM sees them, global
            descriptors (B, width), and local features (B, N, local_dim), all unit rows.
        """
        maps, side = self.stem.maps(images), images.shape[-1]
        patches = self.stem.patches(maps, patch_grid(images))
        tokens = functional.normalize(self.stem.proj(patches).relu(), dim=-1)
        local = (self._between(maps, side) - self.local_mean) @ self.local_components
        descriptor = functional.normalize(self.pool(tokens), dim=-1)
        return tokens, descriptor, functional.normalize(local.flatten(1, 2), dim=-1)
