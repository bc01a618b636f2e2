"""Weights and images that anybody can make again, and the compact reference arrays made of them.

`python test/reference_weights.py` writes `test/data/*_tiny.npz` from the code as it is: do that
only when the goldens agree with it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'
# Images of each family's reference, (H, W) in pixels.
SIZES = {'selavpr': (126, 154), 'cricavpr': (168, 168), 'salad': (126, 154), 'fol': (280, 322),
         'dinov2_gem': (126, 154)}
EVERY = {'selavpr': 7, 'fol': 50}  # local rows kept


@torch.no_grad()
def fill(state: dict[str, torch.Tensor]) -> None:
    """Set every tensor from its name alone, none of them trivially."""
    for key, tensor in state.items():
        random = np.random.RandomState(zlib.crc32(key.encode()))
        drawn = np.asarray(random.standard_normal(tuple(tensor.shape)))
        values = torch.from_numpy(drawn.astype(np.float32))
        if key.endswith('.p'):
            values = 3 + 0.3 * values
        elif key.endswith('gamma'):
            values = 0.3 + 0.1 * values
        elif key.endswith(('bias', 'running_mean')):
            values = 0.1 * values
        elif key.endswith('num_batches_tracked'):
            values = torch.tensor(7)
        elif tensor.dim() < 2:
            values = 1 + 0.1 * values
        elif not key.endswith(('cls_token', 'pos_embed')):
            values = values / np.sqrt(tensor[0].numel())
        if key.endswith('score.3.weight'):
            values = 8 * values  # else the clusters take equal shares, and nothing is chosen
        tensor.copy_(values)


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(1, 3, height, width) in [0, 255]: blocks with noise."""
    random = np.random.RandomState(seed)
    blocks = random.randint(0, 256, size=(3, -(-height // 28), -(-width // 28)))
    coarse = blocks.repeat(28, axis=1).repeat(28, axis=2)[:, :height, :width]
    noise = random.randint(0, 256, size=(3, height, width))
    return torch.from_numpy((0.6 * coarse + 0.4 * noise).astype(np.float32))[None]


def computed(family: str) -> dict[str, np.ndarray]:
    """What the code gives now for a small network of a family."""
    from tiny_checkpoints import make

    from selavpr_ros.images.preprocess import normalise

    images = normalise(torch.cat([image(*SIZES[family], seed) for seed in (0, 1)]))
    model = make(family)
    alone = model(images[:1])
    arrays = {'global_descriptor': alone.global_descriptor}
    if alone.local_features is not None:
        arrays['local_features'] = alone.local_features[:, ::EVERY[family]]
    if family == 'cricavpr':
        arrays['cross_image'] = model(images, cross_image=True).global_descriptor
    if family == 'dinov2_gem':
        arrays['registers'] = make(family, registers=4)(images[:1]).global_descriptor
    return {name: array.numpy() for name, array in arrays.items()}


def _write() -> None:
    for family in SIZES:
        np.savez_compressed(DATA / f'{family}_tiny.npz', **computed(family))


if __name__ == '__main__':
    _write()
