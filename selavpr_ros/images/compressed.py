"""Encoded pictures (JPEG, PNG and others) from a message or a file -> (H,W,3) uint8 RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from selavpr_ros.errors import ImageError
from selavpr_ros.images.raw import BAYER, PACKED, bytes_view


class CompressedMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read."""

    format: str
    data: Any


def _compressed_bytes(message: CompressedMessage) -> bytes:
    if 'compressedDepth' in message.format:
        raise ImageError(f'format {message.format!r} is a depth image: subscribe to the '
                         'compressed colour or mono topic of the camera')
    if not len(message.data):
        raise ImageError('empty compressed image: 0 bytes; check that the camera driver '
                         'delivers pictures')
    return bytes_view(message.data).tobytes()


def _jpeg_is_complete(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan.

    The segments before the scan are stepped over by their length, because a thumbnail among
    them has an end marker of its own; whatever follows the marker is padding. Inside a scan the
    two bytes of the marker cannot occur (ISO/IEC 10918-1, B.1.1.5).
    """
    position = 2
    while data[position:position + 1] == b'\xff' and data[position + 1:position + 2] != b'\xda':
        position += 2 + int.from_bytes(data[position + 2:position + 4], 'big')
    return data.find(b'\xff\xd9', position) >= 0


def _truncated(data: bytes) -> str:
    """What shows that a picture is truncated; empty if it is complete or its format cannot tell.

    OpenCV, depending on its version, would silently fill up the rest with grey.
    """
    if data.startswith(b'\xff\xd8') and not _jpeg_is_complete(data):
        kind, end = 'JPEG', 'end-of-image marker'
    elif data.startswith(b'\x89PNG') and b'IEND' not in data[8:]:
        kind, end = 'PNG', 'IEND chunk'
    else:
        return ''
    return f'truncated {kind}: no {end} in {len(data)} bytes'


def _imdecode(data: bytes, message_format: str) -> np.ndarray:
    """JPEG, PNG, .. -> (H,W) grey or (H,W,3) BGR, uint8: the high byte of 16 bit, no alpha."""
    # The pixels as the sensor wrote them: an EXIF rotation would not fit the camera_info.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        raise ImageError(f'{len(data)} bytes that start with {data[:4].hex(" ")} are no picture '
                         f'that OpenCV can decode (format {message_format!r}): JPEG or PNG is '
                         'needed')
    return picture


def _compressed_to_rgb(picture: np.ndarray, source_encoding: str) -> np.ndarray:
    if picture.ndim == 3:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    # A Bayer image that was compressed as it came from the sensor is still a mosaic.
    name = source_encoding if source_encoding in BAYER else 'mono8'
    return PACKED[name].to_rgb(picture)


def decode_compressed(message: CompressedMessage) -> np.ndarray:
    """A sensor_msgs/CompressedImage (JPEG, PNG) as (H,W,3) uint8 RGB.

    The data say how the picture is stored; `format` is read only for depth and a Bayer source,
    because senders disagree on its colour words ('rgb8; jpeg compressed rgb8'). EXIF rotation is
    ignored, alpha is dropped, and the high byte of 16 bit is taken. Raises ImageError for empty,
    truncated and undecodable data.
    """
    data = _compressed_bytes(message)
    truncated = _truncated(data)
    if truncated:
        raise ImageError(f"{truncated}; check the link and the driver's buffer size")
    try:
        picture = _imdecode(data, message.format)
        return _compressed_to_rgb(picture, message.format.partition(';')[0])
    except cv2.error as error:
        raise ImageError(f'OpenCV cannot decode {len(data)} bytes of format '
                         f'{message.format!r}: {error.err}') from error


def read_image(image: Path | np.ndarray) -> np.ndarray:
    """Read a file (JPEG, PNG, ..) as (H,W,3) uint8 RGB; an array is returned as it is.

    The picture is turned as its EXIF data say; alpha is dropped. Raises ImageError, with the
    path, for a file that cannot be read, and for truncated and undecodable data.
    """
    if isinstance(image, np.ndarray):
        return image
    try:
        data = image.read_bytes()
    except OSError as error:
        raise ImageError(f'{image} cannot be read: {error.strerror}') from error
    truncated = _truncated(data)
    if truncated:
        raise ImageError(f'{image}: {truncated}; copy it again, or leave it out')
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        raise ImageError(f'{image} is no image that OpenCV can read')
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
