"""From what `torch.save` kept to a flat dictionary of tensors, without running any of it."""

from __future__ import annotations

import logging
import sys
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from selavpr_ros.errors import CheckpointError
from selavpr_ros.models.file_kinds import SAVE_TENSORS

StateDict = dict[str, torch.Tensor]

logger = logging.getLogger(__name__)

# What the published containers hold beside tensors: recall arrays and scalars written by numpy 1
# or 2. Nothing else is ever made as what it is.
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED_GLOBALS: list[Any] = [
    *((_RECONSTRUCT, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_SCALAR, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in '?bhilqBHILQefdU'},
]

# What of Python itself lies beside weights. A file that names anything else of it, such as eval or
# os.system, wants to do something. Pickles have the names of Python 2.
PYTHON = {*sys.stdlib_module_names, *IMPORT_MAPPING}
HARMLESS = {'argparse', 'collections', 'copy_reg', 'copyreg', 'datetime', 'decimal', 'enum',
            'fractions', 'logging', 'pathlib', 'types', 'typing', 'uuid'}
TYPES = {'bool', 'bytearray', 'bytes', 'complex', 'dict', 'float', 'frozenset', 'int', 'list',
         'object', 'range', 'set', 'slice', 'str', 'tuple', 'type'}

# Names under which programs keep weights. Averaged ones come first: they are those that training
# programs evaluate.
WRAPPERS = (
    'state_dict_ema', 'ema_state_dict', 'model_ema', 'ema_model', 'params_ema', 'ema', 'teacher',
    'model_state_dict', 'state_dict', 'model_state', 'model', 'net_state_dict', 'net', 'network',
    'weights', 'params', 'module')
DEPTH = 6  # of dictionaries in dictionaries


class _LeftOut:
    """Stands for every class and function of foreign code: a call gives an empty dictionary."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _is_left_out(name: str) -> bool:
    """Whether a class or function, by its dotted name, lies beside weights in honest files."""
    module, _, attribute = name.partition('.')
    if module in ('builtins', '__builtin__'):
        return attribute in TYPES
    return module in HARMLESS or module not in PYTHON


def _names_in(file: IO[bytes]) -> list[str]:
    """Classes and functions that a container refers to and that are not allowed, by name."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # of any kind; torch.load tells what is wrong with the file
        return []


def _load(file: IO[bytes]) -> Any:
    """Content of a container; objects of foreign code are empty dictionaries in it."""
    with torch.serialization.safe_globals(ALLOWED_GLOBALS):
        left_out: list[Any] = [(_LeftOut, name) for name in _names_in(file) if _is_left_out(name)]
    file.seek(0)
    with torch.serialization.safe_globals([*ALLOWED_GLOBALS, *left_out]):
        return torch.load(file, map_location='cpu', weights_only=True)


def _holds_tensors(part: Any, depth: int = DEPTH) -> bool:
    """Whether a part of a container is a dictionary with named tensors somewhere in it."""
    return isinstance(part, Mapping) and depth > 0 and any(
        isinstance(key, str) and (
            isinstance(value, torch.Tensor) or _holds_tensors(value, depth - 1))
        for key, value in part.items())


def _flat(part: Mapping[Any, Any], prefix: str = '', depth: int = DEPTH) -> StateDict:
    """Tensors by dotted names; numbers and texts beside them are left out."""
    state: StateDict = {}
    for key, value in part.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            state[prefix + key] = value.detach()
        elif isinstance(key, str) and _holds_tensors(value, depth - 1):
            state.update(_flat(value, f'{prefix}{key}.', depth - 1))
    return state


def _unwrapped(part: Any, path: Path) -> StateDict:
    """The weights in a container or in one of its entries."""
    if not _holds_tensors(part):
        return {}
    inner = [key for key, value in part.items() if not str(key).startswith('optim')
             and _holds_tensors(value, DEPTH - 1)]
    known = [name for name in WRAPPERS if name in inner]
    direct = {key: value for key, value in part.items() if isinstance(value, torch.Tensor)}
    # A single number beside the weights is a count or a loss.
    is_alone = len(inner) == 1 and not any(tensor.dim() for tensor in direct.values())
    if not known and not is_alone:
        return _flat({**direct, **{key: part[key] for key in inner}})
    chosen = (known or inner)[0]
    others = [name for name in inner if name != chosen]
    if others:
        logger.warning("%s: the tensors under '%s' are used, not those under '%s'", path, chosen,
                       "', '".join(others))
    return _unwrapped(part[chosen], path)


def _is_module(part: Any) -> bool:
    """Whether this stands for a torch.nn.Module, whose attributes it has, or holds one."""
    values = [part, *part.values()] if isinstance(part, Mapping) else [part]
    return any('_modules' in getattr(value, '__dict__', {}) for value in values)


def read_container(path: Path) -> StateDict:
    """Read the weights in a file of `torch.save`.

    They are searched in dictionaries of any name. Optimizers, settings, logs and objects beside
    them are left out.

    Raises:
        CheckpointError: there are none.
        Exception: of any kind, from torch, where the file is broken or wants to run code.
    """
    with path.open('rb') as file:
        content = _load(file)
    state = _unwrapped(content, path)
    if not state and _is_module(content):
        raise CheckpointError(
            f'{path}: it holds a whole model as a Python object, which only its own code can '
            f'make: {SAVE_TENSORS}')
    if not state:
        raise CheckpointError(f'{path}: no dictionary of tensors in it: {SAVE_TENSORS}')
    return state
