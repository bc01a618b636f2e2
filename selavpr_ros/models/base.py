"""What every model is: a network from normalised images to Descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn


@dataclass(frozen=True)
class OperatingPoint:
    """The gates that a model was measured with, and where; they are no probabilities.

    Attributes:
        min_similarity: cosine of the global descriptors.
        min_local_score: mutual matches / number of local features, in [0, 1].
        provenance: the data it was measured on.
    """

    min_similarity: float
    min_local_score: float
    provenance: str


@dataclass(frozen=True)
class Descriptors:
    """The two descriptions of a batch of images.

    Attributes:
        global_descriptor: (B, D), unit rows.
        local_features: (B, N, d), unit rows in row-major grid order; None where the system
            has none.
    """

    global_descriptor: torch.Tensor
    local_features: torch.Tensor | None


class VprModel(nn.Module):
    """Base of all systems: `model(images)` maps (B, 3, H, W) normalised to Descriptors.

    Attributes:
        family: name of the system, e.g. 'selavpr'.
        image_size: (H, W) that `preprocess` has to deliver.
        antialias: how `preprocess` has to resize.
        size_multiple: what both sides of `image_size` have to be a multiple of, in pixels.
        model_id: 'name/sha12/preprocess'; descriptors with different ids cannot be compared.
        operating_point: the gates it was measured with, or None.
    """

    family = ''
    name = ''
    fingerprint = ''
    image_size: tuple[int, int] = (224, 224)
    antialias = False
    size_multiple = 14
    operating_point: OperatingPoint | None = None

    @property
    def model_id(self) -> str:
        """Identity of the descriptors: name / sha256 of the weights / preprocessing."""
        height, width = self.image_size
        resize = 'area' if self.antialias else 'stretch'
        return f'{self.name}/{self.fingerprint[:12]}/{resize}{height}x{width}'

    @property
    def local_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the local features at `image_size`, or None without any."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._any_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self._any_tensor().dtype

    def _any_tensor(self) -> torch.Tensor:
        return next(chain(self.parameters(), self.buffers()))
