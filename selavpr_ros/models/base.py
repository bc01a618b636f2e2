"""What every model is: a network from normalised images to Descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import nn

from selavpr_ros.errors import ImageError


def grid_positions(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(H * W, 2) float32 x and y of a grid in row-major order, from its y (H,) and x (W,)."""
    columns, rows = np.meshgrid(x, y)
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Descriptors:
    """The two descriptions of a batch of images.

    Attributes:
        global_descriptor: (B, D), unit rows.
        local_features: (B, N, d), unit rows in row-major grid order; None if the system has
            none. Where N differs from image to image (FoL), rows of zeros pad the batch.
    """

    global_descriptor: torch.Tensor
    local_features: torch.Tensor | None


class VprModel(nn.Module):
    """Base of all systems: `model(images)` maps (B, 3, H, W) normalised to Descriptors.

    Attributes:
        family: name of the system, e.g. 'selavpr'.
        image_size: (H, W) in pixels that `preprocess` has to deliver.
        resize: how `preprocess` has to resize.
        size_multiple: number of pixels of which both sides of `image_size` must be multiples.
        local_stride: step at which rows and columns of the grid of local features are kept
            (SelaVPR only): 2 makes matching 16 times faster and the map 4 times smaller.
        match_similarity: mutual matches count only above this cosine; None counts all.
        model_id: 'name/sha12/preprocess'; descriptors with different ids cannot be compared.
    """

    family = ''
    name = ''
    fingerprint = ''
    image_size: tuple[int, int] = (224, 224)
    resize = 'stretch'
    size_multiple = 14
    local_stride = 1
    match_similarity: float | None = None

    @property
    def model_id(self) -> str:
        """Identity of the descriptors: name / sha256 of the weights / preprocessing."""
        height, width = self.image_size
        return f'{self.name}/{self.fingerprint[:12]}/{self.resize}{height}x{width}'

    @property
    def max_local_features(self) -> int:
        """Largest number of local features of an image of `image_size`; 0 if there are none."""
        return 0

    def local_positions(self) -> np.ndarray | None:
        """Where the local features are centred in an image of `image_size`.

        Returns:
            (N, 2) float32 x and y as shares of width and height; None if the features are not on
            a fixed grid.
        """
        return None

    @property
    def global_dim(self) -> int:
        """Length D of a global descriptor, measured on an empty image."""
        empty = torch.zeros(1, 3, *self.image_size, device=self.device, dtype=self.dtype)
        with torch.inference_mode():
            return int(self(empty).global_descriptor.shape[1])

    def describe_together(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W) in training, where they may influence each other."""
        described: Descriptors = self(images)
        return described

    def why_not(self, image_size: tuple[int, int]) -> str:
        """Why the network cannot work on images (H, W) in pixels; empty if it can."""
        height, width = image_size
        if min(image_size) > 0 and not (height % self.size_multiple or width % self.size_multiple):
            return ''
        return (f'{self.family} takes image sides that are multiples of {self.size_multiple}, '
                f'got {height}x{width}')

    def check_size(self, images: torch.Tensor) -> None:
        """Raise ImageError if the network cannot work on images (B, 3, H, W)."""
        reason = self.why_not((images.shape[-2], images.shape[-1]))
        if reason:
            raise ImageError(reason)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._any_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self._any_tensor().dtype

    def _any_tensor(self) -> torch.Tensor:
        return next(chain(self.parameters(), self.buffers()))
