"""A published checkpoint -> one safetensors file, which gives the same descriptors.

The file holds only tensors, under their published names, and a few facts. Reading it runs no code
and takes no memory for an optimizer's state. The model's id stays, so a robot's map stays usable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from selavpr_ros.errors import CheckpointError
from selavpr_ros.files import appearing
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import METADATA, StateDict, read_metadata
from selavpr_ros.models.families import family_of, heads_of, sizes_of
from selavpr_ros.models.loading import find_weights, read_model

SUFFIX = '.safetensors'


def check_target(path: Path, overwrite: bool) -> None:
    """Raise CheckpointError unless a safetensors file may be written at `path`."""
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path}: the name of a converted file ends in '{SUFFIX}'")
    if not path.parent.is_dir():
        raise CheckpointError(f'{path}: there is no folder {path.parent}')
    if path.exists() and not overwrite:
        raise CheckpointError(f'{path} exists already: choose another name or pass --overwrite')


def published_tensors(model: VprModel) -> StateDict:
    """A network's tensors under the published names, none of them sharing memory."""
    family = family_of(model)
    return {family.published(name): tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in model.state_dict().items()}


def facts(model: VprModel, told: dict[str, Any]) -> dict[str, Any]:
    """Facts that cannot be read from the tensors, added to the source file's metadata `told`."""
    return {
        **told,
        'family': model.family,
        **heads_of(model),
        'image_size': model.image_size,
        'resize': model.resize,
        'source_name': model.name,
        'source_sha256': model.fingerprint,
        'model_id': model.model_id,
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def is_same(model: VprModel, other: VprModel) -> bool:
    """Whether two models have the same identity, and tensors that are equal bit by bit."""
    mine, others = model.state_dict(), other.state_dict()
    return (
        model.model_id == other.model_id
        and model.local_stride == other.local_stride
        and sizes_of(model) == sizes_of(other)
        and all(tensor.dtype == others[name].dtype
                and torch.equal(_bits(tensor), _bits(others[name]))
                for name, tensor in mine.items()))


def _show(path: Path) -> None:
    """Give a file the permissions of any new file; safetensors makes it private."""
    plain = path.with_name('plain')
    plain.touch()
    path.chmod(plain.stat().st_mode)


@contextmanager
def named_when_done(target: Path) -> Iterator[Path]:
    """A path to write to; the file becomes `target` on success and is deleted on an error."""
    try:
        with appearing(target) as unnamed:
            yield unnamed
            _show(unnamed)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise CheckpointError(f'{target}: cannot be written ({reason})') from error


def convert(
    weights: str | Path,
    target: Path,
    *,
    image_size: tuple[int, int] | None = None,
    num_heads: int | None = None,
    pca: Path | None = None,
    overwrite: bool = False,
) -> VprModel:
    """Write the weights of a system as one safetensors file in their own precision.

    Args:
        weights, image_size, num_heads, pca: as in `load_model`; all of them are kept in the file.
        target: path of the file, which appears only after it was read back without a difference.
        overwrite: replace an existing file.

    Returns:
        The model that the file holds, in the file's precision.

    Raises:
        CheckpointError: the weights cannot be read, or the file cannot be written.
        SettingError: an argument does not fit the model.
    """
    check_target(target, overwrite)
    model = read_model(weights, image_size, num_heads, False, pca)
    if not family_of(model).has_weights:
        raise CheckpointError(f"'{weights}' has no weights that could be converted")
    metadata = json.dumps(facts(model, read_metadata(find_weights(weights))))
    with named_when_done(target) as unnamed:
        save_file(published_tensors(model), unnamed, {METADATA: metadata})
        if not is_same(model, read_model(unnamed, None, None, False, None)):
            raise CheckpointError(f'{target}: not written, as the file read back is not the same')
    return model
