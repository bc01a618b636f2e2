"""From patch tokens to a dense grid of local features."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class UpConvLocalFeatures(nn.Module):
    """Two up-convolutions: a grid of n patches becomes 4 n - 3 positions a side (16 -> 61).

    Source: SelaVPR, section 3.3 (local adaptation module).
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.upconv1 = nn.ConvTranspose2d(width, hidden, kernel_size=3, stride=2, padding=1)
        self.upconv2 = nn.ConvTranspose2d(hidden, dim, kernel_size=3, stride=2, padding=1)

    @staticmethod
    def grid(patch_grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of local features from a grid of patches (rows, columns)."""
        return 4 * patch_grid[0] - 3, 4 * patch_grid[1] - 3

    @staticmethod
    def centres(patches: int) -> np.ndarray:
        """Centres of the features along a side of `patches` patches, as shares of its length."""
        # The first and the last feature are centred on the first and the last patch.
        return (np.arange(4 * patches - 3) / 4 + 0.5) / patches

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (B, h, w, D) -> (B, (4h-3) * (4w-3), dim), unit rows in row-major order."""
        grid = torch.relu(self.upconv1(patches.permute(0, 3, 1, 2)))
        grid = self.upconv2(grid)
        return functional.normalize(grid.flatten(2).transpose(1, 2).float(), dim=-1)
