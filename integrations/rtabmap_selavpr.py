"""The global descriptors of this package for RTAB-Map, which loads this file by its path.

    export SELAVPR_WEIGHTS=embedded SELAVPR_DEVICE=auto    # both as for load_model; the defaults
    ros2 launch rtabmap_launch rtabmap.launch.py args:="--Mem/GlobalDescriptorStrategy 1
        --PyDescriptor/Path <this file> --PyDescriptor/Dim 320
        --Kp/TfIdfLikelihoodUsed false --Mem/RehearsalSimilarity 1"

RTAB-Map calls `init` once, and `extract` for every node of its map, from its own threads.
docs/back_ends.md tells what it does with the descriptors, and which Python it uses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from selavpr_ros.models import VprModel

_model: VprModel | None = None
_reason = 'init was not called'


def _load(dim: int) -> VprModel:
    from selavpr_ros.errors import SettingError
    from selavpr_ros.models import load_model

    weights = os.environ.get('SELAVPR_WEIGHTS', 'embedded')
    model = load_model(weights, device=os.environ.get('SELAVPR_DEVICE', 'auto'))
    if model.global_dim != dim:
        raise SettingError(f"the descriptors of '{weights}' have {model.global_dim} numbers, not "
                           f'{dim}: set PyDescriptor/Dim to {model.global_dim}')
    return model


def init(dim: int) -> None:
    """Load the model whose descriptors have `dim` numbers; if that fails, `extract` tells why."""
    global _model, _reason
    try:
        _model = _load(dim)
    except Exception as error:
        # RTAB-Map ends if `init` raises, or if a traceback is not ASCII.
        _model, _reason = None, ascii(f'{type(error).__name__}: {error}')[1:-1]


def extract(image: np.ndarray) -> np.ndarray:
    """Describe an image.

    Args:
        image: (H, W, 3) BGR or (H, W, 1) grey, 8 bits. RTAB-Map declares the bytes as signed, and
            frees them after the call.

    Returns:
        (1, dim) float32, a unit row. RTAB-Map reads the memory as it is.

    Raises:
        RuntimeError: there is no model; the text says why.
        ImageError: the image has another shape.
    """
    if _model is None:
        raise RuntimeError(f'selavpr_ros has no model: {_reason}')
    import torch

    from selavpr_ros.images.preprocess import preprocess

    pixels = image.view(np.uint8)
    rgb = pixels[:, :, ::-1] if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)
    with torch.inference_mode():
        tensor = preprocess(rgb, _model.image_size, _model.resize)[None]
        descriptors = _model(tensor.to(_model.device, _model.dtype))
    return np.ascontiguousarray(descriptors.global_descriptor.cpu().numpy(), np.float32)
