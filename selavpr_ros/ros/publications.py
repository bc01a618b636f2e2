"""What the node publishes for every image."""

from __future__ import annotations

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from selavpr_msgs.msg import Keyframe, LoopClosure, PlaceMatchArray, Relocalization
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.ros.conversions import (
    Origin,
    candidates_message,
    closure_message,
    keyframe_message,
    relocalization_message,
)
from selavpr_ros.ros.markers import MapMarkers


def reliable(depth: int, *, latched: bool = False) -> QoSProfile:
    """Reliable QoS of a queue; `latched` keeps the last messages for late subscribers."""
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability)


class Publications:
    """The publishers of results; they exist while the node is configured."""

    def __init__(self, node: Node, model_id: str) -> None:
        self._node = node
        self._model_id = model_id
        self._map_markers = MapMarkers()

        def publisher(kind: type, name: str, qos: QoSProfile):  # type: ignore[no-untyped-def]
            overrides = QoSOverridingOptions.with_default_policies()
            return node.create_publisher(kind, name, qos, qos_overriding_options=overrides)

        self._candidates = publisher(PlaceMatchArray, '~/candidates', reliable(10))
        self._closures = publisher(LoopClosure, '~/loop_closures', reliable(100))
        self._keyframes = publisher(Keyframe, '~/keyframe', reliable(100))
        self._relocalizations = publisher(Relocalization, '~/relocalization', reliable(10))
        self._poses = publisher(
            PoseWithCovarianceStamped, '~/relocalization_pose', reliable(1))
        self._markers = publisher(MarkerArray, '~/markers', reliable(1, latched=True))

    def publish(self, recognition: Recognition, origin: Origin, now_ns: int) -> None:
        """Publish the results of one image, the candidates last."""
        if recognition.keyframe:
            self._keyframes.publish(keyframe_message(
                recognition.keyframe, origin.header, origin.pose_frame, origin.covariance,
                origin.base_to_camera))
        for closure in recognition.loop_closures:
            self._closures.publish(closure_message(closure, origin))
        if recognition.relocalization:
            self._publish_relocalization(
                relocalization_message(recognition.relocalization, origin))
        self._candidates.publish(candidates_message(recognition, origin, self._model_id, now_ns))
        self._map_markers.add(recognition, Header(frame_id=origin.pose_frame))

    def _publish_relocalization(self, message: Relocalization) -> None:
        self._relocalizations.publish(message)
        if message.pose_source != Relocalization.POSE_NONE:
            self._poses.publish(
                PoseWithCovarianceStamped(header=message.header, pose=message.pose))

    def publish_markers(self, session: SessionId) -> None:
        """Publish the markers of the running session if they changed."""
        message = self._map_markers.take_message(session)
        if message:
            self._markers.publish(message)

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in (self._candidates, self._closures, self._keyframes, self._markers,
                          self._relocalizations, self._poses):
            self._node.destroy_publisher(publisher)
