"""Describe images one by one, as a robot does, and take the time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from selavpr_ros.errors import DescriptorError
from selavpr_ros.evaluation.truth import Images
from selavpr_ros.images.compressed import read_image
from selavpr_ros.images.preprocess import preprocess
from selavpr_ros.maps.local_codec import FLOAT16, EncodedFeatures, encode
from selavpr_ros.models import VprModel

DESCRIPTOR_BYTES = 4 + 2  # per number: float32, and the index's copy in float16


class Stopwatch:
    """Milliseconds by stage: those of place_recognizer.STAGES that an evaluation has."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time the body of a `with` statement, which has to wait for its device itself."""
        start = time.perf_counter()
        yield
        self.stage_ms[stage].append(1e3 * (time.perf_counter() - start))


@dataclass(frozen=True)
class Described:
    """Descriptors of N images, on the CPU.

    Attributes:
        global_descriptors: (N, D) float32 unit rows.
        local_features: those of N images, as a keyframe map holds them; None if the model has
            none or they were not asked for.
        stopwatch: times so far; a search adds its own.
    """

    global_descriptors: torch.Tensor
    local_features: list[EncodedFeatures] | None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def bytes_per_keyframe(self, local: bool = True) -> float:
        """Bytes that an image takes in the memory of a keyframe map, on average.

        Args:
            local: include the local features.
        """
        count, dim = self.global_descriptors.shape
        kept = self.local_features if local and self.local_features else ()
        return DESCRIPTOR_BYTES * dim + sum(each.nbytes for each in kept) / count


def describe_one(
    model: VprModel, image: Path | np.ndarray, stopwatch: Stopwatch
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Descriptors (D,) on the CPU and (n, d) on the model's device; None without local features.

    Raises:
        ImageError: the file cannot be read, or the array is no image.
        DescriptorError: the descriptor is not finite.
    """
    pixels = read_image(image)
    with stopwatch.measure('preprocess'):
        tensor = preprocess(pixels, model.image_size, model.resize)[None]
    with stopwatch.measure('network'):
        descriptors = model(tensor.to(model.device, model.dtype))
        global_descriptor = descriptors.global_descriptor[0].cpu()
    if not global_descriptor.isfinite().all():
        name = image if isinstance(image, Path) else 'an image'
        raise DescriptorError(f'{model.model_id}: the descriptor of {name} is not finite')
    local = descriptors.local_features
    return global_descriptor, None if local is None else local[0]


@torch.inference_mode()
def describe(
    model: VprModel, images: Images, *, local: bool = True, codec: str = FLOAT16,
    progress: bool = False,
) -> Described:
    """Describe images one by one, as a robot does.

    Args:
        model: used as it is; in training, call `model.eval()` before.
        images: paths, or (H, W, 3) uint8 RGB arrays.
        local: keep local features: SelaVPR's take 0.95 MB an image in float16.
        codec: how local features are kept, one of `local_codec.CODECS`.
        progress: show a bar.

    Raises:
        ImageError: a file cannot be read, or an array is no image.
        DescriptorError: a descriptor is not finite.
        SettingError: no such codec.
    """
    global_descriptors, kept, stopwatch = [], [], Stopwatch()
    for image in tqdm(images, desc='describing', unit='image', leave=False, disable=not progress):
        global_descriptor, features = describe_one(model, image, stopwatch)
        global_descriptors.append(global_descriptor)
        encoded = encode(features, codec) if local and features is not None else None
        if encoded is not None:
            kept.append(encoded)
    return Described(torch.stack(global_descriptors), kept or None, stopwatch)
