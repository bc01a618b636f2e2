"""Stage 1: an image message, as a camera or a bag delivers it, -> one (H,W,3) uint8 RGB image.

Messages are known by their fields alone, so the same code serves the live node (`data` is an
`array.array`) and the bag replay (`data` is a numpy array). The modules `raw` and `compressed`
document every encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from selavpr_ros.errors import ImageError, SettingError
from selavpr_ros.images.compressed import decode_compressed, read_picture
from selavpr_ros.images.depth import refuse_depth_topic
from selavpr_ros.images.raw import decode_image
from selavpr_ros.images.sixteen_bit import SteadyRange
from selavpr_ros.settings import ImageSettings


def decode(
    message: Any, encoding_override: str = '', steady: SteadyRange | None = None
) -> np.ndarray:
    """`decode_image` or `decode_compressed`, whichever the fields of the message ask for."""
    if hasattr(message, 'encoding'):
        return decode_image(message, encoding_override, steady)
    return decode_compressed(message, steady)


def _read_mask(path: str) -> np.ndarray | None:
    """(H,W) bool, True where the picture is black; None without a path."""
    if not path:
        return None
    try:
        return read_picture(Path(path), cv2.IMREAD_GRAYSCALE) == 0
    except ImageError as error:
        raise SettingError(f'image.mask: {error}') from error


class ImageReader:
    """Converts the messages of one topic to RGB images by the settings: encoding, rotation, mask.

    It remembers the range of 16 bit values, so every camera needs a reader of its own.

    Args:
        settings: see `ImageSettings`.
        decode: another function of message, encoding and range, with the result of `decode`.
        topic: name of the topic, which may tell that it is depth.

    Raises:
        SettingError: a rotation that is no multiple of 90 degrees, or an unreadable mask.
    """

    def __init__(
        self, settings: ImageSettings,
        decode: Callable[[Any, str, SteadyRange], np.ndarray] = decode, topic: str = '',
    ) -> None:
        if settings.rotate_deg % 90:
            raise SettingError(
                f'image.rotate_deg = {settings.rotate_deg} is none of 0, 90, 180, 270')
        self._decode, self._topic, self._steady = decode, topic, SteadyRange()
        self._encoding = settings.encoding_override
        self._quarter_turns = settings.rotate_deg // 90
        self._blank = _read_mask(settings.mask)

    def __call__(self, message: Any) -> np.ndarray:
        """The (H,W,3) uint8 RGB image; the mask applies to the rotated image.

        Raises ImageError if the image cannot be decoded or the mask has another size, DepthError
        if it is depth.
        """
        refuse_depth_topic(self._topic, message)
        image = self._decode(message, self._encoding, self._steady)
        image = np.rot90(image, -self._quarter_turns)
        if self._blank is None:
            return image
        if self._blank.shape != image.shape[:2]:
            sizes = [f'{width}x{height}' for height, width in (
                self._blank.shape, image.shape[:2])]
            raise ImageError(f'image.mask has {sizes[0]} pixels, but the image {sizes[1]}: '
                             'the mask needs the size of the image after image.rotate_deg')
        return np.where(self._blank[..., None], np.uint8(0), image)
