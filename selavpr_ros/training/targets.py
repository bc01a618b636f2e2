"""What the local head is taught first: dense histograms of oriented gradients."""

from __future__ import annotations

import torch
from torch.nn import functional

from selavpr_ros.models.hog import LUMA, hysteresis

ORIENTATIONS = 8
CELLS = 4  # a side of a block; CELLS^2 * ORIENTATIONS = 128 values, as the local head
CLIP = 0.2
STEP = 3.5  # pixels between two local features (a patch of 14 pixels, up-convolved twice)


def gradient_votes(grey: torch.Tensor) -> torch.Tensor:
    """Gradient length shared among the orientations near its own: (B, H, W) -> (B, 8, H, W)."""
    padded = functional.pad(grey[:, None], (1, 1, 1, 1), mode='replicate')[:, 0]
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    length = torch.hypot(dx, dy).clamp(min=1e-6)
    # Doubled angles make opposite gradients equal, so that a wall may be lit from either side.
    double = torch.stack([dx * dx - dy * dy, 2 * dx * dy], dim=1) / length[:, None]
    angles = torch.arange(ORIENTATIONS) * (2 * torch.pi / ORIENTATIONS)
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    # Subtracting cos(60 deg) narrows the lobe to +-30 degrees of true orientation.
    votes = torch.einsum('od,bdhw->bohw', directions, double) - 0.5 * length[:, None]
    return votes.relu()


def hog_targets(images: torch.Tensor) -> torch.Tensor:
    """Describe images (B, 3, S, S) in [0, 255] at the positions of the local head's grid.

    Returns:
        (B, (4n-3)^2, 128), unit rows, n = S / 14; without their common mean, which is most of a
        histogram and says nothing, but is what a network would learn first.
    """
    luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
    votes = gradient_votes((images * luma).sum(dim=1))
    side = round(images.shape[-1] / STEP)
    steps = functional.interpolate(votes, size=(side, side), mode='bilinear', antialias=True)
    # Tents of two steps, one step apart; a block takes every other one.
    cells = functional.pad(steps, (2, 3, 2, 3), mode='replicate')
    kernel = torch.tensor([0.5, 1, 0.5])
    kernel = torch.outer(kernel, kernel).expand(ORIENTATIONS, 1, 3, 3)
    cells = functional.conv2d(cells, kernel, groups=ORIENTATIONS)
    blocks = functional.unfold(cells, CELLS, dilation=2).transpose(1, 2)
    blocks = hysteresis(blocks, CLIP)
    return functional.normalize(blocks - blocks.mean(dim=(0, 1)), dim=-1)
