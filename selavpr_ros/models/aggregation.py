"""From patch tokens to one global descriptor."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

GEM_EPS = 1e-6


class GeM(nn.Module):
    """Generalised mean over positions with a learned power (Radenovic et al., PAMI 2018, eq. 3).

    Each token is L2-normalised before; what is below `GEM_EPS` counts as `GEM_EPS`.
    """

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), power))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (B, ..., D) to (B, D), not normalised."""
        unit = functional.normalize(tokens.flatten(1, -2).float(), dim=-1)  # 1e-6 needs float32
        return unit.clamp(min=GEM_EPS).pow(self.p.float()).mean(dim=1).pow(1 / self.p.float())
