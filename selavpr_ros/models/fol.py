"""FoL ("Focus on Local: Finding Reliable Discriminative Regions for VPR", AAAI 2025)."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from selavpr_ros.models.aggregation import TransportAggregation
from selavpr_ros.models.backbone import PATCH, Backbone, patch_grid
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.local_features import UpConvLocalFeatures

ATTENDED = 0.01  # attention below it counts as none
DISCRIMINATIVE_PATCHES = 225
CLIPPED_PATCHES = 3
CLIP_RANK = 0.05  # share of the patches
MATCH_SIMILARITY = 0.7

# Rows of local features above which the published code makes room for so many of them. Up to 70
# rows its room is 1000, and the features of 225 patches never fit in.
ROOM = ((80, 3600), (70, 3500))


def class_attention(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """How much the class token attends to each patch in a block, summed over the heads.

    Args:
        block: of a ViT without registers.
        tokens: (B, 1 + N, D), the block's input.

    Returns:
        (B, N) float32.
    """
    attention = block.attn
    qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1))
    query, key = qkv[:, 0, 0], qkv[:, :, 1]
    scores = torch.einsum('bhd,bnhd->bhn', query * attention.scale, key)
    return scores.softmax(dim=2, dtype=torch.float32).sum(dim=1)[:, 1:]


def discriminative_patches(shares: torch.Tensor) -> torch.Tensor:
    """Choose the patches that say most about the place.

    A patch's confidence is its mean share in the clusters. The very largest values are clipped
    as outliers. The published softmax over the patches is left out: it keeps the order.

    Args:
        shares: (B, M, N) from the transport.

    Returns:
        (B, N) bool, `DISCRIMINATIVE_PATCHES` of them true.
    """
    confidence = shares.mean(dim=1)
    ranked, order = confidence.sort(dim=1, descending=True, stable=True)
    clipped = ranked[:, int(CLIP_RANK * shares.shape[2])]
    confidence.scatter_(
        1, order[:, :CLIPPED_PATCHES], clipped[:, None].expand(-1, CLIPPED_PATCHES))
    chosen = confidence.topk(DISCRIMINATIVE_PATCHES, dim=1).indices
    return torch.zeros_like(confidence, dtype=torch.bool).scatter_(1, chosen, True)


class FoL(VprModel):
    """DINOv2 whose own attention tells what to leave out, and local features of the rest.

    Args:
        width, depth, num_heads: of the transformer.
        hidden, clusters, cluster_dim, token_dim: see `TransportAggregation`.
        local_hidden, local_dim: channels of the two up-convolutions.
    """

    family = 'fol'
    image_size = (504, 504)
    match_similarity = MATCH_SIMILARITY

    def __init__(
        self, width: int, depth: int, num_heads: int, hidden: int, clusters: int,
        cluster_dim: int, token_dim: int, local_hidden: int, local_dim: int,
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

    def _local(self, patches: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Features of the chosen patches; images with fewer of them end in rows of zeros."""
        rows, columns = patches.shape[1:3]
        mask = functional.interpolate(
            chosen.unflatten(1, (rows, columns))[:, None].float(),
            size=self.local_head.grid((rows, columns)), mode='nearest').flatten(1) > 0
        kept = [features[wanted] for features, wanted in zip(
            self.local_head(patches), mask, strict=True)]
        return pad_sequence(kept, batch_first=True)

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised, H and W multiples of 14.

        The local features have no fixed number; in a batch, rows of zeros fill up.
        """
        self.check_size(images)
        tokens = self.backbone.tokens_before_last_block(images)
        attention = class_attention(self.backbone.blocks[-1], tokens)
        cls, patches = self.backbone.last_block(tokens, patch_grid(images))
        attended = torch.where(attention >= ATTENDED, attention, 0.0)
        descriptor, shares = self.aggregator(cls, patches, 1 - attended)
        return Descriptors(descriptor, self._local(patches, discriminative_patches(shares)))
