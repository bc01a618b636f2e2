"""DINOv2's vision transformer on timm, with DINOv2's own way to resize position embeddings."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from selavpr_ros.errors import ImageError
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import StateDict, side

PATCH = 14
# DINOv2 was trained at 518 pixels: every checkpoint stores 37 x 37 position embeddings.
TRAINED_GRID = 37
HEAD_DIM = 64  # width of an attention head in every published ViT
TUNED_BLOCKS = 4  # SALAD and FoL fine-tune the last four blocks


def patch_grid(images: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of patches of images (B, 3, H, W)."""
    return images.shape[-2] // PATCH, images.shape[-1] // PATCH


def resize_position_embedding(
    table: torch.Tensor, grid: tuple[int, int], antialias: bool = False
) -> torch.Tensor:
    """Resample DINOv2's position embedding to another grid of patches.

    The published code passes a scale factor with an offset of 0.1, not a size, which shifts the
    sampling positions; this shift is part of what the weights were trained with.

    Args:
        table: (1, 1 + 37 * 37, D), the class token's entry first.
        grid: (rows, columns) of patches.
        antialias: resample to the exact size with antialiasing, as DINOv2's own models with
            registers do.

    Returns:
        (1, 1 + rows * columns, D).
    """
    if grid == (TRAINED_GRID, TRAINED_GRID):
        return table
    patches = table[:, 1:].float().unflatten(1, (TRAINED_GRID, TRAINED_GRID)).permute(0, 3, 1, 2)
    if antialias:
        resized = functional.interpolate(patches, size=grid, mode='bicubic', antialias=True)
    else:
        scale = tuple((side + 0.1) / TRAINED_GRID for side in grid)
        resized = functional.interpolate(patches, scale_factor=scale, mode='bicubic')
    resized = resized.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[:, :1], resized], dim=1)


class Backbone(VisionTransformer):
    """DINOv2 ViT: patches of 14 pixels, class token, optional registers, LayerScale.

    timm's transformer with two differences: the position embedding is resized as in DINOv2, and
    registers enter after it (timm would give them their own rows of the table).
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, registers: int = 0,
        antialias_positions: bool = False,
    ) -> None:
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
        self.num_heads = num_heads
        self.antialias_positions = antialias_positions
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        )

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        batch, rows, columns, _ = x.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
        tokens = tokens + resize_position_embedding(
            self.pos_embed, (rows, columns), self.antialias_positions)
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(batch, -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def tokens_before_last_block(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images (B, 3, H, W) up to the last block.

        Returns:
            (B, N, D): class token, registers, patches.

        Raises:
            ImageError: a side is not a multiple of 14.
        """
        height, width = images.shape[-2:]
        if height % PATCH or width % PATCH:
            raise ImageError(f'image sides must be multiples of {PATCH}, got {height}x{width}')
        return self.blocks[:-1](self._pos_embed(self.patch_embed(images)))

    def last_block(
        self, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finish tokens (B, N, D) of a grid of patches.

        Returns:
            class token (B, D) and patch tokens (B, rows, columns, D), both after the last norm.
        """
        tokens = self.norm(self.blocks[-1](tokens))
        return tokens[:, 0], tokens[:, -grid[0] * grid[1]:].unflatten(1, grid)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images (B, 3, H, W), H and W multiples of 14.

        Returns:
            class token (B, D) and patch tokens (B, H/14, W/14, D), both after the last norm.

        Raises:
            ImageError: a side is not a multiple of 14.
        """
        return self.last_block(self.tokens_before_last_block(images), patch_grid(images))


# ---- for the families that are built on it ------------------------------------------------------


def transformer_sizes(state: StateDict, prefix: str) -> dict[str, Any]:
    """Width and depth of a transformer whose published keys begin with `prefix`."""
    blocks = {key[len(prefix):].split('.')[1] for key in state
              if key.startswith(f'{prefix}blocks.')}
    return {'width': side(state, f'{prefix}cls_token', -1, HEAD_DIM), 'depth': len(blocks) or 1}


def last_blocks_and_heads(model: VprModel, name: str) -> bool:
    """Whether a parameter belongs to the last four blocks, the last norm or a head behind it."""
    if not name.startswith('backbone.blocks.'):
        return name.startswith('backbone.norm') or not name.startswith('backbone.')
    depth = len(list(model.get_submodule('backbone.blocks').children()))
    return int(name.split('.')[2]) >= depth - TUNED_BLOCKS
