"""Plays a bag into the real node over DDS, and listens as a SLAM back-end would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from selavpr_msgs.msg import (
    Keyframe,
    LoopClosure,
    PlaceMatch,
    PlaceMatchArray,
    Relocalization,
    VprStatus,
)
from selavpr_ros.decision.gates import Decision
from selavpr_ros.errors import NodeError
from selavpr_ros.recordings.records import (
    EVIDENCE,
    CandidateRecord,
    KeyframeRecord,
    QueryRecord,
    Run,
)
from selavpr_ros.ros.bag_player import play
from selavpr_ros.ros.conversions import id_from_message, pose_from_message, stamp_to_ns
from selavpr_ros.ros.publications import reliable

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
# The last images are taken as done when no candidates have come for so long.
QUIET_S = 2.0
POLL_S = 0.05


def recorded(message: PlaceMatch) -> CandidateRecord:
    """The record of a candidate, from its message."""
    return CandidateRecord(
        id_from_message(message.match), stamp_to_ns(message.match.stamp),
        decision=Decision(message.decision),
        **{name: getattr(message, name) for name in EVIDENCE})


@dataclass
class LiveRun:
    """What the listener heard: the records, ~/relocalization, and the node's last status."""

    records: Run = field(default_factory=lambda: Run(knows_poses=False))
    relocalizations: list[Relocalization] = field(default_factory=list)
    status: VprStatus = field(default_factory=VprStatus)


class Listener(Node):
    """Subscribes to what the node of the same namespace publishes, and records it."""

    def __init__(self, **options: Any) -> None:
        super().__init__('listener', **options)
        self.live = LiveRun()
        self._closures: dict[int, LoopClosure] = {}  # by the stamp of their query
        self.heard_s = time.monotonic()
        topics = {
            'candidates': (PlaceMatchArray, self._on_candidates, reliable(1000)),
            'loop_closures': (LoopClosure, self._on_closure, reliable(1000)),
            'keyframe': (Keyframe, self._on_keyframe, reliable(1000)),
            'relocalization': (
                Relocalization, self.live.relocalizations.append, reliable(1000)),
            'status': (VprStatus, self._on_status, reliable(1, latched=True)),
        }
        for name, (kind, callback, qos) in topics.items():
            self.create_subscription(kind, f'vpr/{name}', callback, qos)

    def _on_candidates(self, message: PlaceMatchArray) -> None:
        self.heard_s = time.monotonic()
        records = self.live.records
        records.model_id = message.model_id
        kept = message.query.keyframe_id
        records.queries.append(QueryRecord(
            stamp_to_ns(message.header.stamp), tuple(map(recorded, message.matches)),
            id_from_message(message.query) if kept else None, stage_ms=tuple(message.stage_ms)))
        self._close(stamp_to_ns(message.header.stamp))

    def _on_closure(self, message: LoopClosure) -> None:
        """Keep a closure, perhaps of an earlier query; its candidates may come later."""
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._closures[stamp_ns] = message
        self._close(stamp_ns)

    def _close(self, stamp_ns: int) -> None:
        """Mark the accepted candidate of a query once closure and candidates have arrived."""
        message, records = self._closures.get(stamp_ns), self.live.records
        if message is None:
            return
        accepted = id_from_message(message.keyframe_from)
        records.replace_candidates(stamp_ns, [
            replace(each, decision=Decision.ACCEPTED, probability=message.probability)
            if each.match_id == accepted else each for each in records.candidates_of(stamp_ns)])

    def _on_keyframe(self, message: Keyframe) -> None:
        pose = pose_from_message(message.pose.pose) if message.has_pose else None
        self.live.records.keyframes.append(
            KeyframeRecord(id_from_message(message.id), stamp_to_ns(message.id.stamp), pose))

    def _on_status(self, message: VprStatus) -> None:
        self.live.status = message
        self.live.records.images = message.frames_received
        self.live.records.map_nbytes = message.map_bytes_ram


@contextmanager
def _listening(domain_id: int, namespace: str) -> Iterator[Listener]:
    """A listener that is spun in a thread of its own."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    listener = Listener(context=context, namespace=namespace)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        executor.shutdown()
        thread.join()
        listener.destroy_node()
        rclpy.try_shutdown(context=context)


@contextmanager
def _running_node(
    domain_id: int, namespace: str, parameters: Mapping[str, Any], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The real vpr_node as a process; its output goes to a file."""
    command = [sys.executable, '-m', 'selavpr_ros.ros.vpr_node', '--ros-args']
    command += [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    command += ['-r', f'__ns:={namespace}']
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}
    with log.open('wb') as output:
        node = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            yield node
        finally:
            node.send_signal(signal.SIGINT)
            try:
                node.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def _wait_until_active(
    listener: Listener, node: subprocess.Popen[bytes], log: Path
) -> None:
    """Wait until the model is loaded: images that are played before are lost."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while listener.live.status.state != VprStatus.ACTIVE:
        error = listener.live.status.last_error
        if error or node.poll() is not None or time.monotonic() > end_s:
            raise NodeError(f'vpr_node did not become active: {error or f"see {log}"}')
        time.sleep(POLL_S)


def _wait_until_quiet(listener: Listener, node: subprocess.Popen[bytes], log: Path) -> None:
    while time.monotonic() - listener.heard_s < QUIET_S:
        time.sleep(POLL_S)
    if node.poll() is not None:
        raise NodeError(f'vpr_node ended while the bag was played (exit code {node.returncode}), '
                        f'see {log}')


def _with_poses(live: LiveRun) -> LiveRun:
    """Give queries that became keyframes the poses of those."""
    poses = {keyframe.stamp_ns: keyframe.pose for keyframe in live.records.keyframes}
    live.records.queries = [
        replace(query, pose=poses.get(query.stamp_ns)) for query in live.records.queries]
    return live


def record_live_run(
    bag: Path, topics: Mapping[str, str], parameters: Mapping[str, Any], log: Path, *,
    rate: float = 1.0, on_progress: Callable[[int, int], Any] | None = None,
) -> LiveRun:
    """Start vpr_node, play a bag into it, record what it publishes, stop it.

    Args:
        bag: rosbag2 folder or file.
        topics: topic of the bag -> 'image', 'image/compressed' or 'odom' of the node.
        parameters: of the node, by name.
        log: file for the node's output.
        rate: 2.0 plays twice as fast.
        on_progress: called with the number of messages played and their total.

    Raises:
        NodeError: the node did not become active, or ended early.
        BagError: the bag cannot be played.
    """
    # A DDS domain of its own keeps this run apart from other nodes in the network. Domains are
    # few, so two runs may share one; their namespaces keep them apart.
    domain_id, namespace = os.getpid() % 101 + 1, f'/live_run_{uuid.uuid4().hex}'
    remap = {topic: f'{namespace}/{name}' for topic, name in topics.items()}
    with _listening(domain_id, namespace) as listener, \
            _running_node(domain_id, namespace, parameters, log) as node:
        _wait_until_active(listener, node, log)
        play(bag, listener, topics=set(topics), rate=rate, remap=remap, on_progress=on_progress)
        _wait_until_quiet(listener, node, log)
        return _with_poses(listener.live)
