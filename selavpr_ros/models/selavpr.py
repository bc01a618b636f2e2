"""SelaVPR (Lu et al., "Towards Seamless Adaptation of Pre-trained Models for VPR", ICLR 2024)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from selavpr_ros.models.adapters import add_selavpr_adapters
from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import PATCH, Backbone, patch_grid
from selavpr_ros.models.base import Descriptors, VprModel, grid_positions
from selavpr_ros.models.conv_stem import ConvStem
from selavpr_ros.models.local_features import UpConvLocalFeatures


class SelaVPR(VprModel):
    """Adapted DINOv2, GeM for retrieval, up-convolved patch tokens for re-ranking.

    Args:
        width, depth, num_heads, registers: of the transformer.
        adapter_hidden: bottleneck of both adapters of a block.
        local_hidden, local_dim: channels of the two up-convolutions.
        conv_stem: whether patches are embedded by a convolutional network, as in the embedded
            model; the published ones do it by a single layer.
    """

    family = 'selavpr'

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        adapter_hidden: int,
        local_hidden: int,
        local_dim: int,
        registers: int = 0,
        conv_stem: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(width, depth, num_heads, registers)
        if conv_stem:
            self.backbone.patch_embed = ConvStem(width)
        add_selavpr_adapters(self.backbone, adapter_hidden)
        self.aggregation = GeM()
        self.local_head = UpConvLocalFeatures(width, local_hidden, local_dim)

    @property
    def max_local_features(self) -> int:
        grid = UpConvLocalFeatures.grid(
            (self.image_size[0] // PATCH, self.image_size[1] // PATCH))
        return math.prod(-(-side // self.local_stride) for side in grid)

    def local_positions(self) -> np.ndarray:
        patches = [side // PATCH for side in self.image_size]
        return grid_positions(*(
            UpConvLocalFeatures.centres(count)[:: self.local_stride] for count in patches))

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised, H and W multiples of 14."""
        described = self.heads(self.backbone(images)[1])
        if self.local_stride == 1:
            return described
        grid = UpConvLocalFeatures.grid(patch_grid(images))
        assert described.local_features is not None
        local = described.local_features.unflatten(1, grid)
        kept = local[:, :: self.local_stride, :: self.local_stride].flatten(1, 2)
        return Descriptors(described.global_descriptor, kept)

    def heads(self, patches: torch.Tensor) -> Descriptors:
        """What becomes of patch tokens (B, H/14, W/14, D): the whole grid of local features."""
        global_descriptor = functional.normalize(self.aggregation(patches), dim=-1)
        return Descriptors(global_descriptor, self.local_head(patches))
