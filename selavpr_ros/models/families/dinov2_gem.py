"""DINOv2 without any training for places: the baseline that the papers call DINOv2-GeM."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import Backbone, last_blocks_and_heads, transformer_sizes
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.checkpoints import StateDict, side
from selavpr_ros.models.families import Family, System


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


def _sizes(state: StateDict) -> dict[str, Any]:
    return {**transformer_sizes(state, ''), 'registers': side(state, 'register_tokens', 1, 0)}


FAMILY = Family(
    Dinov2Gem,
    marker='patch_embed.',
    names=((r'^(module|backbone)\.', ''),),
    sizes=_sizes,
    constants={'aggregation.p': torch.full((1,), 3.0)},
    trains=last_blocks_and_heads,
)

SYSTEMS = (
    System(
        name='DINOv2-GeM, large', family='dinov2_gem', files='dinov2_vitl14_pretrain.pth',
        source='vit_large_patch14_dinov2', code_licence='Apache-2.0',
        weights_licence='Apache-2.0', image_size=(224, 224), global_dim=1024,
        sizes={'width': 1024, 'depth': 24, 'num_heads': 16}),
    System(
        name='DINOv2-GeM, base', family='dinov2_gem', files='dinov2_vitb14_pretrain.pth',
        source='vit_base_patch14_dinov2', code_licence='Apache-2.0',
        weights_licence='Apache-2.0', image_size=(224, 224), global_dim=768,
        sizes={'width': 768, 'depth': 12, 'num_heads': 12}),
)
