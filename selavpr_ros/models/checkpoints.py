"""Checkpoint files -> state dicts under this package's names, and the sizes found in them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from selavpr_ros.errors import CheckpointError

StateDict = dict[str, torch.Tensor]

# What the published containers hold beside tensors: recall arrays and scalars written by numpy 1
# or 2. Nothing else is ever unpickled.
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED_GLOBALS: list[Any] = [
    *((_RECONSTRUCT, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_SCALAR, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64')),
]

# Published name -> ours, in this order. The adapters sit inside the modules that they wrap.
_SELAVPR_NAMES = [
    (r'^module\.', ''),
    (r'^(backbone\.blocks\.\d+)\.attn\.', r'\1.attn.wrapped.'),
    (r'^(backbone\.blocks\.\d+)\.mlp\.', r'\1.mlp.wrapped.'),
    (r'^(backbone\.blocks\.\d+)\.adapter1\.', r'\1.attn.adapter.'),
    (r'^(backbone\.blocks\.\d+)\.adapter2\.', r'\1.mlp.adapter.'),
    (r'\.D_fc1\.', '.down.'),
    (r'\.D_fc2\.', '.up.'),
    (r'^aggregation\.1\.p$', 'aggregation.p'),
    (r'^LocalAdapt\.', 'local_head.'),
]
# In DINOv2's files, but without any effect at inference.
_UNUSED = 'backbone.mask_token'


def sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hex digits."""
    with path.open('rb') as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, Any]]:
    with safe_open(path, 'pt') as file:
        metadata = json.loads((file.metadata() or {}).get('selavpr_ros', '{}'))
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


def _read_container(path: Path) -> StateDict:
    with torch.serialization.safe_globals(ALLOWED_GLOBALS):
        content = torch.load(path, map_location='cpu', weights_only=True)
    if isinstance(content, dict):
        content = content.get('model_state_dict', content)
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise CheckpointError(f'{path}: no dictionary of tensors in it')
    return content


def read_checkpoint(path: Path) -> tuple[StateDict, dict[str, Any]]:
    """Read tensors, and the metadata that only this package's own files have.

    Args:
        path: a published container (`torch.save`, read with `weights_only=True`) or one of this
            package's `.safetensors` files.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that wants to run code.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give 'embedded', 'hog' or the path of a checkpoint"
        )
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path)
        return _read_container(path), {}
    except CheckpointError:
        raise
    except Exception as error:  # torch and pickle raise anything on a broken file
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f'{path}: cannot be read as a checkpoint ({reason})') from error


def to_selavpr_names(state: StateDict) -> StateDict:
    """Rename published SelaVPR keys; keys that already are this package's pass unchanged."""
    if any('.wrapped.' in key for key in state):
        return state
    renamed = {}
    for key, tensor in state.items():
        for pattern, replacement in _SELAVPR_NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    renamed.pop(_UNUSED, None)
    return renamed


def selavpr_sizes(state: StateDict) -> dict[str, int]:
    """Read the arguments of `SelaVPR` (all but the number of heads) from the tensors' shapes.

    Raises:
        CheckpointError: a tensor that every SelaVPR has is missing.
    """
    try:
        width = state['backbone.cls_token'].shape[-1]
        registers = state.get('backbone.register_tokens')
        blocks = [int(key.split('.')[2]) for key in state if key.startswith('backbone.blocks.')]
        return {
            'width': width,
            'depth': max(blocks) + 1,
            'adapter_hidden': state['backbone.blocks.0.attn.adapter.down.weight'].shape[0],
            'local_hidden': state['local_head.upconv1.weight'].shape[1],
            'local_dim': state['local_head.upconv2.weight'].shape[1],
            'registers': 0 if registers is None else registers.shape[1],
        }
    except (KeyError, ValueError) as error:
        first = ', '.join(list(state)[:3])
        raise CheckpointError(
            f'not a SelaVPR checkpoint: {error} is missing (the file begins with {first}); '
            'this version reads SelaVPR with and without registers'
        ) from error
