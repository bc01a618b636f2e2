"""SALAD (Izquierdo and Civera, "Optimal Transport Aggregation for VPR", CVPR 2024)."""

from __future__ import annotations

import torch
from torch import nn

from selavpr_ros.models.aggregation import (
    PUBLISHED_NAMES,
    TransportAggregation,
    transport_sizes,
)
from selavpr_ros.models.backbone import PATCH, Backbone, last_blocks_and_heads
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.families import Family, System


class SaladAggregation(TransportAggregation):
    """Transport with one learned score for the dustbin.

    Like a constant added to all scores of one cluster, this number is absorbed by the first step
    of the transport: it never changes a descriptor.
    """

    def __init__(
        self, width: int, hidden: int, clusters: int, cluster_dim: int, token_dim: int
    ) -> None:
        super().__init__(width, hidden, clusters, cluster_dim, token_dim)
        self.dust_bin = nn.Parameter(torch.tensor(1.0))


class Salad(VprModel):
    """DINOv2, its last blocks fine-tuned, and optimal transport; no local features.

    Args:
        width, depth, num_heads: of the transformer.
        hidden, clusters, cluster_dim, token_dim: see `TransportAggregation`.
    """

    family = 'salad'
    image_size = (322, 322)
    resize = 'pillow'

    def __init__(
        self, width: int, depth: int, num_heads: int, hidden: int = 512, clusters: int = 64,
        cluster_dim: int = 128, token_dim: int = 256,
    ) -> None:
        super().__init__()
        self.clusters = clusters
        self.backbone = Backbone(width, depth, num_heads)
        self.aggregator = SaladAggregation(width, hidden, clusters, cluster_dim, token_dim)

    def why_not(self, image_size: tuple[int, int]) -> str:
        patches = image_size[0] // PATCH * (image_size[1] // PATCH)
        if patches <= self.clusters:
            return (f'salad needs more patches of 14x14 pixels than its {self.clusters} clusters, '
                    f'got {image_size[0]}x{image_size[1]} pixels')
        return super().why_not(image_size)

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised, H and W multiples of 14."""
        self.check_size(images)
        cls, patches = self.backbone(images)
        descriptor, _ = self.aggregator(cls, patches, self.aggregator.dust_bin)
        return Descriptors(descriptor, None)


FAMILY = Family(
    Salad,
    marker='.dust_bin',
    names=PUBLISHED_NAMES,
    sizes=transport_sizes,
    trains=last_blocks_and_heads,
    method='multi_similarity',
)

SYSTEMS = (
    System(
        name='SALAD', family='salad', files='dino_salad.ckpt',
        source='https://github.com/serizba/salad/releases', code_licence='GPL-3.0',
        weights_licence='none stated', image_size=(322, 322), global_dim=8448,
        recall={'MSLS-val': '92.2', 'Nordland': '76.0'},
        sizes={'width': 768, 'depth': 12, 'num_heads': 12}),
)
