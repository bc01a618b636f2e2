"""The published systems in full size with random values: for timings, and for nothing else."""

from __future__ import annotations

import math

import torch

from selavpr_ros.models.base import VprModel
from selavpr_ros.models.catalogue import System, build

# What the values of a trained DINOv2 are like, roughly: positions count as much as pixels, and a
# block changes its input by a part of it.
TOKEN_STD = 0.5
LAYER_SCALE = 0.3
GEM_POWER = 3.0


def _fill(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Give a tensor values that keep the scale of what passes through it."""
    kind = name.rpartition('.')[2]
    if tensor.dim() < 2:
        ones = kind in ('weight', 'running_var')
        tensor.fill_({'gamma': LAYER_SCALE, 'p': GEM_POWER}.get(kind, float(ones)))
        return
    is_token = kind in ('cls_token', 'pos_embed', 'register_tokens')
    std = TOKEN_STD if is_token else (len(tensor) / tensor.numel()) ** 0.5
    # Uniform numbers are made three times as fast as normal ones.
    tensor.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)


@torch.no_grad()
def build_random(system: System, device: str | torch.device = 'cpu', seed: int = 0) -> VprModel:
    """Build a network in full size with quick random values, the same ones for the same seed.

    Its descriptors are unit vectors as usual, but say nothing about places. torch's own random
    start of a ViT-L takes three times as long.

    Args:
        system: one of SYSTEMS.
        device: where the values are made; another device gives other values.
        seed: seed of the values.
    """
    with torch.device('meta'):
        model = build(system)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, tensor in model.state_dict().items():
        _fill(name, tensor, generator)
    return model
