"""Calibration of a camera and depth, read from messages: what geometry needs besides the image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from selavpr_ros.errors import ImageError

FISHEYE = ('equidistant', 'fisheye')
PINHOLE = ('', 'plumb_bob', 'rational_polynomial')
MILLIMETRE = 0.001
# Depth belongs to an image if their stamps differ by at most this much.
DEPTH_SYNC_NS = 20_000_000
# Number of depth images kept until the image comes, about a second's.
DEPTH_KEPT = 30


@dataclass(frozen=True, eq=False)
class Camera:
    """Calibration of a camera, as in sensor_msgs/CameraInfo.

    Attributes:
        matrix: (3, 3) K in pixels.
        distortion: (n,) D; four numbers for a fish-eye.
        size: (height, width) in pixels of the images that the matrix is for.
        is_fisheye: whether `distortion` is of the fish-eye model.
    """

    matrix: np.ndarray
    distortion: np.ndarray
    size: tuple[int, int]
    is_fisheye: bool = False

    def undistort(self, pixels: np.ndarray) -> np.ndarray:
        """(P, 2) pixels -> (P, 2) points of a pinhole camera of focal length 1."""
        function = cv2.fisheye.undistortPoints if self.is_fisheye else cv2.undistortPoints
        return function(pixels[:, None].astype(np.float64), self.matrix, self.distortion)[:, 0]

    @property
    def focal_px(self) -> float:
        """Mean of both focal lengths."""
        return float(self.matrix[0, 0] + self.matrix[1, 1]) / 2.0


def camera_from_info(message: Any) -> Camera | None:
    """The camera of a sensor_msgs/CameraInfo; None where it is not calibrated (K is zero).

    Raises:
        ImageError: the distortion model is not known.
    """
    matrix = np.array(message.k, float).reshape(3, 3)
    if matrix[0, 0] <= 0.0 or matrix[1, 1] <= 0.0:
        return None
    model = message.distortion_model
    if model not in (*PINHOLE, *FISHEYE):
        raise ImageError(f"camera_info has the distortion model '{model}': rectify the images, or "
                         f'use one of {", ".join((*PINHOLE[1:], *FISHEYE))}')
    distortion = np.array(message.d, float)
    is_fisheye = model in FISHEYE
    if is_fisheye:
        distortion = np.resize(np.append(distortion, np.zeros(4)), 4)
    return Camera(matrix, distortion, (message.height, message.width), is_fisheye)


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
