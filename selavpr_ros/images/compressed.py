"""Encoded pictures (JPEG, PNG and others) from a message or a file -> (H,W,3) uint8 RGB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from selavpr_ros.errors import DepthError, ImageError
from selavpr_ros.images.raw import BAYER, DEPTH_OR_THERMAL, PACKED, bytes_view
from selavpr_ros.images.sixteen_bit import SteadyRange, refuse_depth

# Decoding takes up to 18 bytes per pixel; few cameras of robots have half of this.
MOST_PIXELS = 50_000_000


class CompressedMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read."""

    format: str
    data: Any


# ---- any picture: bytes -> pixels in OpenCV's order ------------------------------------------


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


def _png_is_complete(data: bytes) -> bool:
    """Whether the chunks, each stepped over by its length, end with IEND.

    OpenCV believes a length beyond the end, and takes gigabytes for it.
    """
    position, kind = 8, b''
    while kind != b'IEND' and position + 12 <= len(data):
        kind = data[position + 4:position + 8]
        position += 12 + int.from_bytes(data[position:position + 4], 'big')
    return kind == b'IEND' and position <= len(data)


def _truncated(data: bytes) -> str:
    """What shows that a picture is truncated; empty if it is complete or its format cannot tell.

    OpenCV, depending on its version, would silently fill up the rest with grey.
    """
    if data.startswith(b'\xff\xd8') and not _jpeg_is_complete(data):
        kind, end = 'JPEG', 'end-of-image marker'
    elif data.startswith(b'\x89PNG') and not _png_is_complete(data):
        kind, end = 'PNG', 'IEND chunk'
    else:
        return ''
    return f'truncated {kind}: no {end} in {len(data)} bytes'


def _too_large(stated: str) -> str:
    return (f'its header states {stated} pixels: at most {MOST_PIXELS // 10**6} megapixels can be '
            'used')


def _check_size(data: bytes) -> None:
    """Raise ImageError unless the header states a size that can be decoded.

    A file of one megabyte can state a thousand megapixels, and OpenCV would allocate them.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large('far too many')) from error
    except Exception as error:  # a parser may raise anything on foreign bytes
        raise ImageError(f'{len(data)} bytes that start with {data[:4].hex(" ")} are no picture, '
                         'or a damaged one') from error
    if width * height > MOST_PIXELS:
        raise ImageError(_too_large(f'{width}x{height}'))


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    """JPEG, PNG, .. -> uint8 or uint16 pixels, as the flags of OpenCV ask for."""
    truncated = _truncated(data)
    if truncated:
        raise ImageError(truncated)
    _check_size(data)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ImageError(f'OpenCV cannot decode {len(data)} bytes: {error.err}') from error
    if picture is None:
        raise ImageError(f'{len(data)} bytes that start with {data[:4].hex(" ")} are no whole '
                         'picture that OpenCV can decode')
    if picture.dtype not in (np.uint8, np.uint16):
        raise ImageError(f'its values are {picture.dtype}: 8 or 16 bit are needed')
    return picture


# ---- messages --------------------------------------------------------------------------------


def _compressed_bytes(message: CompressedMessage) -> bytes:
    if 'compressedDepth' in message.format:
        raise DepthError(f'format {message.format!r} is a depth image: subscribe to the '
                         'compressed colour or mono topic of the camera')
    if not len(message.data):
        raise ImageError('empty compressed image: 0 bytes; check that the camera driver '
                         'delivers pictures')
    return bytes_view(message.data).tobytes()


def _compressed_to_rgb(
    picture: np.ndarray, source_encoding: str, steady: SteadyRange
) -> np.ndarray:
    samples = np.atleast_3d(picture)
    if picture.dtype == np.uint16:
        if source_encoding == DEPTH_OR_THERMAL:
            refuse_depth(samples)
        samples = steady.to_eight_bit(samples)
    if samples.shape[2] == 3:
        return cv2.cvtColor(samples, cv2.COLOR_BGR2RGB)
    # A Bayer image that was compressed as it came from the sensor is still a mosaic.
    name = source_encoding if source_encoding in BAYER else 'mono8'
    return PACKED[name].to_rgb(samples)


def decode_compressed(
    message: CompressedMessage, steady: SteadyRange | None = None
) -> np.ndarray:
    """A sensor_msgs/CompressedImage (JPEG, PNG) as (H,W,3) uint8 RGB.

    The data say how the picture is stored; `format` is read only for depth and a Bayer source,
    because senders disagree on its colour words ('rgb8; jpeg compressed rgb8'). EXIF rotation is
    ignored, alpha is dropped, and 16 bit are brought to 8 by `steady`, which knows the range from
    the images before; without it, the image alone tells.

    Raises:
        ImageError: empty, truncated, undecodable, or of too many pixels.
        DepthError: it is depth.
    """
    data = _compressed_bytes(message)
    # The pixels as the sensor wrote them: an EXIF rotation would not fit the camera_info.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = _imdecode(data, flags)
    except ImageError as error:
        raise ImageError(f'{error} (format {message.format!r}): a whole JPEG or PNG is needed; '
                         "check the link and the driver's buffer size") from error
    return _compressed_to_rgb(
        picture, message.format.partition(';')[0], steady or SteadyRange())


# ---- files -----------------------------------------------------------------------------------


def read_picture(path: Path, flags: int) -> np.ndarray:
    """The pixels of a file, uint8 or uint16, in OpenCV's order and by its flags.

    Raises:
        ImageError: with the path: the file cannot be read, is empty, truncated or no picture, or
            has too many pixels.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise ImageError('it is empty, 0 bytes')
        return _imdecode(data, flags)
    except OSError as error:
        raise ImageError(f'{path} cannot be read: {error.strerror}') from error
    except ImageError as error:
        raise ImageError(f'{path}: {error}; copy or save it again, or leave it out') from error


def read_image(image: Path | np.ndarray) -> np.ndarray:
    """Read a file (JPEG, PNG, ..) as (H,W,3) uint8 RGB; an array is returned as it is.

    The picture is turned as its EXIF data say, alpha is dropped, 16 bit are brought to 8 by the
    range of this image alone, and of several frames or pages the first is taken. Raises
    ImageError as `read_picture` does.
    """
    if isinstance(image, np.ndarray):
        return image
    pixels = read_picture(image, cv2.IMREAD_COLOR)
    if pixels.dtype == np.uint16:
        pixels = SteadyRange().to_eight_bit(pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
