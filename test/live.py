"""Nodes of real ROS 2 for tests: a listener that waits for what it is told, a node to try.

Importing this skips the test module where ROS 2 or the built messages are missing.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest


def _claim_domain() -> tuple[int, Any]:
    """A DDS domain that no other test run on this machine has, as long as the file is open."""
    for number in range(100):
        domain_id = (os.getpid() + number) % 101 + 1
        path = Path(tempfile.gettempdir(), f'selavpr_test_domain_{domain_id}.lock')
        file = path.open('w')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
        else:
            return domain_id, file
    raise RuntimeError('all DDS domains are taken by other test runs')


# Tests that run at the same time, and robots in the same network, must not hear each other.
DOMAIN_ID, _claim = _claim_domain()
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN_ID)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
if os.environ.get('ROS_DISTRO') == 'humble':  # knows only the older word for it
    os.environ['ROS_LOCALHOST_ONLY'] = '1'

try:
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import Point, Quaternion
    from lifecycle_msgs.srv import ChangeState
    from nav_msgs.msg import Odometry
    from rcl_interfaces.srv import SetParameters
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CompressedImage, Image
    from visualization_msgs.msg import MarkerArray

    from selavpr_msgs.msg import Keyframe, LoopClosure, PlaceMatchArray, VprStatus
    from selavpr_ros.decision import novelty, place_filter
    from selavpr_ros.ros.conversions import ns_to_stamp, stamp_to_ns
    from selavpr_ros.ros.node import VprNode
except ImportError as error:
    pytest.skip(f'needs ROS 2 and the built selavpr_msgs: {error}', allow_module_level=True)

# A loaded machine may be slow; a test that fails waits so long, one that passes does not.
TIMEOUT_S = 40.0
SECOND = 1_000_000_000
NAMES = {
    'candidates': (PlaceMatchArray, '/vpr/candidates'),
    'closures': (LoopClosure, '/vpr/loop_closures'),
    'keyframes': (Keyframe, '/vpr/keyframe'),
    'markers': (MarkerArray, '/vpr/markers'),
    'status': (VprStatus, '/vpr/status'),
    'diagnostics': (DiagnosticArray, '/diagnostics'),
}
TOPICS = {topic for _, topic in NAMES.values()}


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Wait for a true value and return it."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    faulthandler.dump_traceback(all_threads=True)  # pytest shows it: who hangs, if somebody does
    raise AssertionError(f'in vain waited {timeout_s:g} s for {what}')


class Spinner:
    """Runs a node in a thread and a ROS context of its own."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = make(self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(TIMEOUT_S)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def _make_asker(context: Any) -> Any:
    return rclpy.create_node('asker', context=context)


