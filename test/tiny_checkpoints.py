"""Small networks of every family, written as the published containers are."""

from __future__ import annotations

from pathlib import Path

import torch
from reference_weights import fill

from selavpr_ros.models.base import VprModel
from selavpr_ros.models.families import family_named, family_of

HEADS = 4
TRANSFORMER = {'width': 64, 'depth': 2, 'num_heads': HEADS}
TRANSPORT = {**TRANSFORMER, 'hidden': 32, 'clusters': 8, 'cluster_dim': 16, 'token_dim': 32}
LOCAL = {'local_hidden': 32, 'local_dim': 16}
SIZES = {
    'selavpr': {**TRANSFORMER, **LOCAL, 'adapter_hidden': 32},
    'cricavpr': {**TRANSFORMER, 'adapter_hidden': 32, 'branches': (16, 4, 8), 'encoder_layers': 1,
                 'encoder_hidden': 64},
    'fol': {**TRANSPORT, **LOCAL},
    'salad': TRANSPORT,
    'dinov2_gem': TRANSFORMER,
}
# The smallest that each can work with.
IMAGE_SIZES = {'selavpr': (112, 154), 'cricavpr': (168, 168), 'fol': (266, 266),
               'salad': (112, 154), 'dinov2_gem': (112, 154)}


def make(family: str, **changes: object) -> VprModel:
    """A network with values that anybody can make again; `changes` go to its sizes."""
    model = family_named(family).network(**{**SIZES[family], **changes})
    model.image_size = IMAGE_SIZES[family]
    fill(model.state_dict())
    return model.eval().requires_grad_(False)


def published_state(model: VprModel, prefix: str = 'module.') -> dict[str, torch.Tensor]:
    """Its tensors under the names of the published files."""
    family = family_of(model)
    return {prefix + family.published(key): tensor for key, tensor in model.state_dict().items()
            if family.published(key) not in family.constants}


def write(path: Path, model: VprModel) -> Path:
    """Write a published container."""
    torch.save({'epoch_num': 3, 'model_state_dict': published_state(model)}, path)
    return path
