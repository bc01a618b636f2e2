"""DINOv2 without any training for places: the baseline that the papers call DINOv2-GeM."""

from __future__ import annotations

import torch
from torch.nn import functional

from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import Backbone
from selavpr_ros.models.base import Descriptors, VprModel


class Dinov2Gem(VprModel):
    """Patch tokens of DINOv2 (Oquab et al., TMLR 2024), pooled; no local features.

    Args:
        width, depth, num_heads, registers: of the transformer. DINOv2's own models with
            registers resize the position embedding in another way than those without.
    """

    family = 'dinov2_gem'

    def __init__(self, width: int, depth: int, num_heads: int, registers: int = 0) -> None:
        super().__init__()
        self.backbone = Backbone(
            width, depth, num_heads, registers, antialias_positions=registers > 0)
        self.aggregation = GeM()

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised, H and W multiples of 14."""
        _, patches = self.backbone(images)
        return Descriptors(functional.normalize(self.aggregation(patches), dim=-1), None)
