"""The network that a training starts with, and which of its weights are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from selavpr_ros.errors import SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import read_checkpoint
from selavpr_ros.models.families import Sizes, family_of, sizes_of, trainable
from selavpr_ros.models.families.dinov2_gem import Dinov2Gem
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.models.loading import find_weights
from selavpr_ros.models.recognition import build_model
from selavpr_ros.training.initial import initialise
from selavpr_ros.training.recipe import Recipe


def _network(told: Mapping[str, Any], sizes: Sizes) -> VprModel:
    """A new network of the family in `told`, with the sizes in `told`, else those in `sizes`."""
    arguments = {**sizes, **told}
    family, known = arguments.pop('family', SelaVPR.family), trainable()
    if family not in known:
        raise SettingError(f"family '{family}' is none of {', '.join(known)}")
    try:
        return known[family].network(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise SettingError(f'architecture: {error}') from error


def _on_backbone(recipe: Recipe) -> VprModel:
    """A new network whose transformer is DINOv2's; at first its adapters change nothing."""
    path = find_weights(recipe.backbone)
    dinov2 = build_model(read_checkpoint(path)[0], path)
    if not isinstance(dinov2, Dinov2Gem):
        raise SettingError(f'backbone {path} is {dinov2.family}, not a plain DINOv2: give it as '
                           'weights')
    sizes = {key: size for key, size in sizes_of(dinov2).items() if key != 'registers' or size}
    model = _network(recipe.architecture, sizes)
    given = dinov2.state_dict()
    backbone = model.get_submodule('backbone')
    for name, tensor in backbone.state_dict().items():
        plain = 'backbone.' + re.sub(r'\.wrapped\.', '.', name)
        if plain in given:
            tensor.copy_(given[plain])
    return model


def _from_scratch(recipe: Recipe) -> VprModel:
    model = _network(recipe.architecture, {})
    if isinstance(model, SelaVPR) and recipe.architecture.get('conv_stem'):
        initialise(model.backbone, recipe.stem_weights)
    return model


def freeze(model: VprModel) -> None:
    """Freeze all parameters but those that the published recipe of the family trains."""
    family = family_of(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.trains(model, name))


@torch.no_grad()
def start_model(recipe: Recipe) -> VprModel:
    """Build or load the network of a recipe, ready to be trained.

    Parameters that are not trained are frozen (see `freeze`); a network without weights or
    backbone is trained as a whole.

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
