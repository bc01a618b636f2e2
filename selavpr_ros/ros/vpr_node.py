"""The program vpr_node.

    vpr_node --ros-args --params-file vpr.yaml -r image:=/camera/image_raw -r odom:=/odom
"""

from __future__ import annotations

import os
import signal


def main(arguments: list[str] | None = None) -> None:
    """Run the node until it is interrupted (SIGINT, SIGTERM)."""
    # Until there is a node, nothing has to be ended in order.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A robot's cores are shared. By default torch's threads spin long while they wait for each
    # other, which makes the model several times slower when other programs need the cores, too;
    # without any spinning it is half as fast on idle cores. The OpenMP library reads this once,
    # when torch is imported.
    os.environ.setdefault('GOMP_SPINCOUNT', '100000')
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    from selavpr_ros.ros.node import VprNode
    from selavpr_ros.ros.program import end_ros, start_ros

    node = None
    try:
        start_ros('vpr_node', arguments)
        node = VprNode()
        node.autostart()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # errors of a shutdown are expected
            raise
    finally:
        if node:
            node.destroy_node()
        end_ros()


if __name__ == '__main__':
    main()
