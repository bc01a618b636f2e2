"""How a program with a node starts and ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


def _handle(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


class _Interrupt:
    """A handler of signals that raises KeyboardInterrupt once, until it is told to let it be."""

    def __init__(self) -> None:
        self.raises = True

    def __call__(self, *_: Any) -> None:
        if self.raises:
            self.raises = False
            raise KeyboardInterrupt


_interrupt = _Interrupt()


def start_ros(
    name: str, arguments: list[str] | None, explain: Callable[[], str] = str
) -> None:
    """Start ROS. The first SIGINT or SIGTERM interrupts the start, none disturbs the end.

    A terminal and `ros2 launch` may both send one for a single Ctrl-C, and the node may be
    writing its map. If ROS rejects the arguments, e.g. a parameter file or a remapping, the
    program ends with one sentence and exit code 1.

    Args:
        name: of the program, for that sentence.
        arguments: of the program; None takes those of the process.
        explain: says what is wrong with the arguments; empty leaves it to ROS's own words.
    """
    _interrupt.raises = True
    _handle(_interrupt)
    try:
        rclpy.init(args=arguments)
    except Exception as error:  # its class is private, and elsewhere in each distribution
        sys.exit(f'{name} cannot start: {explain() or " ".join(str(error).split())}')


def spin(node: Node) -> None:
    """Run a node until ROS is shut down, as a signal does; no signal raises anything any more."""
    _interrupt.raises = False  # or Python might raise it later, in the middle of the end
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with suppress(ExternalShutdownException):
        executor.spin()


def end_ros(node: Node | None = None) -> None:
    """End a node and ROS; the program should do nothing afterwards but end, too."""
    _interrupt.raises = False
    if node:
        node.destroy_node()
    rclpy.try_shutdown()
    _handle(signal.SIG_IGN)  # the only handler that Python keeps while it ends
