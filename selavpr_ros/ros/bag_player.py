"""Plays a rosbag2 over DDS without ROS's own player: for the demo, the tests, and bare machines.

    play('drive.bag', node, rate=2.0, remap={'/camera/image_raw': '/image'})
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock

from selavpr_ros.errors import BagError
from selavpr_ros.ros.conversions import ns_to_stamp

PUBLISHER_DEPTH = 50
CLOCK_PERIOD_NS = 10_000_000
# Once a first topic has a subscriber, the other topics get so many seconds to find theirs.
GRACE_S = 1.0
# A publisher may know a subscriber a moment before the subscriber knows it; what is sent best
# effort in between is lost.
SETTLE_S = 0.5
ARRIVAL_TIMEOUT_S = 5.0
POLL_S = 0.02

Progress = Callable[[int, int], Any]
Pace = Callable[[str, int], Any]


def _message_class(name: str) -> Any:
    """The class of 'sensor_msgs/msg/Image'."""
    package, _, kind = name.rpartition('/')
    try:
        return getattr(importlib.import_module(package.replace('/', '.')), kind)
    except (ImportError, AttributeError) as error:
        raise BagError(f'messages of type {name} are not installed here: source the workspace '
                       'that has them, or choose other topics') from error


@contextmanager
def _opened(path: Path) -> Iterator[Reader]:
    if not path.exists():
        raise BagError(f'{path} does not exist')
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # a parser may raise anything on foreign bytes
        raise BagError(f'{path} cannot be read as a rosbag2: {error}') from error
    try:
        yield reader
    finally:
        reader.close()


def _connections(reader: Reader, topics: Collection[str] | None) -> list[Any]:
    if topics is None:
        return list(reader.connections)
    missing = set(topics) - {connection.topic for connection in reader.connections}
    if missing:
        there = ', '.join(sorted(c.topic for c in reader.connections))
        raise BagError(
            f'no topic {", ".join(sorted(missing))} in {reader.path}; there are {there}')
    return [connection for connection in reader.connections if connection.topic in topics]


def _publisher(node: Node, connection: Any, remap: Mapping[str, str]) -> Any:
    # Latched topics (/tf_static, maps) have to reach late subscribers, too.
    latched = any(profile.durability is QosDurability.TRANSIENT_LOCAL
                  for profile in connection.ext.offered_qos_profiles)
    qos = QoSProfile(
        depth=PUBLISHER_DEPTH, reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)
    topic = remap.get(connection.topic, connection.topic)
    return node.create_publisher(_message_class(connection.msgtype), topic, qos)


def _wait_for_listeners(publishers: Collection[Any], timeout_s: float) -> None:
    start_s = first_s = time.monotonic()
    while True:
        heard = [publisher.get_subscription_count() > 0 for publisher in publishers]
        now_s = time.monotonic()
        if not any(heard):
            first_s = now_s
        if all(heard) or now_s - first_s > GRACE_S:
            time.sleep(SETTLE_S)
            return
        if now_s - start_s > timeout_s:
            topics = ', '.join(publisher.topic_name for publisher in publishers)
            raise BagError(f'no subscriber to any of {topics} (waited {timeout_s:g} s)')
        time.sleep(POLL_S)


def _wait_for_arrival(publishers: Iterable[Any]) -> None:
    """Let the last messages arrive: what is not delivered is lost with its publisher."""
    for publisher in publishers:
        publisher.wait_for_all_acked(Duration(seconds=ARRIVAL_TIMEOUT_S))
    time.sleep(SETTLE_S)  # best-effort subscribers do not acknowledge


class _BagClock:
    """Keeps the recording's timing, and publishes its time as /clock if asked."""

    def __init__(self, node: Node, start_ns: int, rate: float, *, publish: bool) -> None:
        self._start_s, self._start_ns, self._rate = time.monotonic(), start_ns, rate
        self._publisher = node.create_publisher(Clock, '/clock', 10) if publish else None
        self._node = node
        self._told_ns = start_ns - CLOCK_PERIOD_NS

    def advance(self, to_ns: int) -> None:
        """Wait until a time of the recording has come; with rate 0, do not wait."""
        while self._rate > 0.0:
            played_s = (time.monotonic() - self._start_s) * self._rate
            missing_s = (to_ns - self._start_ns) * 1e-9 - played_s
            if missing_s <= 0.0:
                break
            self._tell(self._start_ns + round(played_s * 1e9))
            time.sleep(min(missing_s / self._rate, CLOCK_PERIOD_NS * 1e-9))
        self._tell(to_ns)

    def _tell(self, now_ns: int) -> None:
        if self._publisher and now_ns - self._told_ns >= CLOCK_PERIOD_NS:
            self._told_ns = now_ns
            self._publisher.publish(Clock(clock=ns_to_stamp(now_ns)))

    def destroy(self) -> None:
        if self._publisher:
            self._node.destroy_publisher(self._publisher)


def play(
    path: str | Path, node: Node, *, topics: Collection[str] | None = None, rate: float = 1.0,
    remap: Mapping[str, str] | None = None, clock: bool = False, timeout_s: float = 30.0,
    on_progress: Progress | None = None, pace: Pace | None = None,
) -> int:
    """Publish the messages of a rosbag2 (folder or file) as they were recorded.

    Args:
        path: the bag.
        node: publishes the messages; it need not be spun.
        topics: recorded topics to play; all if None.
        rate: 2.0 plays twice as fast, 0 without any pause.
        remap: recorded topic -> topic to publish on.
        clock: publish the recording's time on /clock, for nodes with use_sim_time.
        timeout_s: how long to wait for a first subscriber.
        on_progress: called with the number of messages played and their total.
        pace: called with recorded topic and time in ns before each message; may wait.

    Returns:
        Number of messages played.

    Raises:
        BagError: the bag cannot be read, lacks a topic, holds messages of a type that is not
            installed, or has no subscriber.
    """
    with _opened(Path(path)) as reader:
        connections = _connections(reader, topics)
        publishers = {c.id: _publisher(node, c, remap or {}) for c in connections}
        bag_clock = None
        try:
            _wait_for_listeners(publishers.values(), timeout_s)
            bag_clock = _BagClock(node, reader.start_time, rate, publish=clock)
            total = sum(connection.msgcount for connection in connections)
            played = 0
            for connection, recorded_ns, data in reader.messages(connections):
                bag_clock.advance(recorded_ns)
                if pace:
                    pace(connection.topic, recorded_ns)
                publishers[connection.id].publish(bytes(data))
                played += 1
                if on_progress:
                    on_progress(played, total)
            _wait_for_arrival(publishers.values())
            return played
        finally:
            if bag_clock:
                bag_clock.destroy()
            for publisher in publishers.values():
                node.destroy_publisher(publisher)
