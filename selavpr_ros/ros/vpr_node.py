"""The program vpr_node.

    vpr_node --ros-args --params-file vpr.yaml -r image:=/camera/image_raw -r odom:=/odom
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def _params_files(arguments: Sequence[str]) -> Iterator[Path]:
    """The parameter files that are named after --params-file."""
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option == '--params-file':
            yield Path(value)


def _complaints(arguments: Sequence[str], node: str) -> Iterator[str]:
    """What is wrong with each parameter file for a node with this full name."""
    from selavpr_ros.errors import SettingError
    from selavpr_ros.recordings.param_file import read_given

    for path in _params_files(arguments):
        try:
            read_given(path, node)
        except SettingError as error:
            yield str(error)


def _init(arguments: Sequence[str]) -> None:
    """Start ROS with these arguments; what is wrong with them ends the program with a sentence."""
    import rclpy

    try:
        rclpy.init(args=list(arguments))
    except Exception as error:  # the class is private, and in another place in each distribution
        reason = next(_complaints(arguments, 'vpr'), '') or ' '.join(str(error).split())
        sys.exit(f'vpr_node: {reason}')


def main(arguments: list[str] | None = None) -> None:
    """Run the node until it is interrupted (SIGINT, SIGTERM)."""
    # A robot's cores are shared. By default torch's threads spin long while they wait for each
    # other, which makes the model several times slower when other programs need the cores, too;
    # without any spinning it is half as fast on idle cores. The OpenMP library reads this once,
    # when torch is imported.
    os.environ.setdefault('GOMP_SPINCOUNT', '100000')
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    from selavpr_ros.ros.node import VprNode

    given = sys.argv if arguments is None else arguments
    _init(given)
    node = None
    try:
        node = VprNode()
        for complaint in _complaints(given, node.get_fully_qualified_name()):
            node.get_logger().warning(complaint)
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
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
