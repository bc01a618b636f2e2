"""The bridge to LIO-SAM as a process of its own, between the real node and LIO-SAM's ears."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from live import (
    EAGER,
    SECOND,
    TIMEOUT_S,
    Listener,
    LiveNode,
    let_one_look_suffice,
    ns_to_stamp,
    send_places,
    wait_until,
)
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray

from selavpr_msgs.msg import LoopClosure

FILE = Path(__file__).parents[2] / 'integrations/lio_sam_bridge.py'


def _interrupt(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code, or None. Beside other work it has outlived one SIGINT; why is not known."""
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(TIMEOUT_S / 4)
    return None


@pytest.fixture
def bridge():
    process = subprocess.Popen([sys.executable, '-X', 'faulthandler', FILE])
    yield process
    try:
        assert _interrupt(process) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGABRT)  # shows where it hangs
            process.wait()


@pytest.fixture
def listener(bridge):
    """Hears what LIO-SAM would hear: `pairs` of stamps."""
    listener = Listener()
    listener.pairs = []
    # LIO-SAM's profile for ROS 2: best effort, and no more than the newest.
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    listener.node.create_subscription(
        Float64MultiArray, '/lio_loop/loop_closure_detection',
        lambda message: listener.pairs.append(tuple(message.data)), qos)
    yield listener
    listener.close()


def test_a_loop_closure_of_the_node_becomes_two_stamps(listener, monkeypatch):
    let_one_look_suffice(monkeypatch)
    node = LiveNode(EAGER)
    try:
        send_places(listener, [1, 2, 3])
        seconds = itertools.count(4)
        # Until bridge and node have found each other, what the node says is lost.
        listener.insist(lambda: send_places(listener, [2], first_s=next(seconds)),
                        lambda: listener.pairs, 'a loop closure for LIO-SAM')
        newer, older = listener.pairs[0]
        wait_until(lambda: (newer, older) in {
            (closure.keyframe_to.stamp.sec, closure.keyframe_from.stamp.sec)
            for closure in listener.received['closures']}, f'the closure {newer}, {older}')
    finally:
        node.close()
    assert newer > older >= 2.0


def test_stamps_keep_their_fraction_and_other_sessions_are_left_out(listener):
    now_ns = 1_700_000_000 * SECOND
    closure = LoopClosure()
    closure.keyframe_to.stamp = ns_to_stamp(now_ns + SECOND // 4)
    closure.keyframe_from.stamp = ns_to_stamp(now_ns - 60 * SECOND)
    foreign = LoopClosure(inter_session=True)

    def send():
        for message in (foreign, closure):
            listener.send('/vpr/loop_closures', message)

    listener.insist(send, lambda: len(listener.pairs) > 1, 'two loop closures for LIO-SAM')
    assert set(listener.pairs) == {(1_700_000_000.25, 1_699_999_940.0)}


def test_the_documentation_shows_this_very_class():
    shown = FILE.parents[1].joinpath('docs/back_ends.md').read_text().split('```python\n')[1]
    assert shown.split('```')[0].rstrip() in FILE.read_text()
