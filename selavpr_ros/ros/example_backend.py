"""The program example_backend: the smallest SLAM back-end that vpr_node can have.

    example_backend --ros-args -r odom:=/odom -p period:=5.0

It shows what your own back-end has to do: take keyframes and loop closures, make one map of them,
and send the poses back. Run it in the namespace of vpr_node.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import Header

from selavpr_msgs.msg import Keyframe, KeyframeId, KeyframePoses, LoopClosure
from selavpr_msgs.srv import GetKeyframes
from selavpr_ros.backend.pose_graph import Closure, PoseGraph, Poses, import_gtsam
from selavpr_ros.backend.pose_graph import Node as GraphNode
from selavpr_ros.errors import BackendError, PoseError
from selavpr_ros.ros.conversions import (
    honest_covariance,
    id_from_message,
    ns_to_stamp,
    pose_from_message,
    pose_message,
    stamp_to_ns,
)
from selavpr_ros.ros.odometry import OdometryInbox
from selavpr_ros.ros.program import end_ros, spin, start_ros
from selavpr_ros.ros.publications import reliable

# Length of the queue in which odometry waits while the graph is optimised.
ODOMETRY_DEPTH = 1000
# Most queries that wait for their odometry, which may never come.
MAX_WAITING = 1000


def graph_node(message: KeyframeId) -> GraphNode:
    """The node of an image, named by session and stamp whether or not it became a keyframe."""
    return GraphNode(id_from_message(message).session, stamp_to_ns(message.stamp))


def closure_from_message(message: LoopClosure) -> Closure:
    """The closure of a message; without a transform it says only that both show one place."""
    start, end = graph_node(message.keyframe_from), graph_node(message.keyframe_to)
    if not message.has_transform:
        return Closure(start, end)
    covariance = honest_covariance(np.array(message.from_t_to.covariance)).reshape(6, 6)
    return Closure(start, end, pose_from_message(message.from_t_to.pose), covariance)


class ExampleBackend(Node):
    """Keyframes, odometry and loop closures in; optimised poses out."""

    def __init__(self, **options: Any) -> None:
        super().__init__('example_backend', **options)
        period_s = self.declare_parameter('period', 2.0, ParameterDescriptor(
            description='Seconds between two optimisations; each is skipped if no new loop was '
            'closed')).value
        self._frame = self.declare_parameter('map_frame', 'map', ParameterDescriptor(
            description='Frame of the optimised poses')).value
        self._graph = PoseGraph()
        self._keyframes: dict[GraphNode, KeyframeId] = {}
        self._odometry = OdometryInbox()
        self._waiting: deque[GraphNode] = deque(maxlen=MAX_WAITING)
        self._must_ask, self._has_news = True, False
        odometry = QoSProfile(depth=ODOMETRY_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Odometry, 'odom', self._on_odometry, odometry)
        self.create_subscription(Keyframe, 'vpr/keyframe', self._on_keyframe, reliable(100))
        self.create_subscription(
            LoopClosure, 'vpr/loop_closures', self._on_closure, reliable(100))
        self._map = self.create_client(GetKeyframes, 'vpr/get_keyframes')
        self._publisher = self.create_publisher(KeyframePoses, 'keyframe_poses', reliable(1))
        self._path = self.create_publisher(Path, '~/path', reliable(1, latched=True))
        self.create_timer(period_s, self._on_timer)

    # ---- in ------------------------------------------------------------------------------------

    def _on_odometry(self, message: Odometry) -> None:
        with suppress(PoseError):  # vpr_node reports these
            self._odometry.put(message)

    def _on_keyframe(self, message: Keyframe) -> None:
        node = graph_node(message.id)
        if node in self._keyframes:
            return
        self._keyframes[node] = message.id
        if message.has_pose:
            # A keyframe whose pose is in the map's frame was placed there in an earlier run.
            is_placed = message.pose_frame == self._frame
            add = self._graph.fix if is_placed else self._graph.add
            add(node, pose_from_message(message.pose.pose))

    def _on_closure(self, message: LoopClosure) -> None:
        closure = closure_from_message(message)
        self._graph.close(closure)
        self._has_news = True
        if not message.keyframe_to.keyframe_id:
            self._waiting.append(closure.end)
        if closure.start not in self._keyframes:
            self._must_ask = True

    def _on_map(self, answer: Future) -> None:
        for keyframe in answer.result().keyframes:
            self._on_keyframe(keyframe)

    def _place_waiting(self) -> None:
        """Add queries that are not keyframes, which come without a pose, by odometry."""
        for _ in range(len(self._waiting)):
            node = self._waiting.popleft()
            pose = self._odometry.wait_for(node.stamp_ns, 0.0)
            if pose:
                self._graph.add(node, pose)
            else:
                self._waiting.append(node)

    # ---- out -----------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self._must_ask and self._map.service_is_ready():
            # Ask for keyframes of earlier sessions, and from before this node was started.
            self._must_ask = False
            self._map.call_async(GetKeyframes.Request()).add_done_callback(self._on_map)
        else:
            self._place_waiting()
            if self._has_news:
                self._has_news = False
                self._optimise()

    def _optimise(self) -> None:
        start_s = time.monotonic()
        poses, odometry = self._graph.optimise(), self._graph.place_by_odometry()
        if not poses:
            return
        self._publish(poses)
        moved = [pose.distance_to(odometry[node]) for node, pose in poses.items()]
        self.get_logger().info(
            f'{len(poses)} poses in {time.monotonic() - start_s:.2f} s, moved by '
            f'{np.mean(moved):.2f} m on average and {max(moved):.2f} m at most from odometry')

    def _publish(self, poses: Poses) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame)
        kept = [node for node in self._keyframes if node in poses]
        self._publisher.publish(KeyframePoses(
            header=header, ids=[self._keyframes[node] for node in kept],
            poses=[pose_message(poses[node]) for node in kept]))
        newest = max(poses, key=lambda node: node.stamp_ns)
        way = sorted(node for node in poses if node.session == newest.session)
        self._path.publish(Path(header=header, poses=[
            PoseStamped(header=Header(stamp=ns_to_stamp(node.stamp_ns), frame_id=self._frame),
                        pose=pose_message(poses[node]))
            for node in way]))


def main(arguments: list[str] | None = None) -> None:
    """Run the node until it is interrupted (SIGINT, SIGTERM)."""
    try:
        import_gtsam()  # takes a second, so it comes before the node exists
    except BackendError as error:
        sys.exit(str(error))
    try:
        start_ros('example_backend', arguments)
        spin(ExampleBackend())
    except KeyboardInterrupt:
        pass
    except Exception:
        if rclpy.ok():  # otherwise it was interrupted while it started
            raise
    finally:
        end_ros()


if __name__ == '__main__':
    main()
