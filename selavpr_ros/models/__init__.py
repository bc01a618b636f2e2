"""Stage 2: the systems that turn a normalised image into Descriptors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from selavpr_ros.config import ModelSettings
from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models.base import Descriptors, OperatingPoint, VprModel
from selavpr_ros.models.hog import Hog

__all__ = [
    'Descriptors', 'OperatingPoint', 'VprModel', 'load_from_settings', 'load_model', 'warm_up']

EMBEDDED = Path(__file__).parents[1] / 'weights' / 'embedded.safetensors'
HEAD_DIM = 64  # of every published ViT


def _load_selavpr(path: Path, num_heads: int | None) -> tuple[VprModel, dict[str, Any]]:
    # timm takes seconds to import, and the baseline does without it.
    from selavpr_ros.models.checkpoints import (
        read_checkpoint,
        selavpr_sizes,
        sha256,
        to_selavpr_names,
    )
    from selavpr_ros.models.selavpr import SelaVPR

    state, metadata = read_checkpoint(path)
    state = to_selavpr_names(state)
    sizes = selavpr_sizes(state)
    heads = num_heads or metadata.get('num_heads') or max(1, sizes['width'] // HEAD_DIM)
    model = SelaVPR(num_heads=heads, **sizes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f'{path}: {error}') from error
    model.name, model.fingerprint = path.stem, sha256(path)
    return model, metadata


def choose_device(device: str) -> torch.device:
    """Turn 'auto' into the first GPU that torch can use, else the CPU; check any other name.

    Raises:
        SettingError: the device does not exist here.
    """
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.zeros(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"device '{device}' cannot be used here: {reason}") from error


def _load_weights(
    path: Path, image_size: tuple[int, int] | None, num_heads: int | None
) -> VprModel:
    model, metadata = _load_selavpr(path, num_heads)
    model.image_size = image_size or tuple(metadata.get('image_size', model.image_size))
    model.antialias = metadata.get('antialias', False)
    if 'operating_point' in metadata:
        model.operating_point = OperatingPoint(**metadata['operating_point'])
    return model


def load_model(
    weights: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
    num_heads: int | None = None,
) -> VprModel:
    """Load a system, ready for inference.

    Args:
        weights: 'embedded' (comes with the package), 'hog' (the baseline without weights), or
            the path of a checkpoint; family, widths, depth and registers are read from it.
        image_size: (H, W) in pixels; the model's own where None.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        dtype: of the weights and the computation; the descriptors are float32 in any case.
        num_heads: attention heads; width / 64 unless given or stored with the weights.

    Raises:
        CheckpointError: the file is missing, broken, or of no known family.
        SettingError: the device does not exist, or the image size does not fit the model.
    """
    if weights == 'hog':
        model: VprModel = Hog(image_size) if image_size else Hog()
    else:
        path = EMBEDDED if weights == 'embedded' else Path(weights).expanduser()
        model = _load_weights(path, image_size, num_heads)
    if any(side <= 0 or side % model.size_multiple for side in model.image_size):
        raise SettingError(
            f'{model.family} takes image sides that are multiples of {model.size_multiple}, '
            f'got {model.image_size[0]}x{model.image_size[1]}'
        )
    model.requires_grad_(False)
    return model.eval().to(device=choose_device(str(device)), dtype=dtype)


_DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


def load_from_settings(settings: ModelSettings) -> VprModel:
    """Load the model that the settings `model.*` name.

    Raises:
        CheckpointError: the file is missing, broken, of no known family, or not the one whose
            `model.weights_sha256` was given.
        SettingError: the device does not exist, or the image size does not fit the model.
    """
    device = choose_device(settings.device)
    automatic = 'fp32' if device.type == 'cpu' else 'fp16'
    precision = automatic if settings.precision == 'auto' else settings.precision
    size = settings.input_size if any(settings.input_size) else None
    model = load_model(settings.weights, image_size=size, device=device, dtype=_DTYPES[precision])
    wanted = settings.weights_sha256.lower()
    if wanted and wanted != model.fingerprint:
        raise CheckpointError(f"the SHA-256 of '{settings.weights}' is {model.fingerprint}, but "
                              f'model.weights_sha256 asks for {wanted}')
    return model


@torch.inference_mode()
def warm_up(model: VprModel, images: int) -> None:
    """Run empty images through a model, so that the first real one is not the slowest."""
    for _ in range(images):
        model(torch.zeros(1, 3, *model.image_size, device=model.device, dtype=model.dtype))
