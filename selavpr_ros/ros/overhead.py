"""The node's own time per image: from the receipt of a message to the recognizer."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from selavpr_ros.images.decoding import ImageReader
from selavpr_ros.ros.camera import CameraInbox
from selavpr_ros.ros.conversions import decode_with_fallback, ns_to_stamp, stamp_to_ns
from selavpr_ros.ros.statistics import Statistics
from selavpr_ros.ros.worker import Arrival, InferenceWorker
from selavpr_ros.settings import ImageSettings, Settings


class _Finish:
    """Takes the place of the recognizer, and notes when an image reaches it."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.arrived = threading.Event()
        self.time_s = 0.0

    def is_due(self, stamp_ns: int, pose: Any = None) -> bool:
        return True

    def recognize(
        self, image: np.ndarray, stamp_ns: int, pose: Any, context: Any, publish: Any
    ) -> None:
        self.time_s = time.perf_counter()
        self.arrived.set()


def _serialized_image(height: int, width: int, stamp_ns: int) -> bytes:
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.data.frombytes(bytes(3 * width * height))
    return serialize_message(message)


def measure_overheads_ms(height: int = 480, width: int = 640, count: int = 100) -> list[float]:
    """Measure the node's own time for each of `count` rgb8 images, in milliseconds.

    It includes making a Python message of the bytes that DDS delivers, the change of threads and
    the decoding, but neither transport nor model.

    Raises:
        TimeoutError: the worker did not hand an image over within 10 s.
    """
    finish = _Finish()
    worker = InferenceWorker(
        finish, ImageReader(ImageSettings(), decode_with_fallback),  # type: ignore[arg-type]
        None, Statistics(), lambda *result: None, camera=CameraInbox(), lock=threading.Lock(),
        log_warning=lambda text: None, log_error=lambda text: None)
    worker.start()
    times_ms = []
    try:
        for number in range(1, count + 1):
            data = _serialized_image(height, width, number)
            start_s = time.perf_counter()
            message = deserialize_message(data, Image)
            stamp_ns = stamp_to_ns(message.header.stamp)
            worker.offer(Arrival(message, stamp_ns, time.monotonic(), 0.0))
            if not finish.arrived.wait(timeout=10.0):
                raise TimeoutError('the worker did not hand the image over')
            finish.arrived.clear()
            times_ms.append((finish.time_s - start_s) * 1e3)
    finally:
        worker.stop()
    return times_ms


def measure_overhead_ms() -> float:
    """The median of `measure_overheads_ms` for a 640x480 image."""
    return statistics.median(measure_overheads_ms())
