"""FoL ("Focus on Local: Finding Reliable Discriminative Regions for VPR", AAAI 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from selavpr_ros.models.aggregation import (
    PUBLISHED_NAMES,
    TransportAggregation,
    transport_sizes,
)
from selavpr_ros.models.backbone import PATCH, Backbone, last_blocks_and_heads, patch_grid
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.checkpoints import StateDict, side
from selavpr_ros.models.families import Family, System
from selavpr_ros.models.local_features import UpConvLocalFeatures

ATTENDED = 0.01  # attention below this value counts as none
DISCRIMINATIVE_PATCHES = 225
CLIPPED_PATCHES = 3
CLIP_RANK = 0.05  # share of the patches
MATCH_SIMILARITY = 0.7

# (rows, room): with more rows of local features than `rows`, the published code makes room for
# `room` features. Up to 70 rows it makes room for 1000, too few for the features of 225 patches.
ROOM = ((80, 3600), (70, 3500))


def class_attention(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """How much the class token attends to each patch in a block, summed over the heads.

    Args:
        block: a block of a ViT without registers.
        tokens: (B, 1 + N, D), the block's input.

    Returns:
        (B, N) float32.
    """
    attention = block.attn
    qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1))
    query, key = qkv[:, 0, 0], qkv[:, :, 1]
    scores = torch.einsum('bhd,bnhd->bhn', query * attention.scale, key)
    return scores.softmax(dim=2, dtype=torch.float32).sum(dim=1)[:, 1:]


def clip_outliers(values: torch.Tensor) -> torch.Tensor:
    """Replace the three largest values of each row (B, N) by the value ranked at its top 5 %."""
    ranked, order = values.sort(dim=1, descending=True, stable=True)
    clipped = ranked[:, int(CLIP_RANK * values.shape[1])]
    return values.scatter(
        1, order[:, :CLIPPED_PATCHES], clipped[:, None].expand(-1, CLIPPED_PATCHES))


def patch_confidence(shares: torch.Tensor) -> torch.Tensor:
    """A patch's mean share in the clusters, (B, M, N) -> (B, N), without its outliers."""
    return clip_outliers(shares.mean(dim=1))


def best_patches(values: torch.Tensor) -> torch.Tensor:
    """Which patches have the largest values: (B, N) -> bool, `DISCRIMINATIVE_PATCHES` true."""
    chosen = values.topk(DISCRIMINATIVE_PATCHES, dim=1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, chosen, True)


def discriminative_patches(shares: torch.Tensor) -> torch.Tensor:
    """Choose the patches that say most about the place.

    The published softmax over the confidences is left out: it keeps the order.

    Args:
        shares: (B, M, N) from the transport.

    Returns:
        (B, N) bool, `DISCRIMINATIVE_PATCHES` of them true.
    """
    return best_patches(patch_confidence(shares))


