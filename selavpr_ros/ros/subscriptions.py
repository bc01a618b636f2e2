"""What the node listens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from selavpr_ros.ros.diagnostics import Publisher, Subscribed
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
        self._image = self._subscribe(kind, topic, on_image, qos)
        self._odometry = None
        if settings.pose_source == 'odom':
            qos = QoSProfile(depth=ODOMETRY_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._odometry = self._subscribe(Odometry, 'odom', on_odometry, qos)
        self._others = []
        geometry, sensor = settings.verify.geometry, QoSProfile(
            depth=CAMERA_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        if geometry != 'none':
            self._others.append(self._subscribe(CameraInfo, 'camera_info', on_camera, sensor))
        if geometry == 'pnp':
            self._others.append(self._subscribe(Image, 'depth', on_depth, sensor))

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> Any:
        overrides = QoSOverridingOptions.with_default_policies()
        return self._node.create_subscription(
            kind, topic, callback, qos, qos_overriding_options=overrides)

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        for subscription in (self._image, self._odometry, *self._others):
            if subscription:
                self._node.destroy_subscription(subscription)

    @property
    def image(self) -> Subscribed:
        """The image topic with its publishers."""
        return self._look_up(self._image)

    @property
    def odometry(self) -> Subscribed | None:
        """The odometry topic with its publishers; None if it is not subscribed."""
        return self._look_up(self._odometry) if self._odometry else None

    def _look_up(self, subscription: Any) -> Subscribed:
        topic = subscription.topic_name
        publishers = [
            Publisher(info.topic_type, info.qos_profile.reliability.name.lower())
            for info in self._node.get_publishers_info_by_topic(topic)]
        reliability = subscription.qos_profile.reliability.name.lower()
        return Subscribed(topic, _type_name(subscription.msg_type), reliability, publishers)
