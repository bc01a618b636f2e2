"""How a program with a node starts and ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy


def _handle(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _interrupt_once(*_: Any) -> None:
    _handle(lambda *_: None)
    raise KeyboardInterrupt


def start_ros(
    name: str, arguments: list[str] | None, explain: Callable[[], str] = str
) -> None:
    """Start ROS. The first SIGINT or SIGTERM interrupts the program, no other disturbs its end.

    A terminal and `ros2 launch` may both send one for a single Ctrl-C, and the node may be
    writing its map. If ROS rejects the arguments, e.g. a parameter file or a remapping, the
    program ends with one sentence and exit code 1.

    Args:
        name: of the program, for that sentence.
        arguments: of the program; None takes those of the process.
        explain: says what is wrong with the arguments; empty leaves it to ROS's own words.
    """
    _handle(_interrupt_once)
    try:
        rclpy.init(args=arguments)
    except Exception as error:  # its class is private, and elsewhere in each distribution
        sys.exit(f'{name} cannot start: {explain() or " ".join(str(error).split())}')


def end_ros() -> None:
    """End ROS; the program should do nothing afterwards but end, too."""
    rclpy.try_shutdown()
    _handle(signal.SIG_IGN)  # the only handler that Python keeps while it ends
