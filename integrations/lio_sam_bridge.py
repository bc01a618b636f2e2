"""Pass loop closures on as LIO-SAM takes them: the stamps of the two views, the newer first.

    python3 lio_sam_bridge.py --ros-args -r vpr/loop_closures:=/robot1/vpr/loop_closures

LIO-SAM looks up its own scans at these times and aligns them, so it needs no relative pose.
"""

from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from selavpr_msgs.msg import LoopClosure


class LioSamBridge(Node):
    def __init__(self) -> None:
        super().__init__('lio_sam_bridge')
        self._stamps = self.create_publisher(
            Float64MultiArray, 'lio_loop/loop_closure_detection', 10)
        self.create_subscription(LoopClosure, 'vpr/loop_closures', self._pass_on, 100)

    def _pass_on(self, closure: LoopClosure) -> None:
        if closure.inter_session:
            return  # LIO-SAM has no scans of another recording
        stamps = closure.keyframe_to.stamp, closure.keyframe_from.stamp
        self._stamps.publish(
            Float64MultiArray(data=[stamp.sec + stamp.nanosec * 1e-9 for stamp in stamps]))


def main() -> None:
    rclpy.init()
    bridge = LioSamBridge()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(bridge)
    bridge.destroy_node()  # in order, not while Python ends
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
