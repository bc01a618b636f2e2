"""Which system a file of weights belongs to, by its keys and shapes; that network, filled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import StateDict
from selavpr_ros.models.cricavpr import CricaVPR
from selavpr_ros.models.dinov2_gem import Dinov2Gem
from selavpr_ros.models.fol import FoL
from selavpr_ros.models.salad import Salad
from selavpr_ros.models.selavpr import SelaVPR

HEAD_DIM = 64  # of every published ViT
SHOWN = 3  # keys that an error names
# In DINOv2's files, but without any effect at inference.
UNUSED = 'mask_token'

Names = tuple[tuple[str, str], ...]
Sizes = dict[str, Any]


# ---- sizes, read from tensors under their published names ---------------------------------------


def _side(state: StateDict, key: str, axis: int, default: int = 1) -> int:
    """Length of an axis; the default, which will not fit, where there is no such axis."""
    tensor = state.get(key)
    if tensor is None or not -tensor.dim() <= axis < tensor.dim():
        return default
    return tensor.shape[axis]


def _transformer(state: StateDict, prefix: str) -> Sizes:
    blocks = {key[len(prefix):].split('.')[1] for key in state
              if key.startswith(f'{prefix}blocks.')}
    return {'width': _side(state, f'{prefix}cls_token', -1, HEAD_DIM), 'depth': len(blocks) or 1}


def _selavpr_sizes(state: StateDict) -> Sizes:
    return {
        **_transformer(state, 'backbone.'),
        'adapter_hidden': _side(state, 'backbone.blocks.0.adapter1.D_fc1.weight', 0),
        'local_hidden': _side(state, 'LocalAdapt.upconv1.weight', 1),
        'local_dim': _side(state, 'LocalAdapt.upconv2.weight', 1),
        'registers': _side(state, 'backbone.register_tokens', 1, 0),
        'conv_stem': 'backbone.patch_embed.conv.weight' in state,
    }


def _cricavpr_sizes(state: StateDict) -> Sizes:
    adapter = 'backbone.blocks.0.adapter'
    layers = {key.split('.')[2] for key in state if key.startswith('encoder.layers.')}
    return {
        **_transformer(state, 'backbone.'),
        'adapter_hidden': _side(state, f'{adapter}.D_fc1.weight', 0),
        'branches': (_side(state, f'{adapter}.branch1.conv.weight', 0),
                     _side(state, f'{adapter}.branch2.0.conv.weight', 0),
                     _side(state, f'{adapter}.branch2.1.conv.weight', 0)),
        'encoder_layers': len(layers) or 1,
        'encoder_hidden': _side(state, 'encoder.layers.0.linear1.weight', 0),
        'pca_dim': _side(state, 'pca.components', 0, 0),
    }


def _transport_sizes(state: StateDict) -> Sizes:
    return {
        **_transformer(state, 'backbone.model.'),
        'hidden': _side(state, 'aggregator.score.0.weight', 0),
        'clusters': _side(state, 'aggregator.score.3.weight', 0),
        'cluster_dim': _side(state, 'aggregator.cluster_features.3.weight', 0),
        'token_dim': _side(state, 'aggregator.token_features.2.weight', 0),
    }


def _fol_sizes(state: StateDict) -> Sizes:
    return {
        **_transport_sizes(state),
        'local_hidden': _side(state, 'upconv.weight', 1),
        'local_dim': _side(state, 'upconv2.weight', 1),
    }


def _dinov2_sizes(state: StateDict) -> Sizes:
    return {**_transformer(state, ''), 'registers': _side(state, 'register_tokens', 1, 0)}


# ---- the families -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What is known of one system's files.

    Attributes:
        network: the class of the system.
        marker: part of a key that other systems do not have.
        names: pattern and replacement that turn this package's names into the published ones,
            in this order; published names pass unchanged.
        sizes: reads the network's arguments, all but the number of heads.
        constants: tensors that the network has and the files do not.
    """

    network: type[VprModel]
    marker: str
    names: Names
    sizes: Callable[[StateDict], Sizes]
    constants: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def published(self, name: str) -> str:
        """The name that a parameter has in published files."""
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name


# Adapters lie inside the modules that they wrap; in the published code they lie beside them.
_WRAPPED: Names = (
    (r'^module\.', ''),
    (r'\.(attn|mlp)\.wrapped\.', r'.\1.'),
    (r'\.adapter\.down\.', r'.adapter.D_fc1.'),
    (r'\.adapter\.up\.', r'.adapter.D_fc2.'),
    (r'^aggregation\.p$', 'aggregation.1.p'),
)
_IN_MODEL: Names = ((r'^module\.', ''), (r'^backbone\.(?!model\.)', 'backbone.model.'))

