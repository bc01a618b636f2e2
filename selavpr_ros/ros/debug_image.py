"""~/debug_image: the last query and its match, drawn while the topic has subscribers."""

from __future__ import annotations

import threading
import traceback

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from selavpr_ros.decision.gates import Candidate
from selavpr_ros.place_recognizer import PlaceRecognizer, Recognition
from selavpr_ros.ros.match_picture import choose, draw
from selavpr_ros.ros.publications import reliable
from selavpr_ros.ros.worker import Arrival

JPEG_QUALITY = 85  # percent


def _image_message(picture: np.ndarray, header: Header) -> Image:
    height, width = picture.shape[:2]
    message = Image(header=header, height=height, width=width, encoding='rgb8', step=3 * width)
    message.data.frombytes(picture)
    return message


def _jpeg_message(picture: np.ndarray, header: Header) -> CompressedImage:
    # Several times faster than a reversed view, which OpenCV has to copy.
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    message = CompressedImage(header=header, format='jpeg')
    message.data.frombytes(jpeg)
    return message


def _decode(jpeg: bytes) -> np.ndarray | None:
    """Decode to (h, w, 3) RGB; None if there are no bytes, or they are damaged."""
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    return None if pixels is None else pixels[:, :, ::-1]


class DebugImage:
    """Publishes pictures of matches; exists while the node is configured.

    Args:
        node: owns the publishers.
        recognizer: its map holds the thumbnails.
        lock: guards the recognizer and its map.
    """

    def __init__(self, node: Node, recognizer: PlaceRecognizer, lock: threading.Lock) -> None:
        self._node, self._recognizer, self._lock = node, recognizer, lock
        # As with image_transport, '/compressed' follows the remapped name.
        topic = node.resolve_topic_name('~/debug_image')
        # Each publisher with the function that makes its message, called only for subscribers.
        self._publishers = [
            (node.create_publisher(
                kind, name, reliable(1),
                qos_overriding_options=QoSOverridingOptions.with_default_policies()), make)
            for kind, name, make in (
                (Image, topic, _image_message),
                (CompressedImage, f'{topic}/compressed', _jpeg_message))]

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher, _ in self._publishers:
            self._node.destroy_publisher(publisher)

    def show(self, arrival: Arrival, recognition: Recognition, image: np.ndarray) -> None:
        """Draw and publish a result if there are subscribers; called by the worker.

        Never raises: a failed picture must not cost a result.
        """
        try:
            watched = [(publisher, make) for publisher, make in self._publishers
                       if publisher.get_subscription_count()]
            if watched and self._recognizer.settings.debug.image:
                picture = self._draw(recognition, image)
                for publisher, make in watched:
                    publisher.publish(make(picture, arrival.message.header))
        except Exception:
            if self._node.context.ok():  # errors of a shutdown are expected
                self._node.get_logger().error(
                    f'no picture on ~/debug_image: {traceback.format_exc()}', once=True)

    def _draw(self, recognition: Recognition, image: np.ndarray) -> np.ndarray:
        candidate, settings = choose(recognition.candidates), self._recognizer.settings.debug
        return draw(
            image, self._thumbnail(candidate) if candidate else None, candidate,
            self._recognizer.model.local_positions(), settings.max_width, settings.lines)

    def _thumbnail(self, candidate: Candidate) -> np.ndarray | None:
        with self._lock:
            jpeg = self._recognizer.keyframe_map.thumbnail(candidate.match.keyframe.id)
        return _decode(jpeg)
