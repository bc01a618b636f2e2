"""Calibration of a camera and depth, read from messages: what geometry needs besides the image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from selavpr_ros.errors import CalibrationError, ImageError, UncalibratedError

FISHEYE = ('equidistant', 'fisheye', 'kannala_brandt')
PINHOLE = ('', 'plumb_bob', 'rational_polynomial', 'radtan', 'none')
# How many numbers of D the models of OpenCV have.
PINHOLE_LENGTHS, FISHEYE_LENGTHS = (4, 5, 8, 12, 14), (4,)
# A focal length is at least and at most so many times the longer side of the image: a fish-eye
# that sees all around has 0.16, a telephoto lens of one degree 57.
FOCAL_RANGE = (0.1, 60.0)
# The shapes of image and calibration may differ by so much: a codec pads to whole blocks.
SHAPE_TOLERANCE = 0.02
# Part of an axis along which the distortion must be reversible. A fish-eye may see beyond 90
# degrees, where no pinhole camera does.
PINHOLE_PART, FISHEYE_PART = (0.0, 1.0), (0.25, 0.75)
MILLIMETRE = 0.001
# Depth belongs to an image if their stamps differ by at most this much.
DEPTH_SYNC_NS = 20_000_000
# Number of depth images kept until the image comes, about a second's.
DEPTH_KEPT = 30

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Camera:
    """Calibration of a camera, as in sensor_msgs/CameraInfo.

    Attributes:
        matrix: (3, 3) K in pixels.
        distortion: (n,) D; four numbers for a fish-eye.
        size: (height, width) in pixels of the images that the matrix is for; zeros if unknown.
        is_fisheye: whether `distortion` is of the fish-eye model.
        is_region: whether images of `size` are only a part of what the camera sees, so that images
            of another size may show another part.
    """

    matrix: np.ndarray
    distortion: np.ndarray
    size: Size
    is_fisheye: bool = False
    is_region: bool = False

    def undistort(self, pixels: np.ndarray) -> np.ndarray:
        """(P, 2) pixels -> (P, 2) points of a pinhole camera of focal length 1."""
        function = cv2.fisheye.undistortPoints if self.is_fisheye else cv2.undistortPoints
        return function(pixels[:, None].astype(np.float64), self.matrix, self.distortion)[:, 0]

    @property
    def focal_px(self) -> float:
        """Mean of both focal lengths."""
        return float(self.matrix[0, 0] + self.matrix[1, 1]) / 2.0

    def scaled_to(self, size: Size) -> Camera:
        """The camera of images of another (height, width) that show the same.

        Raises:
            CalibrationError: images of that shape do not show what was calibrated.
        """
        if size == self.size:
            return self
        if 0 in self.size:
            camera = replace(self, size=size)
            _check_lens(camera)
            return camera
        if not self._shows_the_same(size):
            raise CalibrationError(
                f'it is for {"a region of interest of " if self.is_region else ""}images of '
                f'{_text(self.size)} pixels, but the images have {_text(size)}: calibrate the '
                'camera as it is used, or take the camera_info of these images')
        factor = np.array([size[1] / self.size[1], size[0] / self.size[0], 1.0])
        return replace(self, matrix=factor[:, None] * self.matrix, size=size)

    def _shows_the_same(self, size: Size) -> bool:
        if self.is_region:  # rounded to whole pixels after binning
            return all(abs(a - b) <= 1 for a, b in zip(size, self.size, strict=True))
        stretch = size[0] * self.size[1] / (size[1] * self.size[0])
        rounding = 1.0 / min(*size, *self.size)
        return abs(stretch - 1.0) <= max(SHAPE_TOLERANCE, rounding)


def _text(size: Size) -> str:
    return f'{size[1]}x{size[0]}'


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified, as those of image_proc are."""
    return bool(re.search(r'(?<![a-z])rect(ified)?(?![a-z])', topic.lower()))


# ---- from camera_info ---------------------------------------------------------------------------


def _matrix(message: Any, rectified: bool) -> np.ndarray:
    """K, (3, 3); of rectified images the part of P that stands for it."""
    if rectified and np.any(message.p):
        name, matrix = 'P', np.array(message.p, float).reshape(3, 4)[:, :3]
    else:
        name, matrix = 'K', np.array(message.k, float).reshape(3, 3)
    numbers = f'{name} is {matrix.ravel().tolist()}'
    if not np.isfinite(matrix).all():
        raise CalibrationError(f'{numbers}, which is not finite: calibrate the camera again')
    if not matrix.any():
        raise UncalibratedError(f'{name} is zero: the camera is not calibrated')
    below = (*matrix[1:, 0], matrix[2, 1])
    if min(matrix[0, 0], matrix[1, 1]) <= 0.0 or not matrix[:2, 2].any() or any(below):
        raise CalibrationError(f'{numbers}, not fx, 0, cx, 0, fy, cy, 0, 0, 1 with positive '
                               'numbers: calibrate the camera again')
    matrix[2, 2] = 1.0
    return matrix


def _distortion(numbers: Any, lengths: tuple[int, ...], model: str) -> np.ndarray:
    """D with trailing zeros cut or padded to a length that OpenCV has."""
    given = np.array(numbers, float).ravel()
    if not np.isfinite(given).all():
        raise CalibrationError(f'D is {given.tolist()}, which is not finite: calibrate the camera '
                               'again')
    used = np.trim_zeros(given, 'b')
    length = next((length for length in lengths if length >= len(used)), None)
    if length is None:
        raise CalibrationError(f"D has {len(used)} numbers, but the distortion model '{model}' "
                               f'has at most {lengths[-1]}')
    return np.pad(used, (0, length - len(used)))


