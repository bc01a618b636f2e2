"""Plays a rosbag2 over DDS without ROS's own player: for the demo, the tests, and bare machines.

    play('drive.bag', node, rate=2.0, remap={'/camera/image_raw': '/image'})
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability
from rosgraph_msgs.msg import Clock

from selavpr_ros.errors import BagError
from selavpr_ros.recordings.bag import Bag, Topic
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


def _topics(bag: Bag, asked: Collection[str] | None) -> list[Topic]:
    topics = bag.topics()
    if asked is None:
        return topics
    missing = set(asked) - {topic.name for topic in topics}
    if missing:
        there = ', '.join(topic.name for topic in topics)
        raise BagError(f'no topic {", ".join(sorted(missing))} in {bag.path}; there are {there}')
    return [topic for topic in topics if topic.name in asked]


def _publisher(node: Node, bag: Bag, recorded: Topic, remap: Mapping[str, str]) -> Any:
    # Latched topics (/tf_static, maps) have to reach late subscribers, too.
    latched = any(profile.durability is QosDurability.TRANSIENT_LOCAL
                  for connection in bag.connections() if connection.topic == recorded.name
                  for profile in connection.ext.offered_qos_profiles)
    qos = QoSProfile(
        depth=PUBLISHER_DEPTH, reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)
    topic = remap.get(recorded.name, recorded.name)
    return node.create_publisher(_message_class(recorded.type), topic, qos)


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
    with Bag(path) as bag:
        recorded = _topics(bag, topics)
        publishers = {topic.name: _publisher(node, bag, topic, remap or {}) for topic in recorded}
        bag_clock = None
        try:
            _wait_for_listeners(publishers.values(), timeout_s)
            total = sum(topic.count for topic in recorded)
            played = 0
            for message in bag.raw(publishers):
                if bag_clock is None:  # whatever else was recorded before
                    bag_clock = _BagClock(node, message.received_ns, rate, publish=clock)
                bag_clock.advance(message.received_ns)
                if pace:
                    pace(message.topic, message.received_ns)
                publishers[message.topic].publish(bytes(message.data))
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