def region_weights(shares: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """How much each patch belongs to the discriminative regions, while the network learns.

    The weight is the sum of two shares of the image: what the aggregator keeps of the patch, and
    how much the class token attends to it.

    Args:
        shares: (B, M, N) from the transport.
        attention: (B, N) from `class_attention`.

    Returns:
        (B, N), rows that sum to 2.
    """
    return patch_confidence(shares).softmax(dim=1) + clip_outliers(attention).softmax(dim=1)


def chosen_features(
    features: torch.Tensor, chosen: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Keep the local features that lie in the chosen patches.

    Args:
        features: (B, L, d) from `UpConvLocalFeatures`.
        chosen: (B, N) bool.
        grid: rows and columns of patches.

    Returns:
        (B, K, d), K the most of any image; images with fewer features end in rows of zeros.
    """
    mask = functional.interpolate(
        chosen.unflatten(1, grid)[:, None].float(),
        size=UpConvLocalFeatures.grid(grid), mode='nearest').flatten(1) > 0
    kept = [rows[wanted] for rows, wanted in zip(features, mask, strict=True)]
    return pad_sequence(kept, batch_first=True)


@dataclass(frozen=True)
class FoLOutputs:
    """What FoL's losses need of B images with a grid of N = h * w patches.

    Attributes:
        descriptors: as at recognition, but with the local features of the patches with the
            largest `region_weights`.
        attention: (B, N), how much the class token attends to each patch.
        shares: (B, M, N), share of each patch that the aggregator takes into each cluster.
        patches: (B, h, w, D), the tokens after the last norm.
        local_map: (B, L, d), all local features, L = (4 h - 3) * (4 w - 3).
        soft_mask: (B, L), the `region_weights` at each feature of `local_map`.
    """

    descriptors: Descriptors
    attention: torch.Tensor
    shares: torch.Tensor
    patches: torch.Tensor
    local_map: torch.Tensor
    soft_mask: torch.Tensor


class FoL(VprModel):
    """DINOv2, optimal transport that its attention guides, local features of the best patches.

    Args:
        width, depth, num_heads: of the transformer.
        hidden, clusters, cluster_dim, token_dim: see `TransportAggregation`.
        local_hidden, local_dim: channels of the two up-convolutions.
    """

    family = 'fol'
    image_size = (504, 504)
    match_similarity = MATCH_SIMILARITY

    def __init__(
        self, width: int, depth: int, num_heads: int, hidden: int = 512, clusters: int = 64,
        cluster_dim: int = 128, token_dim: int = 256, local_hidden: int = 256,
        local_dim: int = 128,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(width, depth, num_heads)
        self.aggregator = TransportAggregation(
            width, hidden, clusters, cluster_dim, token_dim)
        self.local_head = UpConvLocalFeatures(width, local_hidden, local_dim)

    def why_not(self, image_size: tuple[int, int]) -> str:
        rows, columns = (side // PATCH for side in image_size)
        found = f'got {image_size[0]}x{image_size[1]} pixels'
        if 4 * rows - 3 <= ROOM[-1][0]:
            return ('fol needs a height of at least 266 pixels: with fewer rows, the published '
                    f'network has no room for its local features; {found}')
        if rows * columns < DISCRIMINATIVE_PATCHES:
            return (f'fol chooses {DISCRIMINATIVE_PATCHES} patches of 14x14 pixels, there are '
                    f'only {rows * columns}; {found}')
        return super().why_not(image_size)

    @property
    def max_local_features(self) -> int:
        rows = 4 * (self.image_size[0] // PATCH) - 3
        return next(room for above, room in ROOM if rows > above)

    def _aggregate(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Attention (B, N), patches (B, h, w, D), global descriptor (B, D), shares (B, M, N)."""
        self.check_size(images)
        tokens = self.backbone.tokens_before_last_block(images)
        attention = class_attention(self.backbone.blocks[-1], tokens)
        cls, patches = self.backbone.last_block(tokens, patch_grid(images))
        attended = torch.where(attention >= ATTENDED, attention, 0.0)
        descriptor, shares = self.aggregator(cls, patches, 1 - attended)
        return attention, patches, descriptor, shares

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised, H and W multiples of 14.

        The number of local features differs between images; rows of zeros pad a batch.
        """
        _, patches, descriptor, shares = self._aggregate(images)
        return Descriptors(descriptor, chosen_features(
            self.local_head(patches), discriminative_patches(shares), patch_grid(images)))

    def training_outputs(self, images: torch.Tensor) -> FoLOutputs:
        """Describe images (B, 3, H, W) as `forward` does, and show what the losses need.

        Only the choice of local features differs: see `FoLOutputs`.
        """
        attention, patches, descriptor, shares = self._aggregate(images)
        grid, local_map = patch_grid(images), self.local_head(patches)
        weights = region_weights(shares, attention)
        soft_mask = functional.interpolate(
            weights.unflatten(1, grid)[:, None], size=self.local_head.grid(grid),
            mode='bilinear', align_corners=True).flatten(1)
        local = chosen_features(local_map, best_patches(weights), grid)
        return FoLOutputs(
            Descriptors(descriptor, local), attention, shares, patches, local_map, soft_mask)


def _sizes(state: StateDict) -> dict[str, Any]:
    return {
        **transport_sizes(state),
        'local_hidden': side(state, 'upconv.weight', 1),
        'local_dim': side(state, 'upconv2.weight', 1),
    }


FAMILY = Family(
    FoL,
    marker='upconv2.',
    names=(*PUBLISHED_NAMES, (r'^local_head\.upconv1\.', 'upconv.'),
           (r'^local_head\.upconv2\.', 'upconv2.')),
    sizes=_sizes,
    trains=last_blocks_and_heads,
    method='multi_similarity',
)

SYSTEMS = (
    System(
        name='FoL, large', family='fol', files='FoL_large.pth',
        source='https://huggingface.co/shunpeng/FoL', code_licence='Apache-2.0',
        weights_licence='none stated', image_size=(504, 504), global_dim=8448, local='3600 x 128',
        recall={'MSLS-val': '93.1 > 93.5', 'Pitts30k': '93.9 > 94.5', 'Nordland': '78.3 > 85.8'},
        sizes={'width': 1024, 'depth': 24, 'num_heads': 16}),
    System(
        name='FoL, base', family='fol', files='FoL_base.pth',
        source='https://huggingface.co/shunpeng/FoL', code_licence='Apache-2.0',
        weights_licence='none stated', image_size=(322, 322), global_dim=8448, local='3600 x 128',
        recall={'MSLS-val': '91.1 > 91.5', 'Pitts30k': '92.1 > 93.1'},
        note='at 322x322 pixels; set this image size, as files of FoL load with 504x504 pixels.',
        sizes={'width': 768, 'depth': 12, 'num_heads': 12}),
)
