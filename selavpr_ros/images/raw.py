"""Raw image messages (sensor_msgs/Image) -> (H,W,3) uint8 RGB. How every encoding is converted:

* colour: channels in RGB order, alpha dropped; grey: copied into three channels;
* 16 bit: by the range that the values lie in, see `sixteen_bit`;
* depth (32FC1, and 16UC1 with holes) is refused;
* ``8UC3``, ``8UC4``, ``16UC3``, ``16UC4`` name no colours: taken in OpenCV's order, BGR(A);
* Bayer: demosaiced (bilinear); YUV: ITU-R BT.601, limited range, the way webcams send it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from selavpr_ros.errors import DepthError, ImageError
from selavpr_ros.images.sixteen_bit import SteadyRange, refuse_depth


class RawMessage(Protocol):
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


# ---- samples -> RGB: (H,W,C) uint8 -> (H,W,3) uint8 ------------------------------------------


def _as_is(samples: np.ndarray) -> np.ndarray:
    return samples


def _reorder(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(cv2.cvtColor, code=code)


def _demosaic(samples: np.ndarray, code: int) -> np.ndarray:
    height, width = samples.shape[:2]
    # OpenCV silently turns a smaller mosaic black.
    if height < 3 or width < 3:
        raise ImageError(f'a Bayer image of {width}x{height} pixels is too small: 3x3 is needed')
    return cv2.cvtColor(samples, code)


def _bayer(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(_demosaic, code=code)


def _check_even(side: str, pixels: int) -> None:
    if pixels % 2:
        raise ImageError(f'a YUV image shares colour between two neighbours, so its {side} must '
                         f'be even, but it is {pixels}: crop it in the driver')


def _from_yuv422(samples: np.ndarray, code: int) -> np.ndarray:
    _check_even('width', samples.shape[1])
    return cv2.cvtColor(samples, code)


def _yuv422(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(_from_yuv422, code=code)


# ---- two planes -> RGB: luma (H,W), chroma rows of `step` bytes -> (H,W,3) uint8 -------------


def _from_420(luma: np.ndarray, chroma: np.ndarray, code: int) -> np.ndarray:
    """One pair of chroma bytes per 2x2 pixels."""
    height, width = luma.shape
    _check_even('width', width)
    pairs = chroma[:, :width].reshape(height // 2, width // 2, 2)
    return cv2.cvtColorTwoPlane(luma, pairs, code)


def _from_422(luma: np.ndarray, chroma: np.ndarray, code: int) -> np.ndarray:
    """One pair of chroma bytes per two pixels; merged with the luma, a packed YUV 4:2:2 image."""
    width = luma.shape[1]
    return _from_yuv422(cv2.merge([luma, chroma[:, :width]]), code)


def _from_444(luma: np.ndarray, chroma: np.ndarray, code: int) -> np.ndarray:
    """One pair of chroma bytes per pixel; OpenCV has no 4:4:4, so every second pair is used."""
    height, width = luma.shape
    _check_even('width', width)
    pairs = chroma.reshape(height, -1)[:, :2 * width].reshape(height, width, 2)
    return _from_422(luma, pairs[:, ::2].reshape(height, width), code)


# ---- the table of encodings ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Packed:
    """All channels of a pixel lie together; the converter takes the (H,W,C) samples."""

    sample_bytes: int
    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class _TwoPlanes:
    """A luma plane of H rows, then interleaved chroma in `half_rows`/2 rows per luma row."""

    half_rows: int
    to_rgb: Callable[..., np.ndarray]


# OpenCV names a Bayer pattern by its second row and second column: RGGB is its "BG".
_CHANNELS_AND_CONVERTER = {
    'rgb': (3, _as_is),
    'bgr': (3, _reorder(cv2.COLOR_BGR2RGB)),
    'rgba': (4, _reorder(cv2.COLOR_RGBA2RGB)),
    'bgra': (4, _reorder(cv2.COLOR_BGRA2RGB)),
    'mono': (1, _reorder(cv2.COLOR_GRAY2RGB)),
    'bayer_rggb': (1, _bayer(cv2.COLOR_BayerBG2RGB)),
    'bayer_bggr': (1, _bayer(cv2.COLOR_BayerRG2RGB)),
    'bayer_gbrg': (1, _bayer(cv2.COLOR_BayerGR2RGB)),
    'bayer_grbg': (1, _bayer(cv2.COLOR_BayerGB2RGB)),
}
PACKED = {f'{name}{8 * size}': _Packed(size, *entry)
           for name, entry in _CHANNELS_AND_CONVERTER.items() for size in (1, 2)}
PACKED |= {
    'yuv422': _Packed(1, 2, _yuv422(cv2.COLOR_YUV2RGB_UYVY)),
    'yuv422_yuy2': _Packed(1, 2, _yuv422(cv2.COLOR_YUV2RGB_YUY2)),
}
PACKED |= {alias: PACKED[name] for alias, name in {
    '8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', 'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2',
    '16UC1': 'mono16', '16UC3': 'bgr16', '16UC4': 'bgra16',
}.items()}
BAYER = frozenset(name for name in PACKED if name.startswith('bayer_'))
_TWO_PLANES = {
    'nv12': _TwoPlanes(1, partial(_from_420, code=cv2.COLOR_YUV2RGB_NV12)),
    'nv21': _TwoPlanes(1, partial(_from_420, code=cv2.COLOR_YUV2RGB_NV21)),
    'nv16': _TwoPlanes(2, partial(_from_422, code=cv2.COLOR_YUV2RGB_YUYV)),
    'nv61': _TwoPlanes(2, partial(_from_422, code=cv2.COLOR_YUV2RGB_YVYU)),
    'nv24': _TwoPlanes(4, partial(_from_444, code=cv2.COLOR_YUV2RGB_YUYV)),
    'nv42': _TwoPlanes(4, partial(_from_444, code=cv2.COLOR_YUV2RGB_YVYU)),
}

# By REP 118 depth in millimetres, but thermal cameras send it, too.
DEPTH_OR_THERMAL = '16UC1'
KNOWN_ENCODINGS = frozenset(PACKED) | frozenset(_TWO_PLANES)
"""The encodings of sensor_msgs/Image that `decode_image` turns into RGB."""


# ---- bytes -> samples ------------------------------------------------------------------------


def bytes_view(data: Any) -> np.ndarray:
    """`data` as a flat uint8 array without a copy, whichever library filled it.

    Raises ImageError for data that is no buffer of bytes.
    """
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(f'image data of type {type(data).__name__} cannot be read ({error}): '
                         'array.array("B"), bytes or a uint8 numpy array is needed') from error


def _rows(message: RawMessage, count: int, row_bytes: int) -> np.ndarray:
    """The first `count` rows of the message, padding included: (count, step) uint8 view."""
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1 or not len(message.data):
        raise ImageError(f'empty image: {width}x{height} pixels, {len(message.data)} bytes; '
                         'check that the camera driver delivers pictures')
    if step < row_bytes:
        raise ImageError(f'step is {step} bytes, but {width} pixels need at least {row_bytes}: '
                         'the driver fills step, width or encoding wrongly; if it is the '
                         'encoding, set parameter image.encoding_override')
    data = bytes_view(message.data)
    if data.size < count * step:
        raise ImageError(f'image data has {data.size} bytes, but {count} rows of {step} bytes '
                         f'need {count * step}: the message is truncated, or the driver fills '
                         'step, height or encoding wrongly')
    return data[:count * step].reshape(count, step)


def _samples(message: RawMessage, encoding: _Packed) -> np.ndarray:
    """(H, W, C) uint8, a view, or uint16."""
    height, width, size = message.height, message.width, encoding.sample_bytes
    row_bytes = width * encoding.channels * size
    rows = _rows(message, height, row_bytes)[:, :row_bytes]
    if size == 2:
        order = '>' if message.is_bigendian else '<'
        rows = np.ascontiguousarray(rows).view(f'{order}u2').astype(np.uint16, copy=False)
    return rows.reshape(height, width, encoding.channels)


def _decode_packed(message: RawMessage, name: str, steady: SteadyRange) -> np.ndarray:
    encoding = PACKED[name]
    samples = _samples(message, encoding)
    if encoding.sample_bytes == 2:
        if name == DEPTH_OR_THERMAL:
            refuse_depth(samples)
        samples = steady.to_eight_bit(samples)
    return encoding.to_rgb(samples)


def _decode_two_planes(message: RawMessage, encoding: _TwoPlanes) -> np.ndarray:
    height, width = message.height, message.width
    if encoding.half_rows % 2:
        _check_even('height', height)
    rows = _rows(message, height + height * encoding.half_rows // 2, width)
    return encoding.to_rgb(rows[:height, :width], rows[height:])


def _unknown(name: str) -> ImageError:
    # 32FC1 is depth in metres (REP 118); nothing says which value would be white.
    is_float = '32F' in name or '64F' in name
    reason = ('floating-point values have no agreed white and are mostly depth: choose the '
              'colour or mono topic of the camera' if is_float else
              'set parameter image.encoding_override if the driver means one of the known')
    kind = DepthError if name == '32FC1' else ImageError
    return kind(f'unknown encoding {name!r}: {reason}; known are '
                + ', '.join(sorted(KNOWN_ENCODINGS)))


def decode_image(
    message: RawMessage, encoding_override: str = '', steady: SteadyRange | None = None,
) -> np.ndarray:
    """A sensor_msgs/Image as (H,W,3) uint8 RGB.

    `encoding_override` replaces the encoding that the message names. `steady` knows the range of
    16 bit values from the images before; without it, the image alone tells. An 8 bit RGB image is
    not copied: the result is a view on `message.data`, perhaps read-only, its rows perhaps padded.
    Raises ImageError if size, step, data and encoding do not fit together, DepthError for depth.
    """
    name = encoding_override or message.encoding
    try:
        if name in PACKED:
            return _decode_packed(message, name, steady or SteadyRange())
        if name in _TWO_PLANES:
            return _decode_two_planes(message, _TWO_PLANES[name])
    except cv2.error as error:
        raise ImageError(f'OpenCV cannot convert {message.width}x{message.height} pixels of '
                         f'{name}: {error.err}') from error
    raise _unknown(name)
