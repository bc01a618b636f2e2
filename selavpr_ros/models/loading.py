"""From the name of a model or the path of its weights to a network, ready for inference."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.families import FILES, family_named
from selavpr_ros.settings import ModelSettings

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
EMBEDDED = Path(__file__).parents[1] / 'weights' / 'embedded.safetensors'
HUB_NAME = re.compile(r'(timm/)?vit_\w+_patch14\w*dinov2(\.\w+)?')


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


def choose_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """Turn 'auto' into float16 on a GPU and float32 elsewhere; check any other name.

    Raises:
        SettingError: no precision has this name.
    """
    if dtype == 'auto':
        return torch.float16 if device.type == 'cuda' else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise SettingError(f"dtype '{dtype}' is none of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def find_weights(weights: str | Path) -> Path:
    """The file behind 'embedded', timm's name of a DINOv2 backbone, or a path.

    Raises:
        CheckpointError: the backbone is not here and cannot be downloaded.
    """
    if weights == 'embedded':
        return EMBEDDED
    if HUB_NAME.fullmatch(str(weights)):
        from selavpr_ros.models.hub import fetch_backbone

        return fetch_backbone(str(weights))
    return Path(weights).expanduser()


def _without_weights(name: str | Path) -> VprModel | None:
    """The model of the family of this name if that has no weights; None for other names."""
    family = family_named(str(name)) if str(name) in FILES else None
    return family.network() if family and not family.has_weights else None


def _load_file(path: Path, num_heads: int | None) -> VprModel:
    # timm takes seconds to import, and a family without weights does not need it.
    from selavpr_ros.models.checkpoints import read_checkpoint, sha256
    from selavpr_ros.models.recognition import build_model

    state, metadata = read_checkpoint(path)
    model = build_model(state, path, num_heads or metadata.get('num_heads'))
    # A converted file keeps the identity of the published one: its descriptors are the same.
    model.name = metadata.get('source_name', path.stem)
    model.fingerprint = metadata.get('source_sha256') or sha256(path)
    model.image_size = tuple(metadata.get('image_size', model.image_size))
    model.resize = metadata.get('resize', model.resize)
    model.local_stride = metadata.get('local_stride', model.local_stride)
    return model


def read_model(
    weights: str | Path, image_size: tuple[int, int] | None, num_heads: int | None,
    cross_image: bool, pca: str | Path | None,
) -> VprModel:
    """A system on the CPU, in the precision of its file; all else is as in `load_model`."""
    model = _without_weights(weights)
    if model is None:
        model = _load_file(find_weights(weights), num_heads)
    model.image_size = image_size or model.image_size
    if cross_image or pca:
        from selavpr_ros.models.families.cricavpr import specialise

        specialise(model, cross_image, pca)
    reason = model.why_not(model.image_size)
    if reason:
        raise SettingError(reason)
    return model.eval().requires_grad_(False)


def load_model(
    weights: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | str = torch.float32,
    num_heads: int | None = None,
    cross_image: bool = False,
    pca: str | Path | None = None,
) -> VprModel:
    """Load a system, ready for inference.

    Args:
        weights: the path of a checkpoint, whose family and sizes are read from it; 'embedded'
            (comes with the package), the name of a family without weights (hog, the baseline), or
            timm's name of a DINOv2 backbone.
        image_size: (H, W) in pixels; the model's own where None.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        dtype: of the weights and the computation, or 'auto': float16 on a GPU, else float32.
            The descriptors are float32 in any case.
        num_heads: attention heads; width / 64 unless given or stored with the weights.
        cross_image: CricaVPR only: let the images of a batch correct each other, as in the
            published figures; a descriptor then depends on the whole batch.
        pca: CricaVPR only: a projection fitted by scikit-learn, see `read_pca`.

    Raises:
        CheckpointError: a file is missing, broken, or of no known family.
        SettingError: the device does not exist, or an argument does not fit the model.
    """
    model = read_model(weights, image_size, num_heads, cross_image, pca)
    chosen = choose_device(str(device))
    return model.to(device=chosen, dtype=choose_dtype(dtype, chosen))


def _check_sum(settings: ModelSettings) -> None:
    """Refuse a file of weights that is not the one that was asked for."""
    wanted = settings.weights_sha256.lower()
    if not wanted:
        return
    from selavpr_ros.models.checkpoints import sha256

    model = _without_weights(settings.weights)
    try:
        found = sha256(find_weights(settings.weights)) if model is None else model.fingerprint
    except OSError:
        return  # there is no such file, or it is a folder: whoever loads it says so
    if wanted != found:
        raise CheckpointError(f"the SHA-256 of '{settings.weights}' is {found}, but "
                              f'model.weights_sha256 asks for {wanted}')


def load_from_settings(settings: ModelSettings) -> VprModel:
    """Load the model that the settings `model.*` name.

    Raises:
        CheckpointError: the file is missing, broken, of no known family, or not the one whose
            `model.weights_sha256` was given.
        SettingError: the device does not exist, or the image size does not fit the model.
    """
    _check_sum(settings)
    return load_model(
        settings.weights, image_size=settings.input_size if any(settings.input_size) else None,
        device=choose_device(settings.device), dtype=settings.precision)


@torch.inference_mode()
def warm_up(model: VprModel, images: int) -> None:
    """Run empty images through a model, so that the first real one is not the slowest."""
    for _ in range(images):
        model(torch.zeros(1, 3, *model.image_size, device=model.device, dtype=model.dtype))
