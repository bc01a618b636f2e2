"""What geometry needs besides the image: the camera's calibration, and depth images."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from selavpr_ros.errors import CalibrationError
from selavpr_ros.images.camera import DEPTH_KEPT, Camera, camera_from_info, nearest_depth
from selavpr_ros.ros.conversions import stamp_to_ns


class CameraInbox:
    """Keeps the calibration and the newest depth images; one thread fills it, another asks.

    Attributes:
        camera: calibration of the images; None before the first one arrives.
        error: why the newest camera_info is not used; None if it is, or if none has arrived.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth: deque[tuple[int, Image]] = deque(maxlen=DEPTH_KEPT)
        self.camera: Camera | None = None
        self.error: CalibrationError | None = None

    def put_info(self, message: CameraInfo, *, rectified: bool = False) -> None:
        """Replace the calibration; `rectified` images have that of P instead of K and D.

        Raises:
            CalibrationError: it cannot be used, and is left out.
        """
        try:
            self.camera, self.error = camera_from_info(message, rectified=rectified), None
        except CalibrationError as error:
            self.camera, self.error = None, error
            raise

    def put_depth(self, message: Image) -> None:
        """Keep a depth image."""
        with self._lock:
            self._depth.append((stamp_to_ns(message.header.stamp), message))

    def depth_at(self, stamp_ns: int) -> np.ndarray | None:
        """Depth (H, W) in metres at the stamp of an image; None without a depth image near it.

        Raises:
            ImageError: the depth image cannot be decoded.
        """
        with self._lock:
            kept = list(self._depth)
        return nearest_depth(kept, stamp_ns)
