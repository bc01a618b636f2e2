"""The program vpr_node.

    vpr_node --ros-args --params-file vpr.yaml -r image:=/camera/image_raw -r odom:=/odom
"""

from __future__ import annotations

import os
import signal
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

    from selavpr_ros.ros.node import VprNode
    from selavpr_ros.ros.program import end_ros, spin, start_ros

    given = sys.argv if arguments is None else arguments
    node = None
    try:
        start_ros('vpr_node', given, lambda: next(_complaints(given, 'vpr'), ''))
        node = VprNode()
        for complaint in _complaints(given, node.get_fully_qualified_name()):
            node.get_logger().warning(complaint)
        node.autostart()
        spin(node)
    except KeyboardInterrupt:
        pass
    except Exception:
        if rclpy.ok():  # errors of a shutdown are expected
            raise
    finally:
        end_ros(node)


if __name__ == '__main__':
    main()
