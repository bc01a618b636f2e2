"""What the node listens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from selavpr_ros.ros.diagnostics import (
    CAMERA_INFO,
    DEPTH,
    IMAGE,
    ODOMETRY,
    Publisher,
    Subscribed,
)
from selavpr_ros.settings import Settings

ODOMETRY_DEPTH = 50
CAMERA_DEPTH = 5
RELIABILITIES = {
    'best_effort': ReliabilityPolicy.BEST_EFFORT, 'reliable': ReliabilityPolicy.RELIABLE,
    'system_default': ReliabilityPolicy.SYSTEM_DEFAULT}


def _type_name(kind: type) -> str:
    """'sensor_msgs/msg/Image' of the class."""
    package, _, _ = kind.__module__.partition('.')
    return f'{package}/msg/{kind.__name__}'


class Subscriptions:
    """The subscriptions of an active node.

    Compressed images come on the resolved name of `image` followed by '/compressed', as with
    image_transport.
    """

    def __init__(
        self, node: Node, settings: Settings,
        on_image: Callable[[Any], None], on_odometry: Callable[[Odometry], None],
        on_camera: Callable[[CameraInfo], None], on_depth: Callable[[Image], None],
    ) -> None:
        self._node = node
        self._reliability = settings.qos.image_reliability
        qos = QoSProfile(
            depth=settings.qos.image_depth, reliability=RELIABILITIES[self._reliability])
        topic, kind = node.resolve_topic_name('image'), Image
        if settings.image_transport == 'compressed':
            topic, kind = f'{topic}/compressed', CompressedImage
        self._subscribed: dict[str, Any] = {}  # by what they are for
        self._subscribed[IMAGE] = self._subscribe(kind, topic, on_image, qos)
        if settings.pose_source == 'odom':
            qos = QoSProfile(depth=ODOMETRY_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._subscribed[ODOMETRY] = self._subscribe(Odometry, 'odom', on_odometry, qos)
        geometry, sensor = settings.verify.geometry, QoSProfile(
            depth=CAMERA_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        if geometry != 'none':
            self._subscribed[CAMERA_INFO] = self._subscribe(
                CameraInfo, 'camera_info', on_camera, sensor)
        if geometry == 'pnp':
            self._subscribed[DEPTH] = self._subscribe(Image, 'depth', on_depth, sensor)
        self._optional = () if geometry == 'pnp' else (CAMERA_INFO,)

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> Any:
        overrides = QoSOverridingOptions.with_default_policies()
        return self._node.create_subscription(
            kind, topic, callback, qos, qos_overriding_options=overrides)

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscribed.values():
            self._node.destroy_subscription(subscription)

    def topics(self) -> list[Subscribed]:
        """The subscribed topics with their present publishers, that of the images first."""
        return [self._look_up(name, each) for name, each in self._subscribed.items()]

    def _look_up(self, name: str, subscription: Any) -> Subscribed:
        topic = subscription.topic_name
        publishers = [
            Publisher(info.topic_type, info.qos_profile.reliability.name.lower())
            for info in self._node.get_publishers_info_by_topic(topic)]
        reliability = subscription.qos_profile.reliability.name.lower()
        return Subscribed(topic, _type_name(subscription.msg_type), reliability, publishers,
                          name, is_needed=name not in self._optional)
