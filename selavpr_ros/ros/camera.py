"""What geometry needs besides the image: the camera's calibration, and depth images."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from selavpr_ros.errors import ImageError
from selavpr_ros.geometry import Camera
from selavpr_ros.ros.conversions import stamp_to_ns

FISHEYE = ('equidistant', 'fisheye')
PINHOLE = ('', 'plumb_bob', 'rational_polynomial')
MILLIMETRE = 0.001
# Depth of the same camera has the same stamp, or nearly.
SYNC_NS = 20_000_000
KEPT = 30  # depth images, about a second


def camera_from_info(message: CameraInfo) -> Camera | None:
    """The camera of a sensor_msgs/CameraInfo; None where it is not calibrated (K is zero).

    Raises:
        ImageError: a distortion model that nobody here knows.
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


def depth_in_metres(message: Image) -> np.ndarray:
    """(H, W) float32 of a depth image (REP 118): 32FC1 in metres, or 16UC1 in millimetres.

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


class DepthInbox:
    """Keeps the newest depth images, filled by one thread and asked by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Image] = deque(maxlen=KEPT)

    def put(self, message: Image) -> None:
        """Keep a message."""
        with self._lock:
            self._kept.append(message)

    def find(self, stamp_ns: int) -> np.ndarray | None:
        """Depth (H, W) in metres of the image with this stamp, or None.

        Raises:
            ImageError: it cannot be decoded.
        """
        with self._lock:
            kept = list(self._kept)
        nearest = min(
            kept, key=lambda m: abs(stamp_to_ns(m.header.stamp) - stamp_ns), default=None)
        if nearest is None or abs(stamp_to_ns(nearest.header.stamp) - stamp_ns) > SYNC_NS:
            return None
        return depth_in_metres(nearest)
