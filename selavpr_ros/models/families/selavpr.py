"""SelaVPR (Lu et al., "Towards Seamless Adaptation of Pre-trained Models for VPR", ICLR 2024)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from selavpr_ros.models.adapters import (
    PUBLISHED_NAMES,
    adapters_and_heads,
    add_selavpr_adapters,
)
from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import PATCH, Backbone, patch_grid, transformer_sizes
from selavpr_ros.models.base import Descriptors, VprModel, grid_positions
from selavpr_ros.models.checkpoints import StateDict, side
from selavpr_ros.models.conv_stem import ConvStem
from selavpr_ros.models.families import Family, System
from selavpr_ros.models.local_features import UpConvLocalFeatures


class SelaVPR(VprModel):
    """Adapted DINOv2, GeM for retrieval, up-convolved patch tokens for re-ranking.

    Args:
        width, depth, num_heads, registers: of the transformer.
        adapter_hidden: bottleneck of both adapters of a block; half the width if None.
        local_hidden, local_dim: channels of the two up-convolutions.
        conv_stem: whether patches are embedded by a convolutional network, as in the embedded
            model; the published models use a single layer.
    """

    family = 'selavpr'

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        adapter_hidden: int | None = None,
        local_hidden: int = 256,
        local_dim: int = 128,
        registers: int = 0,
        conv_stem: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(width, depth, num_heads, registers)
        if conv_stem:
            self.backbone.patch_embed = ConvStem(width)
        add_selavpr_adapters(
            self.backbone, width // 2 if adapter_hidden is None else adapter_hidden)
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
        """Descriptors of patch tokens (B, H/14, W/14, D), with the whole grid of features."""
        global_descriptor = functional.normalize(self.aggregation(patches), dim=-1)
        return Descriptors(global_descriptor, self.local_head(patches))


def _sizes(state: StateDict) -> dict[str, Any]:
    return {
        **transformer_sizes(state, 'backbone.'),
        'adapter_hidden': side(state, 'backbone.blocks.0.adapter1.D_fc1.weight', 0),
        'local_hidden': side(state, 'LocalAdapt.upconv1.weight', 1),
        'local_dim': side(state, 'LocalAdapt.upconv2.weight', 1),
        'registers': side(state, 'backbone.register_tokens', 1, 0),
        'conv_stem': 'backbone.patch_embed.conv.weight' in state,
    }


FAMILY = Family(
    SelaVPR,
    marker='.adapter1.',
    names=(*PUBLISHED_NAMES, (r'\.attn\.adapter\.', '.adapter1.'),
           (r'\.mlp\.adapter\.', '.adapter2.'), (r'^local_head\.', 'LocalAdapt.')),
    sizes=_sizes,
    trains=adapters_and_heads,
    method='triplets',
)

SYSTEMS = (
    System(
        name='SelaVPR', family='selavpr', files='SelaVPR_msls.pth, SelaVPR_pitts30k.pth',
        source='https://github.com/Lu-Feng/SelaVPR', code_licence='MIT',
        weights_licence='none stated', image_size=(224, 224), global_dim=1024, local='3721 x 128',
        recall={'MSLS-val': '90.8', 'Pitts30k': '92.8', 'Nordland': '85.2'},
        note='after re-ranking; MSLS-val and Nordland with SelaVPR_msls.pth, Pitts30k with '
             'SelaVPR_pitts30k.pth.',
        sizes={'width': 1024, 'depth': 24, 'num_heads': 16}),
    System(
        name='SelaVPR, registers', family='selavpr', files='SelaVPR_reg4_msls.pth',
        source='https://github.com/Lu-Feng/SelaVPR', code_licence='MIT',
        weights_licence='none stated', image_size=(224, 224), global_dim=1024, local='3721 x 128',
        sizes={'width': 1024, 'depth': 24, 'num_heads': 16, 'registers': 4}),
    System(
        name='embedded', family='selavpr', files='embedded.safetensors', source='',
        code_licence='Apache-2.0', weights_licence='Apache-2.0', image_size=(224, 224),
        global_dim=320, local='961 x 128'),
)