def _region(message: Any) -> tuple[tuple[int, int, int, int], bool]:
    """x, y, width and height of the part that is read out; whether it is less than the image."""
    roi, whole = message.roi, (0, 0, message.width, message.height)
    part = (roi.x_offset, roi.y_offset, roi.width or message.width - roi.x_offset,
            roi.height or message.height - roi.y_offset)
    if not any(part[:2]) and not (roi.width or roi.height):
        return whole, False
    if part[0] + part[2] > message.width or part[1] + part[3] > message.height:
        raise CalibrationError(
            f'its region of interest, {roi.width}x{roi.height} at {roi.x_offset}, {roi.y_offset}, '
            f'is not within the {message.width}x{message.height} pixels of the camera')
    return part, part != whole


def _check_lens(camera: Camera) -> None:
    """Raise CalibrationError where focal lengths or distortion cannot be those of the images."""
    height, width = camera.size
    focal = np.diag(camera.matrix)[:2] / max(height, width)
    if focal.min() < FOCAL_RANGE[0] or focal.max() > FOCAL_RANGE[1]:
        raise CalibrationError(
            f'a focal length of {camera.focal_px:g} pixels is impossible for images of '
            f'{_text(camera.size)}: calibrate the camera again')
    column, row = camera.matrix[:2, 2]
    if not (camera.is_region or (0.0 < column < width and 0.0 < row < height)):
        raise CalibrationError(
            f'the optical axis, at {column:g}, {row:g}, lies outside of the images of '
            f'{_text(camera.size)} pixels: it seems to be the calibration for another size')
    part = np.linspace(*(FISHEYE_PART if camera.is_fisheye else PINHOLE_PART), 9)
    for axis in (0, 1):
        pixels = np.tile([width / 2.0, height / 2.0], (len(part), 1))
        pixels[:, axis] = part * (width, height)[axis]
        if not (np.diff(camera.undistort(pixels)[:, axis]) > 0.0).all():  # NaN, too
            raise CalibrationError(
                f'its distortion, D = {camera.distortion.tolist()}, folds the image: calibrate '
                'the camera again')


def camera_from_info(message: Any, *, rectified: bool = False) -> Camera:
    """The camera of a sensor_msgs/CameraInfo, after region of interest and binning.

    Args:
        message: K, P and D are for the whole sensor, as the message's definition says.
        rectified: whether the images are rectified: then P holds, without distortion.

    Raises:
        UncalibratedError: K is zero.
        CalibrationError: it cannot be used; the text says why.
    """
    matrix, model = _matrix(message, rectified), message.distortion_model.lower()
    if rectified and np.any(message.d) and not np.any(message.p):
        raise CalibrationError('the images are rectified, but P is zero, and K and D are those of '
                               'the raw images: take the camera_info of the rectified ones')
    if not rectified and model not in (*PINHOLE, *FISHEYE):
        raise CalibrationError(
            f"it has the distortion model '{message.distortion_model}': rectify the images, or "
            f'use one of {", ".join(filter(None, (*PINHOLE, *FISHEYE)))}')
    is_fisheye = model in FISHEYE and not rectified
    distortion = np.zeros(5) if rectified else _distortion(
        message.d, FISHEYE_LENGTHS if is_fisheye else PINHOLE_LENGTHS, model)
    (x, y, width, height), is_region = _region(message)
    by = np.maximum([message.binning_x, message.binning_y], 1)
    matrix[:2, 2] -= x, y
    matrix[:2] /= by[:, None]
    camera = Camera(matrix, distortion, (int(height // by[1]), int(width // by[0])), is_fisheye,
                    is_region)
    if 0 not in camera.size:
        _check_lens(camera)
    return camera


# ---- depth --------------------------------------------------------------------------------------


def depth_in_metres(message: Any) -> np.ndarray:
    """(H, W) float32 metres of a depth image (REP 118): 32FC1 in metres, 16UC1 in millimetres.

    Raises:
        ImageError: another encoding, or fewer bytes than its size says.
    """
    kinds: dict[str, Any] = {'32FC1': np.float32, '16UC1': np.uint16, 'mono16': np.uint16}
    if message.encoding not in kinds:
        raise ImageError(f"depth has the encoding '{message.encoding}', not 32FC1 or 16UC1")
    kind = np.dtype(kinds[message.encoding]).newbyteorder('>' if message.is_bigendian else '<')
    data = np.frombuffer(message.data, np.uint8)
    width = message.width * kind.itemsize
    if not (message.width and message.height):
        raise ImageError('depth has no pixels')
    if message.step < width or len(data) < message.step * message.height:
        raise ImageError(f'depth of {message.width}x{message.height} pixels has {len(data)} bytes '
                         f'in rows of {message.step}')
    rows = data[: message.step * message.height].reshape(message.height, message.step)
    values = np.ascontiguousarray(rows[:, :width]).view(kind).astype(np.float32)
    return values if message.encoding == '32FC1' else values * np.float32(MILLIMETRE)


def nearest_depth(kept: Iterable[tuple[int, Any]], stamp_ns: int) -> np.ndarray | None:
    """Depth (H, W) in metres from the message nearest in time; None if none is near enough.

    Args:
        kept: stamps in ns, and depth messages.
        stamp_ns: stamp of the image.

    Raises:
        ImageError: the depth cannot be decoded.
    """
    there_ns, message = min(
        kept, key=lambda stamped: abs(stamped[0] - stamp_ns), default=(None, None))
    if there_ns is None or abs(there_ns - stamp_ns) > DEPTH_SYNC_NS:
        return None
    return depth_in_metres(message)
