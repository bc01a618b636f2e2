"""Recognises the system of a file of weights by its keys and shapes, and fills its network."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models.backbone import HEAD_DIM
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import StateDict
from selavpr_ros.models.families import Family, Sizes, all_families

# What wrappers put into keys (DataParallel, compile, FSDP, checkpointing of activations).
WRAPPED = re.compile(r'(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module|'
                     r'_checkpoint_wrapped_module)\.)+')
SHOWN = 3  # keys that an error names
# In DINOv2's files, but without any effect at inference.
UNUSED = 'mask_token'
# What programs that average weights count with, beside them.
COUNTS = {'n_averaged', 'num_updates', 'decay', 'initted', 'step'}


@dataclass(frozen=True)
class Fit:
    """How well a file fits a family.

    Attributes:
        family: the family that was tried.
        model: a network of this family, without values.
        state: the file's tensors by published name.
        missing: published names of tensors that the file lacks.
        unexpected, reshaped: tensors without a place in the network, or of another shape or type,
            as the file names them.
        likeness: share of all keys that both the file and the network have, in [0, 1].
        wrong_heads: why the number of heads is impossible; '' if it is possible.
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
        """Whether all keys, shapes and types agree."""
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
    """Whether a tensor can take the place of the wanted one; counts may be of any type."""
    return tensor.shape == wanted.shape and (
        tensor.is_floating_point() or not wanted.is_floating_point())


def _with_heads(family: Family, sizes: Sizes, num_heads: int | None) -> tuple[Sizes, str]:
    """All arguments of a network, and why its number of heads is impossible; '' if possible."""
    if not family.takes_heads:
        return sizes, ''
    width = sizes['width']
    heads = num_heads or max(1, width // HEAD_DIM)
    if heads > 0 and width % heads == 0:
        return {**sizes, 'num_heads': heads}, ''
    return {**sizes, 'num_heads': 1}, (
        f"{heads} attention heads do not divide the transformer's width of {width}; give the "
        'right num_heads')


def _common_prefix(keys: list[str]) -> str:
    """The longest start that all keys have, up to a dot: 'model.' of model.norm and model.head."""
    start = os.path.commonprefix(keys)
    return start[:start.rfind('.') + 1]


def _bare_names(file: StateDict) -> dict[str, str]:
    """Keys of a file -> the same without what wrappers and larger programs put before them.

    Tensors without any effect are left out.
    """
    names = {key: WRAPPED.sub(r'\1', key) for key in file
             if not key.endswith(UNUSED) and key not in COUNTS}
    prefix = _common_prefix(list(names.values()))
    return {key: name.removeprefix(prefix) for key, name in names.items()}


def _fit(family: Family, file: StateDict, num_heads: int | None) -> Fit | None:
    """Try a family; None if no such network can be built at all."""
    names = {key: family.published(name) for key, name in _bare_names(file).items()}
    original = {name: key for key, name in names.items()}
    state = {name: file[key] for name, key in original.items()}
    sizes, wrong_heads = _with_heads(family, family.sizes(state), num_heads)
    try:
        with torch.device('meta'):
            model = family.network(**sizes)
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError):
        return None
    wanted = {family.published(key): tensor for key, tensor in model.state_dict().items()}
    state = {**family.constants, **state}
    common = wanted.keys() & state.keys()
    return Fit(
        family, model, state,
        missing=[name for name in wanted if name not in state],
        unexpected=[key for key, name in names.items()
                    if name not in wanted or original[name] != key],
        reshaped=[
            f'{original[name]} {_kind(state[name])} instead of {_kind(tensor)}'
            for name, tensor in wanted.items()
            if name in common and not _fits(state[name], tensor)],
        likeness=len(common) / len(wanted.keys() | state.keys()),
        wrong_heads=wrong_heads)


def _check_numbers(model: VprModel, path: Path) -> None:
    """Raise CheckpointError if a weight is NaN or infinite: so would be every descriptor."""
    broken = [name for name, tensor in model.state_dict().items()
              if tensor.numel() and not tensor.is_meta
              and not all(end.isfinite() for end in tensor.float().aminmax())]
    if broken:
        raise CheckpointError(
            f'{path}: NaN or infinity in {_first(broken)}: the training diverged, or the file is '
            'damaged: get it again, or take an earlier checkpoint')


def _complaint(path: Path, file: StateDict, fits: list[Fit]) -> str:
    nearest = max(fits, key=lambda fit: fit.likeness, default=None)
    known = ', '.join(family.name for family in all_families() if family.has_weights)
    if nearest is None or nearest.likeness < 0.05:
        return (f'{path}: not a checkpoint of any known system ({known}); the file begins with '
                f'{_first(list(file))}')
    return (f'{path}: not a checkpoint of any known system ({known}); it is nearest to '
            f'{nearest.family.name}, but {nearest}')


def build_model(file: StateDict, path: Path, num_heads: int | None = None) -> VprModel:
    """Recognise a system by its keys and shapes, and build it with these weights.

    Args:
        file: tensors by published names or by this package's names, with or without a prefix
            before all of them (`module.`, `model.`, ...).
        path: of the file, for error messages.
        num_heads: of the transformer, if it is one; width / 64 if None.

    Raises:
        CheckpointError: the file fits no family, and the message names the nearest one and what
            differs; or a weight is no finite number.
        SettingError: the number of heads does not divide the width.
    """
    candidates = [family for family in all_families() if family.has_weights]
    likely_first = sorted(candidates, key=lambda f: not any(f.marker in key for key in file))
    fits = []
    for fit in map(partial(_fit, file=file, num_heads=num_heads), likely_first):
        if fit and fit.is_exact:
            if fit.wrong_heads:
                raise SettingError(f'{path}: {fit.wrong_heads}')
            names = {key: fit.family.published(key) for key in fit.model.state_dict()}
            fit.model.load_state_dict(
                {key: fit.state[name] for key, name in names.items()}, assign=True)
            _check_numbers(fit.model, path)
            return fit.model
        fits += [fit] if fit else []
    raise CheckpointError(_complaint(path, file, fits))
