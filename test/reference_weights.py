"""Weights and images that anybody can make again, for the compact reference arrays.

`python test/reference_weights.py` writes `test/data/selavpr_tiny.npz` from the code as it is: do
that only when the goldens agree with it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch


@torch.no_grad()
def fill(state: dict[str, torch.Tensor]) -> None:
    """Set every tensor from its name alone, none of them trivially."""
    for key, tensor in state.items():
        random = np.random.RandomState(zlib.crc32(key.encode()))
        values = torch.from_numpy(random.standard_normal(tuple(tensor.shape)).astype(np.float32))
        if key.endswith('.p'):
            values = 3 + 0.3 * values
        elif key.endswith('gamma'):
            values = 0.3 + 0.1 * values
        elif key.endswith('bias'):
            values = 0.1 * values
        elif tensor.dim() == 1:
            values = 1 + 0.1 * values
        elif tensor.dim() > 1 and not key.endswith(('cls_token', 'pos_embed')):
            values = values / np.sqrt(tensor[0].numel())
        tensor.copy_(values)


def image(height: int, width: int) -> torch.Tensor:
    """(1, 3, height, width) in [0, 255]: blocks with noise."""
    random = np.random.RandomState(0)
    blocks = random.randint(0, 256, size=(3, -(-height // 28), -(-width // 28)))
    coarse = blocks.repeat(28, axis=1).repeat(28, axis=2)[:, :height, :width]
    noise = random.randint(0, 256, size=(3, height, width))
    return torch.from_numpy((0.6 * coarse + 0.4 * noise).astype(np.float32))[None]


def _write() -> None:
    from selavpr_ros.models.selavpr import SelaVPR
    from selavpr_ros.preprocess import normalise

    model = SelaVPR(width=64, depth=2, num_heads=4, adapter_hidden=32, local_hidden=32,
                    local_dim=16).eval()
    fill(model.state_dict())
    with torch.no_grad():
        descriptors = model(normalise(image(126, 154)))
    np.savez_compressed(
        Path(__file__).parent / 'data' / 'selavpr_tiny.npz',
        global_descriptor=descriptors.global_descriptor,
        local_features=descriptors.local_features[:, ::7])


if __name__ == '__main__':
    _write()