class Listener(Spinner):
    """Keeps all that vpr_node publishes, sends images and odometry, calls services."""

    def __init__(self) -> None:
        super().__init__(lambda context: rclpy.create_node('listener', context=context))
        self.received: dict[str, list[Any]] = {name: [] for name in NAMES}
        for name, (kind, topic) in NAMES.items():
            qos = QoSProfile(depth=100)
            if name in ('status', 'markers'):
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            self.node.create_subscription(kind, topic, self.received[name].append, qos)
        self._publishers: dict[str, Any] = {}

    @property
    def candidates(self) -> list[Any]:
        return self.received['candidates']

    @property
    def status(self) -> Any:
        """The newest one, or None."""
        return self.received['status'][-1] if self.received['status'] else None

    def counted(self, name: str) -> int:
        """One of the numbers of the newest status, e.g. 'frames_received'."""
        return getattr(self.status, name) if self.status else 0

    def diagnostic(self, name: str) -> Any:
        """The newest one of that name, or None."""
        found = [s for array in self.received['diagnostics'][-1:] for s in array.status
                 if s.name == f'vpr: {name}']
        return found[0] if found else None

    def values(self, name: str) -> list[str]:
        """The figures of the newest diagnostic of that name, as 'key: value'."""
        status = self.diagnostic(name)
        return [f'{pair.key}: {pair.value}' for pair in status.values] if status else []

    def wait_for_state(self, state: int) -> Any:
        return wait_until(
            lambda: self.status and self.status.state == state and self.status, f'state {state}')

    def wait_for_candidates(self, count: int) -> Any:
        """Wait for so many answers in all; the newest one."""
        wait_until(lambda: len(self.candidates) >= count,
                   f'{count} messages on ~/candidates, got {len(self.candidates)}')
        return self.candidates[-1]

    def wait_for_diagnostic(self, name: str, text: str) -> Any:
        """Wait until the text stands in the message or a value of a diagnostic."""
        def told() -> bool:
            status = self.diagnostic(name)
            return status and any(text in told for told in (status.message, *self.values(name)))

        wait_until(told, f'"{text}" in diagnostic {name}, which is {self.diagnostic(name)}')
        return self.diagnostic(name)

    def send(self, topic: str, message: Any) -> None:
        """Publish, once both sides have met."""
        if topic not in self._publishers:
            publisher = self.node.create_publisher(type(message), topic, QoSProfile(depth=100))
            self._publishers[topic] = publisher
        publisher = self._publishers[topic]
        wait_until(publisher.get_subscription_count, f'a listener on {topic}')
        wait_until(lambda: all(node.has_met(topic) for node in LiveNode.running),
                   f'the node to meet the listener and {topic}')
        publisher.publish(message)

    def send_odometry(self, stamp_ns: int, x_m: float, **orientation: float) -> None:
        """The robot was that far along x."""
        message = Odometry(child_frame_id='base_link')
        message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), 'odom'
        message.pose.pose.position = Point(x=x_m)
        message.pose.pose.orientation = Quaternion(**(orientation or {'w': 1.0}))
        self.send('/odom', message)

    def insist(self, send: Callable[[], Any], condition: Callable[[], Any], what: str) -> None:
        """Send until it helps: what comes best effort before both sides met is lost."""
        def tried() -> Any:
            send()
            time.sleep(0.05)
            return condition()

        wait_until(tried, what)

    def call(self, kind: Any, service: str, request: Any, twice: bool = False) -> Any:
        """Answer of a service.

        On a busy machine DDS loses the service's endpoint once in some hundred starts, for as
        long as the two participants live; another participant then finds it. So it may lose a
        question or an answer: `twice` tells that asking again does no harm.
        """
        for attempt in range(4):
            asker = Spinner(_make_asker) if attempt else None
            try:
                client = (asker or self).node.create_client(kind, service)
                if client.wait_for_service(TIMEOUT_S / 4):
                    future = client.call_async(request)
                    with suppress(AssertionError) if twice and attempt < 3 else nullcontext():
                        wait_until(future.done, f'an answer of {service}')
                        return future.result()
            finally:
                if asker:
                    asker.close()
        raise AssertionError(f'no service {service}')

    def set_parameter(self, name: str, value: Any) -> Any:
        """Result of `ros2 param set`."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.call(SetParameters, '/vpr/set_parameters', request, twice=True).results[0]

    def transition(self, label: str) -> bool:
        """Success of `ros2 lifecycle set`; the state tells it, too, where an answer was lost."""
        request, before = ChangeState.Request(), self.status and self.status.state
        request.transition.label = label
        answer = self.call(ChangeState, '/vpr/change_state', request, twice=True)
        return answer.success or bool(self.status and self.status.state != before)


class LiveNode(Spinner):
    """A VprNode of this process, activated."""

    running: ClassVar[list[LiveNode]] = []

    def __init__(self, parameters: dict[str, Any]) -> None:
        parameters = {'model.weights': 'hog', **parameters}  # starts at once
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        super().__init__(
            lambda context: VprNode(context=context, parameter_overrides=overrides))
        self.node.autostart()
        self.running.append(self)

    def has_met(self, topic: str) -> bool:
        """Whether the listener would hear the node, and the node this topic.

        Each end of a topic discovers the other one by itself. On a busy machine the node may hear
        an image before it knows who listens to the answer; a volatile answer then goes nowhere.
        """
        heard = all(publisher.get_subscription_count() for publisher in self.node.publishers
                    if publisher.topic_name in TOPICS)
        return heard and all(subscription.get_publisher_count()
                             for subscription in self.node.subscriptions
                             if subscription.topic_name == topic
                             and hasattr(subscription, 'get_publisher_count'))  # not in Humble

    def close(self) -> None:
        if self in self.running:
            self.running.remove(self)
        super().close()


class NodeProcess:
    """vpr_node as a user starts it."""

    def __init__(self, log: Path, arguments: Sequence[str] = ()) -> None:
        self._log = log
        command = [sys.executable, '-m', 'selavpr_ros.ros.vpr_node', '--ros-args', *arguments]
        # The same arithmetic as with one thread here, and no quarrel over the cores.
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        with log.open('w') as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def send_signal(self, signal_number: int) -> None:
        """Signal it, and do not wait."""
        self._process.send_signal(signal_number)

    def stop(self, signal_number: int = signal.SIGINT) -> int:
        """Signal it, and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        try:
            return self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


def raw_message(image: np.ndarray, stamp_ns: int, encoding: str = 'rgb8') -> Image:
    """sensor_msgs/Image of (H,W[,C]) samples, rows packed."""
    samples = image.reshape(*image.shape[:2], -1)
    message = Image(height=image.shape[0], width=image.shape[1], encoding=encoding)
    message.step = image.shape[1] * samples.shape[2] * image.itemsize
    message.is_bigendian = int(image.dtype.byteorder == '>')
    message.data.frombytes(image.tobytes())
    message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), 'camera'
    return message


def compressed_message(data: bytes, stamp_ns: int, kind: str = 'jpeg') -> CompressedImage:
    """sensor_msgs/CompressedImage."""
    message = CompressedImage(format=kind)
    message.data.frombytes(data)
    message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), 'camera'
    return message


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header."""
    return stamp_to_ns(message.header.stamp)


def place(number: int, height: int = 240, width: int = 320) -> np.ndarray:
    """A picture of a place that exists nowhere: (H,W,3) uint8 RGB, unlike all other numbers."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


# Every image is a query and a keyframe.
EAGER = {
    'query.max_rate': 60.0, 'keyframe.min_interval': 0.0, 'keyframe.max_overlap': 1.0,
    'index.exclude_recent_seconds': 0.0, 'index.exclude_recent_keyframes': 0,
    'index.exclude_recent_distance': 0.0, 'pose_source': 'none', 'gates.min_probability': 0.5,
    'gates.min_motion': 0.0, 'status.period': 0.1, 'qos.image_reliability': 'reliable'}


def let_one_look_suffice(monkeypatch):
    """One view is enough for a loop closure: what is tested is the node, not the decision."""
    monkeypatch.setattr(place_filter, 'ENTER', 0.5)
    monkeypatch.setattr(place_filter, 'LEAST_PLACES', 1)
    monkeypatch.setattr(novelty, 'VIEW_OVERLAP', 1.0)


def send_places(listener, numbers, first_s=1):
    """Show one place a second; waits for each answer."""
    before = len(listener.candidates)
    for count, number in enumerate(numbers):
        listener.send('/image', raw_message(place(number), (first_s + count) * SECOND))
        listener.wait_for_candidates(before + count + 1)
