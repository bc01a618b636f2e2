"""Sizes of the descriptors of one image, and the memory that a keyframe takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from selavpr_ros.models.base import VprModel


@dataclass(frozen=True)
class Footprint:
    """Sizes of one image's descriptors.

    Attributes:
        global_dim: length of the global descriptor.
        local_count: largest number of local features; 0 for a system without them.
        local_dim: length of a local feature.
        local_varies: whether an image may have fewer local features.
    """

    global_dim: int
    local_count: int
    local_dim: int
    local_varies: bool

    @property
    def global_bytes(self) -> int:
        """Bytes of the global descriptor in float32."""
        return 4 * self.global_dim

    @property
    def index_bytes(self) -> int:
        """Bytes of the descriptor's copy in the index of the keyframe map, in float16."""
        return 2 * self.global_dim

    @property
    def local_bytes(self) -> int:
        """Bytes of the local features in float16."""
        return 2 * self.local_count * self.local_dim

    @property
    def keyframe_bytes(self) -> int:
        """Bytes that a keyframe adds to the keyframe map in total."""
        return self.global_bytes + self.index_bytes + self.local_bytes


@torch.inference_mode()
def measure_footprint(model: VprModel) -> Footprint:
    """Measure the sizes by running an empty image through a model."""
    image = torch.zeros(1, 3, *model.image_size, device=model.device, dtype=model.dtype)
    descriptors = model(image)
    global_dim, most = descriptors.global_descriptor.shape[1], model.max_local_features
    if descriptors.local_features is None:
        return Footprint(global_dim, 0, 0, False)
    found, local_dim = descriptors.local_features.shape[1:]
    return Footprint(global_dim, most, local_dim, found != most)
