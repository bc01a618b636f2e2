"""Dense HOG: the baseline without any weights, and the bar for every learned model."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.nn import functional

from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.models.base import Descriptors, VprModel, grid_positions
from selavpr_ros.models.families import Family, System

CELL = 8  # pixels
BLOCK = 4  # side of a local feature, in cells
POOL = 5  # side of a region that the global descriptor pools, in cells
ORIENTATIONS = 8  # unsigned, over 180 degrees
LOCAL_CLIP = 0.2
GLOBAL_CLIP = 0.05
LUMA = (0.299, 0.587, 0.114)


def hysteresis(vectors: torch.Tensor, clip: float) -> torch.Tensor:
    """L2-normalise, clip and normalise again (Dalal and Triggs, CVPR 2005, "L2-Hys")."""
    unit = functional.normalize(vectors, dim=-1).clamp(max=clip)
    return functional.normalize(unit, dim=-1)


def _sobel_gradient(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives of (B, H, W) along x and y."""
    kernel = grey.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([kernel, kernel.T])[:, None]
    padded = functional.pad(grey[:, None], (1, 1, 1, 1), mode='replicate')
    gradient = functional.conv2d(padded, kernels)
    return gradient[:, 0], gradient[:, 1]


def orientation_cells(grey: torch.Tensor) -> torch.Tensor:
    """Histograms of gradient orientation: (B, H, W) -> (B, ORIENTATIONS, H / CELL, W / CELL).

    Every pixel votes with its gradient's length for the two nearest orientations and the four
    nearest cells, weighted by closeness (Dalal and Triggs' trilinear interpolation).
    """
    dx, dy = _sobel_gradient(grey)
    angle = torch.atan2(dy, dx) * (ORIENTATIONS / torch.pi)
    low = angle.floor()
    near = functional.one_hot(low.long() % ORIENTATIONS, ORIENTATIONS)
    next_ = functional.one_hot((low.long() + 1) % ORIENTATIONS, ORIENTATIONS)
    share = (angle - low)[..., None]
    votes = (near * (1 - share) + next_ * share) * torch.hypot(dx, dy)[..., None]
    tent = 1 - (torch.arange(2 * CELL).to(grey) - CELL + 0.5).abs() / CELL
    kernel = torch.outer(tent, tent).expand(ORIENTATIONS, 1, -1, -1)
    padding = CELL // 2
    return functional.conv2d(
        votes.permute(0, 3, 1, 2), kernel, stride=CELL, padding=padding, groups=ORIENTATIONS
    )


class Hog(VprModel):
    """Histograms of oriented gradients as global descriptor and as local features."""

    family = 'hog'
    name = 'hog'
    image_size = (240, 320)
    resize = 'area'
    size_multiple = CELL

    luma: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('luma', torch.tensor(LUMA).view(1, 3, 1, 1))
        recipe = (CELL, BLOCK, POOL, ORIENTATIONS, LOCAL_CLIP, GLOBAL_CLIP, LUMA)
        self.fingerprint = hashlib.sha256(repr(recipe).encode()).hexdigest()

    def why_not(self, image_size: tuple[int, int]) -> str:
        if min(image_size) < POOL * CELL:
            return (f'hog takes images of at least {POOL * CELL}x{POOL * CELL} pixels, '
                    f'got {image_size[0]}x{image_size[1]}')
        return super().why_not(image_size)

    @property
    def max_local_features(self) -> int:
        rows, columns = (side // CELL - BLOCK + 1 for side in self.image_size)
        return rows * columns

    def local_positions(self) -> np.ndarray:
        # The centre of a block lies half a block after the start of its first cell.
        return grid_positions(*(
            (np.arange(side // CELL - BLOCK + 1) + BLOCK / 2) * CELL / side
            for side in self.image_size))

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised."""
        # In float16 the sums over a cell would overflow.
        grey = (denormalise(images.float()) * self.luma.float()).sum(dim=1)
        cells = orientation_cells(grey)
        blocks = functional.unfold(cells, BLOCK).transpose(1, 2)
        pooled = functional.avg_pool2d(cells, POOL).flatten(1)
        return Descriptors(hysteresis(pooled, GLOBAL_CLIP), hysteresis(blocks, LOCAL_CLIP))


FAMILY = Family(Hog)

SYSTEMS = (
    System(
        name='hog', family='hog', files='', source='', code_licence='Apache-2.0',
        weights_licence='no weights', image_size=(240, 320), global_dim=384, local='999 x 128'),
)
