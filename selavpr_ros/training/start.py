"""The network that a training starts with, and which of its weights are trained."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from selavpr_ros.errors import SettingError
from selavpr_ros.models import find_weights, load_model
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import read_checkpoint
from selavpr_ros.models.dinov2_gem import Dinov2Gem
from selavpr_ros.models.families import FAMILIES, build_model, sizes_of
from selavpr_ros.models.selavpr import SelaVPR
from selavpr_ros.training.initial import initialise
from selavpr_ros.training.recipe import Recipe

# The published sizes beside those of the backbone and its adapters.
HEADS: dict[str, dict[str, Any]] = {
    'selavpr': {'local_hidden': 256, 'local_dim': 128},
    'cricavpr': {'encoder_layers': 2, 'encoder_hidden': 2048},
    'salad': {'hidden': 512, 'clusters': 64, 'cluster_dim': 128, 'token_dim': 256},
    'fol': {'hidden': 512, 'clusters': 64, 'cluster_dim': 128, 'token_dim': 256,
            'local_hidden': 256, 'local_dim': 128},
}
ADAPTED = ('selavpr', 'cricavpr')
TUNED_BLOCKS = 4  # of SALAD and FoL, the last ones


def _network(family: str, sizes: dict[str, Any]) -> VprModel:
    networks = {f.network.family: f.network for f in FAMILIES}
    if family not in HEADS:
        raise SettingError(f"family '{family}' is none of {', '.join(HEADS)}")
    try:
        return networks[family](**sizes)
    except (TypeError, ValueError, AssertionError) as error:
        raise SettingError(f'architecture: {error}') from error


def _adapter_sizes(family: str, hidden: int) -> dict[str, Any]:
    """Sizes of adapters with so wide a bottleneck, in the published proportions."""
    if family == 'selavpr':
        return {'adapter_hidden': hidden}
    return {'adapter_hidden': hidden, 'branches': (hidden // 2, hidden // 16, hidden // 4)}


def _on_backbone(recipe: Recipe) -> VprModel:
    """A new network whose transformer is DINOv2's; adapters begin as no change."""
    path = find_weights(recipe.backbone)
    dinov2 = build_model(read_checkpoint(path)[0], path)
    if not isinstance(dinov2, Dinov2Gem):
        raise SettingError(f'backbone {path} is {dinov2.family}, no plain DINOv2: name it weights')
    told = dict(recipe.architecture)
    family = told.pop('family', 'selavpr')
    sizes = {key: size for key, size in sizes_of(dinov2).items() if key != 'registers' or size}
    hidden = told.get('adapter_hidden', sizes['width'] // 2)
    adapters = _adapter_sizes(family, hidden) if family in ADAPTED else {}
    model = _network(family, {**sizes, **adapters, **HEADS.get(family, {}), **told})
    given = dinov2.state_dict()
    backbone = model.get_submodule('backbone')
    for name, tensor in backbone.state_dict().items():
        plain = 'backbone.' + re.sub(r'\.wrapped\.', '.', name)
        if plain in given:
            tensor.copy_(given[plain])
    return model


def _from_scratch(recipe: Recipe) -> VprModel:
    told = dict(recipe.architecture)
    family = told.pop('family', 'selavpr')
    model = _network(family, told)
    if isinstance(model, SelaVPR) and told.get('conv_stem'):
        initialise(model.backbone, recipe.stem_weights)
    return model


def _is_head(name: str, model: VprModel) -> bool:
    """Whether a parameter is what the published recipe of the family trains."""
    if not name.startswith('backbone.'):
        return True
    if model.family in ADAPTED:
        return '.adapter.' in name
    block = re.match(r'backbone\.blocks\.(\d+)\.', name)
    depth = sizes_of(model)['depth']
    last = block is not None and int(block[1]) >= depth - TUNED_BLOCKS
    return last or name.startswith('backbone.norm')


def freeze(model: VprModel) -> None:
    """Leave a gradient only to what the published recipe of the family trains.

    Adapters and heads; the last four blocks and the heads, where the family has no adapters.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_head(name, model))


@torch.no_grad()
def start_model(recipe: Recipe) -> VprModel:
    """Build or load the network of a recipe; what is not to be trained needs no gradient.

    See `freeze`; a network that begins with nothing is trained as a whole.

    Raises:
        CheckpointError: weights or backbone cannot be read.
        SettingError: they do not fit the architecture or the image size.
    """
    if recipe.weights and (recipe.backbone or recipe.architecture):
        other = 'backbone' if recipe.backbone else 'architecture'
        raise SettingError(f'weights and {other}: the weights have one, give only one of the two')
    if not (recipe.weights or recipe.backbone or recipe.architecture):
        raise SettingError('nothing to train: give weights, a backbone or an architecture')
    torch.manual_seed(recipe.seed)
    if recipe.weights:
        model = load_model(recipe.weights, image_size=recipe.image_size)
    else:
        model = _on_backbone(recipe) if recipe.backbone else _from_scratch(recipe)
        model.resize, model.local_stride = 'area', recipe.local_stride
        model.image_size = recipe.image_size or model.image_size
        reason = model.why_not(model.image_size)
        if reason:
            raise SettingError(reason)
    if not any(True for _ in model.parameters()):
        raise SettingError(f'{model.family} has nothing to train')
    if recipe.weights or recipe.backbone:
        freeze(model)
    return model.train()


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many weights a network has, and how many of them are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