FAMILIES = (
    Family(SelaVPR, '.adapter1.', (
        *_WRAPPED, (r'\.attn\.adapter\.', '.adapter1.'), (r'\.mlp\.adapter\.', '.adapter2.'),
        (r'^local_head\.', 'LocalAdapt.')), _selavpr_sizes),
    Family(CricaVPR, '.branch1.', (
        *_WRAPPED, (r'\.mlp\.adapter\.', '.adapter.')), _cricavpr_sizes),
    Family(FoL, 'upconv2.', (
        *_IN_MODEL, (r'^local_head\.upconv1\.', 'upconv.'),
        (r'^local_head\.upconv2\.', 'upconv2.')), _fol_sizes),
    Family(Salad, '.dust_bin', _IN_MODEL, _transport_sizes),
    Family(Dinov2Gem, 'patch_embed.', ((r'^(module|backbone)\.', ''),), _dinov2_sizes,
           {'aggregation.p': torch.full((1,), 3.0)}),
)


def family_of(model: VprModel) -> Family:
    """The family of a network."""
    return next(family for family in FAMILIES if isinstance(model, family.network))


def sizes_of(model: VprModel) -> Sizes:
    """The arguments that make such a network."""
    family = family_of(model)
    state = {family.published(key): tensor for key, tensor in model.state_dict().items()}
    attention = model.get_submodule('backbone.blocks.0.attn')
    heads = getattr(attention, 'wrapped', attention).num_heads
    return {**family.sizes(state), 'num_heads': heads}


# ---- recognition --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How well a file fits a family.

    Attributes:
        family: of the network that was tried.
        model: that network, without values.
        state: the file's tensors by published name.
        missing, unexpected, reshaped: keys that differ, as the file or its authors name them.
        likeness: share of the keys that both have, in [0, 1].
        wrong_heads: why the number of heads is impossible, which no tensor tells; '' if it is not.
    """

    family: Family
    model: VprModel
    state: StateDict
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    likeness: float
    wrong_heads: str

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        kinds = {'missing': self.missing, 'not known there': self.unexpected,
                 'of another shape or type': self.reshaped}
        return '; '.join(f'{kind}: {_first(keys)}' for kind, keys in kinds.items() if keys)


def _first(keys: list[str]) -> str:
    more = f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''
    return ', '.join(islice(keys, SHOWN)) + more


def _kind(tensor: torch.Tensor) -> str:
    return f'{list(tensor.shape)}' + ('' if tensor.is_floating_point() else f' {tensor.dtype}')


def _fits(tensor: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether it can take the other's place; a count may be stored as any type."""
    return tensor.shape == wanted.shape and (
        tensor.is_floating_point() or not wanted.is_floating_point())


def _fit(family: Family, file: StateDict, num_heads: int | None) -> Fit | None:
    """Try a family; None if no such network can be built at all."""
    original = {family.published(key): key for key in file if not key.endswith(UNUSED)}
    state = {name: file[key] for name, key in original.items()}
    sizes = family.sizes(state)
    heads = num_heads or max(1, sizes['width'] // HEAD_DIM)
    possible = heads > 0 and sizes['width'] % heads == 0
    try:
        with torch.device('meta'):
            model = family.network(num_heads=heads if possible else 1, **sizes)
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError):
        return None
    wanted = {family.published(key): tensor for key, tensor in model.state_dict().items()}
    state = {**family.constants, **state}
    common = wanted.keys() & state.keys()
    return Fit(
        family, model, state,
        missing=[name for name in wanted if name not in state],
        unexpected=[key for name, key in original.items() if name not in wanted],
        reshaped=[
            f'{original[name]} {_kind(state[name])} instead of {_kind(tensor)}'
            for name, tensor in wanted.items()
            if name in common and not _fits(state[name], tensor)],
        likeness=len(common) / len(wanted.keys() | state.keys()),
        wrong_heads='' if possible else (
            f"{heads} attention heads do not divide the transformer's width of "
            f"{sizes['width']}; give the right num_heads"))


def _complaint(path: Path, file: StateDict, fits: list[Fit]) -> str:
    nearest = max(fits, key=lambda fit: fit.likeness, default=None)
    known = ', '.join(family.network.family for family in FAMILIES)
    if nearest is None or nearest.likeness < 0.05:
        return (f'{path}: not a checkpoint of any known system ({known}); the file begins with '
                f'{_first(list(file))}')
    return (f'{path}: not a checkpoint of any known system ({known}); it is nearest to '
            f'{nearest.family.network.family}, but {nearest}')


def build_model(file: StateDict, path: Path, num_heads: int | None = None) -> VprModel:
    """Recognise a system by its keys and shapes, and make it with these weights.

    Args:
        file: tensors by published names, with or without `module.`, or by this package's names.
        path: of the file, for error messages.
        num_heads: of the transformer; width / 64 if None.

    Raises:
        CheckpointError: it fits no family; names the nearest one and what differs.
        SettingError: the number of heads does not divide the width.
    """
    likely_first = sorted(FAMILIES, key=lambda f: not any(f.marker in key for key in file))
    fits = []
    for fit in map(partial(_fit, file=file, num_heads=num_heads), likely_first):
        if fit and fit.is_exact:
            if fit.wrong_heads:
                raise SettingError(f'{path}: {fit.wrong_heads}')
            names = {key: fit.family.published(key) for key in fit.model.state_dict()}
            fit.model.load_state_dict(
                {key: fit.state[name] for key, name in names.items()}, assign=True)
            return fit.model
        fits += [fit] if fit else []
    raise CheckpointError(_complaint(path, file, fits))
