"""What geometry needs besides the image: the camera's calibration, and depth images."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from selavpr_ros.images.camera import DEPTH_KEPT, Camera, camera_from_info, nearest_depth
from selavpr_ros.ros.conversions import stamp_to_ns


class CameraInbox:
    """Keeps the calibration and the newest depth images; one thread fills it, another asks.

    Attributes:
        camera: calibration of the images; None before the first one arrives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth: deque[tuple[int, Image]] = deque(maxlen=DEPTH_KEPT)
        self.camera: Camera | None = None

    def put_info(self, message: CameraInfo) -> None:
        """Replace the calibration.

        Raises:
            ImageError: its distortion model is not known.
        """
        self.camera = camera_from_info(message)

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
