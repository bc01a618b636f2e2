"""Reads images and poses of a rosbag2 (sqlite3 or mcap) without ROS."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from selavpr_ros.errors import BagError, PoseError
from selavpr_ros.pose import Pose

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
POSE_TYPES = (
    ODOMETRY_TYPE, 'geometry_msgs/msg/PoseStamped', 'geometry_msgs/msg/PoseWithCovarianceStamped')
STORAGE_SUFFIXES = ('.db3', '.mcap')

# The definitions of these few types have not changed since ROS 2 began, and sqlite3 bags of Humble
# do not contain any.
_TYPES = get_typestore(Stores.ROS2_HUMBLE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Topic:
    """A topic of a bag with its type, e.g. sensor_msgs/msg/Image, and number of messages."""

    name: str
    type: str
    count: int

    def __str__(self) -> str:
        return f'{self.name} ({self.type}, {self.count} messages)'


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _storage_files(path: Path) -> list[Path]:
    """What to open: the folder itself, or its files when a crash left it without metadata."""
    if not path.exists():
        raise BagError(f'{path} does not exist')
    if path.is_file() and path.suffix == '.bag':
        raise BagError(f'{path} is a bag of ROS 1: convert it with rosbags-convert')
    if path.is_file() or (path / 'metadata.yaml').is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES)
    if not files:
        raise BagError(f'{path} is no rosbag2: it holds neither metadata.yaml nor a file *'
                       + ' or *'.join(STORAGE_SUFFIXES))
    logger.warning('%s has no metadata.yaml; its %d storage files are read', path, len(files))
    return files


def stamp_ns(message: Any) -> int:
    """Nanoseconds of a message's header."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def pose_of(message: Any) -> Pose:
    """The pose in an Odometry, PoseStamped or PoseWithCovarianceStamped.

    Raises:
        PoseError: it holds NaN, infinity or no rotation.
    """
    pose = message.pose
    pose = getattr(pose, 'pose', pose)
    at, turn = pose.position, pose.orientation
    return Pose(np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w]))


class Bag:
    """A rosbag2, opened for reading: a folder, or one of its .db3 or .mcap files.

    Use it in a `with` statement: entering it opens the bag, and raises BagError with a reason if
    that fails.

    Attributes:
        path: path of the bag.
        skipped: number of messages left out so far while reading, by reason.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.skipped: Counter[str] = Counter()
        self._readers: list[Reader] = []
        self._open = ExitStack()

    def __enter__(self) -> Bag:
        try:
            for file in _storage_files(self.path):
                self._readers.append(self._open.enter_context(Reader(file)))
        except BagError:
            raise
        except Exception as error:  # a parser may raise anything on foreign bytes
            self._open.close()
            raise BagError(f'{self.path} cannot be read as a rosbag2: {_reason(error)}') from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()
        self._readers.clear()

    @property
    def name(self) -> str:
        """The bag's name without its folder and its suffix."""
        return self.path.resolve().stem

    def topics(self) -> list[Topic]:
        """All topics, by name."""
        counts: Counter[tuple[str, str]] = Counter()
        for reader in self._readers:
            for connection in reader.connections:
                counts[connection.topic, connection.msgtype] += connection.msgcount
        return [Topic(name, kind, count) for (name, kind), count in sorted(counts.items())]

    def image_topics(self) -> list[Topic]:
        """The topics with raw or compressed images, by name."""
        return [topic for topic in self.topics() if topic.type in IMAGE_TYPES]

    def camera_info_topics(self) -> list[Topic]:
        """The topics with calibrations of cameras, by name."""
        return [topic for topic in self.topics() if topic.type == CAMERA_INFO_TYPE]

    def pose_topics(self) -> list[Topic]:
        """The topics with poses, by name."""
        return [topic for topic in self.topics() if topic.type in POSE_TYPES]

    def images(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Header stamp in ns and message, raw or compressed, in the order of recording.

        Raises:
            BagError: the bag is damaged from here on.
        """
        return self.stamped(topic)

    def stamped(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Header stamp in ns and message of any topic whose messages have a header."""
        for message in self._messages(topic):
            yield stamp_ns(message), message

    def poses(self, topic: str) -> list[tuple[int, Pose]]:
        """Header stamp in ns and pose, in the order of recording; invalid poses are left out.

        Raises:
            BagError: the bag is damaged.
        """
        poses = []
        for message in self._messages(topic):
            try:
                poses.append((stamp_ns(message), pose_of(message)))
            except PoseError as error:
                self._skip('bad odometry pose', f'{topic} at {stamp_ns(message)} ns: {error}')
        return poses

    def _skip(self, kind: str, details: str) -> None:
        self.skipped[kind] += 1
        logger.warning('%s: %s', kind, details)

    def _raw(self, topic: str) -> Iterator[tuple[int, str, bytes]]:
        streams = [
            reader.messages([c for c in reader.connections if c.topic == topic])
            for reader in self._readers if any(c.topic == topic for c in reader.connections)
        ]
        for connection, received_ns, data in heapq.merge(*streams, key=lambda item: item[1]):
            yield received_ns, connection.msgtype, data

    def _messages(self, topic: str) -> Iterator[Any]:
        count, raw = 0, self._raw(topic)
        while True:
            try:
                received_ns, kind, data = next(raw)
            except StopIteration:
                return
            except Exception as error:  # as in __enter__
                raise BagError(f'{self.path} is damaged after {count} messages of {topic}: '
                               f'{_reason(error)}') from error
            count += 1
            try:
                message = _TYPES.deserialize_cdr(data, kind)
            except Exception as error:  # as in __enter__
                self._skip('unreadable message', f'{topic} at {received_ns} ns: {_reason(error)}')
                continue
            yield message
