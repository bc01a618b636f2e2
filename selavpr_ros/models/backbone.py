"""DINOv2's vision transformer on timm, with DINOv2's own way to resize position embeddings."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from selavpr_ros.errors import ImageError

PATCH = 14
# DINOv2 was trained at 518 pixels: every checkpoint stores 37 x 37 position embeddings.
TRAINED_GRID = 37


def resize_position_embedding(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resample DINOv2's position embedding to another grid of patches.

    The published code passes a scale factor with an offset of 0.1, not a size, which shifts the
    sampling positions; this shift is part of what the weights were trained with.

    Args:
        table: (1, 1 + 37 * 37, D), the class token's entry first.
        grid: (rows, columns) of patches.

    Returns:
        (1, 1 + rows * columns, D).
    """
    if grid == (TRAINED_GRID, TRAINED_GRID):
        return table
    patches = table[:, 1:].float().unflatten(1, (TRAINED_GRID, TRAINED_GRID)).permute(0, 3, 1, 2)
    scale = tuple((side + 0.1) / TRAINED_GRID for side in grid)
    resized = functional.interpolate(patches, scale_factor=scale, mode='bicubic', antialias=False)
    resized = resized.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[:, :1], resized], dim=1)


class Backbone(VisionTransformer):
    """DINOv2 ViT: patches of 14 pixels, class token, optional registers, LayerScale.

    timm's transformer with two differences: the position embedding is resized as in DINOv2, and
    registers enter after it (timm would give them their own rows of the table).
    """

    def __init__(self, width: int, depth: int, num_heads: int, registers: int = 0) -> None:
        super().__init__(
            img_size=PATCH * TRAINED_GRID,
            patch_size=PATCH,
            embed_dim=width,
            depth=depth,
            num_heads=num_heads,
            init_values=1.0,
            num_classes=0,
            global_pool='',
            dynamic_img_size=True,
        )
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        )

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        batch, rows, columns, _ = x.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
        tokens = tokens + resize_position_embedding(self.pos_embed, (rows, columns))
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(batch, -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images (B, 3, H, W), H and W multiples of 14.

        Returns:
            class token (B, D) and patch tokens (B, H/14, W/14, D), both after the last norm.

        Raises:
            ImageError: a side is not a multiple of 14.
        """
        height, width = images.shape[-2:]
        if height % PATCH or width % PATCH:
            raise ImageError(f'image sides must be multiples of {PATCH}, got {height}x{width}')
        tokens = self.forward_features(images)
        grid = (height // PATCH, width // PATCH)
        patches = tokens[:, -grid[0] * grid[1]:].unflatten(1, grid)
        return tokens[:, 0], patches
