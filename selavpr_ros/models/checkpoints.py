"""Files of weights -> dictionaries of tensors, without ever running code from them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from selavpr_ros.errors import CheckpointError
from selavpr_ros.models.containers import StateDict as StateDict  # re-exported
from selavpr_ros.models.containers import read_container
from selavpr_ros.models.file_kinds import (
    CUT_OFF,
    SAVE_TENSORS,
    is_safetensors,
    why_no_weights,
)

# Key of this package's own metadata, a JSON object, in a safetensors file; then the entries that
# are read back, with their types.
METADATA = 'selavpr_ros'
METADATA_KINDS: dict[str, type] = {
    'num_heads': int, 'image_size': list, 'resize': str, 'local_stride': int,
    'source_name': str, 'source_sha256': str}

# What torch and safetensors say of a truncated file.
BROKEN = ('EOFError|unexpected EOF|Invalid argument|central directory|header too small|'
          'invalid header length|file not fully covered')


def side(state: StateDict, key: str, axis: int, default: int = 1) -> int:
    """Length of an axis of a tensor; the default if the file lacks the tensor or the axis."""
    tensor = state.get(key)
    if tensor is None or not -tensor.dim() <= axis < tensor.dim():
        return default
    return tensor.shape[axis]


def sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hex digits."""
    with path.open('rb') as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _checked(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata; raise ValueError if a value is not of the expected type."""
    if not isinstance(metadata, dict):
        raise ValueError(f'its metadata are no JSON object but {metadata!r}')
    for key, kind in METADATA_KINDS.items():
        if not isinstance(metadata.get(key, kind()), kind):
            raise ValueError(f'its metadata say {key} = {metadata[key]!r}')
    sides = metadata.get('image_size', [0, 0])
    if [type(side) for side in sides] != [int, int]:
        raise ValueError(f'its metadata say image_size = {sides}')
    if metadata.get('local_stride', 1) < 1:
        raise ValueError(f'its metadata say local_stride = {metadata["local_stride"]}')
    return metadata


def _metadata(file: Any) -> dict[str, Any]:
    return _checked(json.loads((file.metadata() or {}).get(METADATA, '{}')))


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, Any]]:
    with safe_open(path, 'pt') as file:
        return {key: file.get_tensor(key) for key in file.keys()}, _metadata(file)  # noqa: SIM118


def _explain(error: Exception) -> str:
    """The reason on one line; torch's own message takes many."""
    refused = re.search(r'GLOBAL (\S+) (was not an allowed|whose module)', str(error))
    if refused:
        return f'it wants to run {refused[1]}, and nothing but tensors and numbers is loaded'
    if re.search(BROKEN, repr(error)):
        return CUT_OFF
    if not isinstance(error, (OSError, RuntimeError, ValueError, SafetensorError)):
        # pickle's messages are unreadable, and torch's advise loading the file unsafely.
        return ('not a file of torch.save, or cut off, or it holds more than tensors and numbers: '
                f'{SAVE_TENSORS}')
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def read_checkpoint(path: Path) -> tuple[StateDict, dict[str, Any]]:
    """Read tensors, and the metadata that only this package's own files have.

    Args:
        path: a container (`torch.save`, see `read_container`) or a file of safetensors, whatever
            its name.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that wants to run code; the
            message tells what it is.
    """
    if not path.exists():
        raise CheckpointError(
            f'{path}: no such file; give the path of a checkpoint, or a name that `vpr models` '
            'lists'
        )
    try:
        reason = why_no_weights(path)
        if reason:
            raise CheckpointError(f'{path}: cannot be read as a checkpoint ({reason})')
        return _read_safetensors(path) if is_safetensors(path) else (read_container(path), {})
    except CheckpointError:
        raise
    except Exception as error:  # torch and pickle raise errors of all kinds on a broken file
        reason = _explain(error)
        raise CheckpointError(f'{path}: cannot be read as a checkpoint ({reason})') from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone of a file that `read_checkpoint` can read; empty for published files."""
    if not is_safetensors(path):
        return {}
    with safe_open(path, 'pt') as file:
        return _metadata(file)
