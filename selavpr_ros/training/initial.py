"""First weights that already see edges and know where they are.

A transformer that starts from noise needs millions of images to find oriented edges and its own
neighbourhood. Both are known beforehand, so they are written into the first two blocks; all
weights are trained from there.

Channels of the residual stream at the start: the grey pixels of a patch (196), its colour (28),
its position (32), and, written over the pixels' subspace by the first block, edge histograms.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from selavpr_ros.errors import SettingError
from selavpr_ros.models.backbone import PATCH, TRAINED_GRID
from selavpr_ros.models.hog import LUMA
from selavpr_ros.models.selavpr import SelaVPR
from selavpr_ros.training.views import pixel_grid

GREY = slice(0, PATCH * PATCH)
POSITION_CHANNELS = 32
PIXEL_SCALE = 1.5
POSITION_SCALE = 1.0
EDGE_SPACING = 2  # pixels
DIRECTIONS = 16  # of edges, over 360 degrees, because a rectifier passes one sign only
CELLS = 4  # a side of a patch
ATTENTION_SHARPNESS = 2.5
REFERENCE_GRID = 16  # patches a side at 224 pixels
REACHES = (1, 1, 1, 2)  # patches that the heads of the first blocks look aside
HEADS = 4  # one for each side


def position_table(width: int) -> torch.Tensor:
    """Sines and cosines of row and column in the last channels, (1, 1 + 37 * 37, width).

    Smooth, so that the table can be resized; zero for the class token. Source: Vaswani et al.
    2017, in two dimensions.
    """
    angles = pixel_grid(TRAINED_GRID)[..., None] * _frequencies()  # (1, 1369, 2, 8)
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)
    return POSITION_SCALE * functional.pad(table, (width - table.shape[-1], 0, 1, 0))


def _frequencies() -> torch.Tensor:
    """Radians per half image, from half a wave an image to one wave in four patches at 224."""
    return 0.5 * math.pi * 2 ** torch.linspace(0, 4, POSITION_CHANNELS // 4)


def pixel_filters(width: int) -> torch.Tensor:
    """Filters (width, 3, 14, 14) that copy a patch: grey pixels without mean, coarse colour."""
    count = PATCH * PATCH
    high_pass = torch.eye(count) - 0.8 / count
    grey = torch.einsum('oi,c->oci', high_pass, torch.tensor(LUMA)).unflatten(2, (PATCH, PATCH))
    opponents = torch.tensor([[1.0, -1, 0], [-0.5, -0.5, 1]])
    colour_channels = width - count - POSITION_CHANNELS
    spots = functional.interpolate(torch.randn(colour_channels, 1, 3, 3), size=(PATCH, PATCH))
    mix = torch.randn(colour_channels, 2) @ opponents
    colour = spots * mix[:, :, None, None] / count
    return PIXEL_SCALE * torch.cat([grey, colour, torch.zeros(POSITION_CHANNELS, 3, PATCH, PATCH)])


def edge_filters() -> tuple[torch.Tensor, torch.Tensor]:
    """Smoothed derivatives inside a patch.

    Returns:
        filters (E, 196), and the share (E, 128) that each has in the histograms of 4 x 4 cells
        with 8 orientations, in which opposite directions are one.
    """
    ticks = torch.arange(0.5, PATCH - 1, EDGE_SPACING)
    centres = torch.cartesian_prod(ticks, ticks)  # rows, columns
    offsets = torch.cartesian_prod(torch.arange(PATCH), torch.arange(PATCH)) - centres[:, None]
    bell = torch.exp(-offsets.square().sum(-1) / (2 * 1.0**2))
    angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
    directions = torch.stack([angles.sin(), angles.cos()], dim=1)
    filters = torch.einsum('npd,od->nop', offsets * bell[..., None], directions)
    filters = filters / filters.norm(dim=-1, keepdim=True)
    cell = (torch.arange(CELLS) + 0.5) * PATCH / CELLS
    tent = (1 - (centres[..., None] + 0.5 - cell).abs() / (PATCH / CELLS)).clamp(min=0)
    opposite = torch.eye(DIRECTIONS // 2).repeat(2, 1)
    share = torch.einsum('nr,nc,oq->norcq', tent[:, 0], tent[:, 1], opposite)
    return filters.flatten(0, 1), share.flatten(2).flatten(0, 1)


def _write_edges(model: SelaVPR) -> None:
    """Make the first block's MLP a bank of edge detectors, pooled into cells."""
    block = model.backbone.blocks[0]
    mlp = block.mlp.wrapped
    filters, share = edge_filters()
    count = len(filters)
    mlp.fc1.weight[:count, GREY] = 3 * filters
    mlp.fc1.weight[:count, GREY.stop:] = 0
    mlp.fc1.bias[:count] = -0.5
    # An orthogonal code of the 128 histogram values, over all channels but those of position.
    room = mlp.fc2.out_features - POSITION_CHANNELS
    code = torch.linalg.qr(torch.randn(room, share.shape[1])).Q
    mlp.fc2.weight[:, :count] = 0
    mlp.fc2.weight[:room, :count] = 0.3 * code @ share.T


def shift_attention(model: SelaVPR, block: int, shifts: list[tuple[float, float]]) -> None:
    """Let each head look by a shift (columns, rows), in patches at 224 pixels.

    Turning sines and cosines by frequency * shift makes query and key agree where the key stands
    at the query's place plus the shift.
    """
    attention = model.backbone.blocks[block].attn.wrapped
    qkv = attention.qkv
    width, heads = qkv.in_features, len(shifts)
    size = width // heads
    frequencies = _frequencies()
    query, key, value = qkv.weight.split(width)
    nn.init.orthogonal_(value)
    nn.init.orthogonal_(attention.proj.weight, gain=0.5)
    position = slice(width - POSITION_CHANNELS, width)
    gain = math.sqrt(ATTENTION_SHARPNESS)
    for head, shift in enumerate(shifts):
        rows = slice(head * size, head * size + POSITION_CHANNELS)
        turn = torch.zeros(POSITION_CHANNELS, POSITION_CHANNELS)
        quarter = POSITION_CHANNELS // 4
        for axis in range(2):
            angle = frequencies * shift[axis] * 2 / REFERENCE_GRID
            sine = torch.arange(quarter) + 2 * quarter * axis
            cosine = sine + quarter
            turn[sine, sine] = turn[cosine, cosine] = angle.cos()
            turn[sine, cosine], turn[cosine, sine] = angle.sin(), -angle.sin()
        query[rows, position] = gain * turn
        key[rows, position] = gain * torch.eye(POSITION_CHANNELS)


@torch.no_grad()
def initialise(model: SelaVPR) -> None:
    """Write edges and neighbourhood into a fresh model, in place.

    Raises:
        SettingError: it is too small for them, or has another number of heads.
    """
    backbone = model.backbone
    width, depth = backbone.embed_dim, len(backbone.blocks)
    heads, needed = backbone.blocks[0].attn.wrapped.num_heads, GREY.stop + POSITION_CHANNELS
    if width <= needed or depth < len(REACHES) or heads != HEADS:
        raise SettingError(
            f'architecture: edges need a width above {needed}, {HEADS} heads and a depth of at '
            f'least {len(REACHES)}, got width {width}, {heads} heads, depth {depth}')
    backbone.pos_embed.copy_(position_table(width))
    backbone.patch_embed.proj.weight.copy_(pixel_filters(width))
    backbone.patch_embed.proj.bias.zero_()
    _write_edges(model)
    for block, reach in enumerate(REACHES):
        shift_attention(model, block, [(-reach, 0), (reach, 0), (0, -reach), (0, reach)])
