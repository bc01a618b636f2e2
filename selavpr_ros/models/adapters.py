"""Light adapters around timm's own modules: how SelaVPR and CricaVPR tune a frozen DINOv2."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from selavpr_ros.models.backbone import Backbone
from selavpr_ros.models.base import VprModel

PARALLEL_SCALE = 0.2  # the constant s of SelaVPR's eq. (4)
BATCH_NORM_EPS = 1e-3

# Here an adapter lies inside the module that it wraps; in the published code it lies beside it.
PUBLISHED_NAMES = (
    (r'^module\.', ''),
    (r'\.(attn|mlp)\.wrapped\.', r'.\1.'),
    (r'\.adapter\.down\.', r'.adapter.D_fc1.'),
    (r'\.adapter\.up\.', r'.adapter.D_fc2.'),
    (r'^aggregation\.p$', 'aggregation.1.p'),
)


def adapters_and_heads(model: VprModel, name: str) -> bool:
    """Whether a parameter belongs to an adapter or to a head behind the transformer."""
    return '.adapter.' in name or not name.startswith('backbone.')


class Adapter(nn.Module):
    """Bottleneck of two linear layers, (..., D) -> (..., D); its initial output is zero."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.down(x)))


class SerialAdapter(nn.Module):
    """Attention followed by an adapter with a skip connection."""

    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.wrapped = attention
        self.adapter = Adapter(width, hidden)

    def forward(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        attended = self.wrapped(x, **options)
        return attended + self.adapter(attended)


class ParallelAdapter(nn.Module):
    """MLP with a scaled adapter beside it, both on the same normalised input."""

    def __init__(self, mlp: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.wrapped = mlp
        self.adapter = adapter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wrapped(x) + PARALLEL_SCALE * self.adapter(x)


def add_selavpr_adapters(backbone: Backbone, hidden: int) -> None:
    """Wrap every block's attention (serial) and MLP (parallel), both inside LayerScale.

    Source: SelaVPR (Lu et al., ICLR 2024), section 3.2; `hidden` is half the width there.
    """
    for block in backbone.blocks:
        block.attn = SerialAdapter(block.attn, backbone.embed_dim, hidden)
        block.mlp = ParallelAdapter(block.mlp, Adapter(backbone.embed_dim, hidden))


class _Convolution(nn.Module):
    """Convolution, batch norm, ReLU; the grid keeps its size."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPS)
        for parameter in self.conv.parameters():
            nn.init.constant_(parameter, 1e-5)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(grid)))


class MultiConvAdapter(Adapter):
    """Bottleneck with convolutions of three sizes over the square grid of patches.

    Source: CricaVPR (Lu et al., CVPR 2024), section 3.3. (B, 1 + n * n, D) -> the same shape;
    the class token bypasses the convolutions.

    Args:
        width: D, the length of a token.
        hidden: width of the bottleneck.
        branches: output channels of the 1x1 branch; inner channels and output channels of the
            3x3 and of the 5x5 branch. The three outputs together must have `hidden` channels.
    """

    def __init__(self, width: int, hidden: int, branches: tuple[int, int, int]) -> None:
        super().__init__(width, hidden)
        point, narrow, wide = branches
        self.branch1 = _Convolution(hidden, point, 1)
        self.branch2 = nn.Sequential(
            _Convolution(hidden, narrow, 1), _Convolution(narrow, wide, 3))
        self.branch3 = nn.Sequential(
            _Convolution(hidden, narrow, 1), _Convolution(narrow, wide, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = torch.relu(self.down(x))
        side = math.isqrt(x.shape[1] - 1)
        grid = narrow[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        seen = torch.cat([self.branch1(grid), self.branch2(grid), self.branch3(grid)], dim=1)
        seen = torch.cat([narrow[:, :1], seen.flatten(2).transpose(1, 2)], dim=1)
        return self.up(seen + narrow)


def add_multiconv_adapters(
    backbone: Backbone, hidden: int, branches: tuple[int, int, int]
) -> None:
    """Put a `MultiConvAdapter` beside every block's MLP, inside LayerScale."""
    for block in backbone.blocks:
        adapter = MultiConvAdapter(backbone.embed_dim, hidden, branches)
        block.mlp = ParallelAdapter(block.mlp, adapter)
