"""Light adapters around timm's own modules: how SelaVPR tunes a frozen DINOv2."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from selavpr_ros.models.backbone import Backbone

PARALLEL_SCALE = 0.2  # the constant s of SelaVPR's eq. (4)


class Adapter(nn.Module):
    """Bottleneck of two linear layers, (..., D) -> (..., D); starts as zero, so as no change."""

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

    def __init__(self, mlp: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.wrapped = mlp
        self.adapter = Adapter(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wrapped(x) + PARALLEL_SCALE * self.adapter(x)


def add_selavpr_adapters(backbone: Backbone, hidden: int) -> None:
    """Wrap every block's attention (serial) and MLP (parallel), both inside LayerScale.

    Source: SelaVPR (Lu et al., ICLR 2024), section 3.2; `hidden` is half the width there.
    """
    for block in backbone.blocks:
        block.attn = SerialAdapter(block.attn, backbone.embed_dim, hidden)
        block.mlp = ParallelAdapter(block.mlp, backbone.embed_dim, hidden)
