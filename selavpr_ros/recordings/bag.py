"""Reads images and poses of a rosbag2 (sqlite3 or mcap) without ROS."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from selavpr_ros.errors import BagError, PoseError
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag_files import (
    Counts,
    Part,
    PartOpener,
    RawMessage,
    damage,
    find_files,
    reason,
)

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
POSE_TYPES = (
    ODOMETRY_TYPE, 'geometry_msgs/msg/PoseStamped', 'geometry_msgs/msg/PoseWithCovarianceStamped')

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

    What a crash left is read as far as it is whole: files without metadata.yaml, without their
    end, packed, or with a journal beside them. Use it in a `with` statement: entering it opens the
    bag, and raises BagError with a reason if there is nothing to read.

    Attributes:
        path: path of the bag.
        skipped: number of messages left out so far while reading, by reason.
        faults: what is missing or damaged, as far as it is known, a sentence each.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.skipped: Counter[str] = Counter()
        self.faults: list[str] = []
        self._damaged: list[str] = []  # those of the faults that showed while messages were read
        self._parts: list[Part] = []
        self._listed: Counts = Counter()
        self._counts: Counts = Counter()
        self._open = ExitStack()

    def __enter__(self) -> Bag:
        with ExitStack() as opened:
            files, self._listed = find_files(self.path, self._note)
            opener = PartOpener(opened, self._note)
            self._parts = [part for part in map(opener.open, files) if part]
            if not self._parts:
                raise BagError('; '.join(self.faults))
            self._counts = self._count()
            self._open = opened.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()
        self._parts.clear()

    @property
    def name(self) -> str:
        """The bag's name without its folder and its suffix."""
        return self.path.resolve().stem

    def topics(self) -> list[Topic]:
        """All topics, by name, with as many messages as metadata.yaml or the files list."""
        counts = self._listed | self._counts
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

    def connections(self) -> list[Any]:
        """The connections of rosbags, which know how a topic was published."""
        return [each for part in self._parts for each in part.connections]

    def images(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Header stamp in ns and message, raw or compressed, in the order of recording.

        Raises:
            BagError: a file of the bag is damaged; all that can be read came before.
        """
        known = len(self._damaged)
        yield from self.stamped(topic)
        if len(self._damaged) > known:
            raise BagError('; '.join(self._damaged[known:]))

    def stamped(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Header stamp in ns and message of any topic whose messages have a header.

        Where a driver sets no stamps, the times of recording take their place.
        """
        messages = self._messages(topic)
        first = list(islice(messages, 2))
        is_stamped = any(stamp_ns(message) for _, message in first)
        if first and not is_stamped:
            self._note(f'{topic}: the header stamps are 0, the driver sets no stamps; the times '
                       'of recording are taken for them')
        for received_ns, message in chain(first, messages):
            yield stamp_ns(message) if is_stamped else received_ns, message

    def first(self, topic: str) -> Any | None:
        """The first message of a topic; None without one."""
        return next((message for _, message in self._messages(topic)), None)

    def poses(self, topic: str) -> list[tuple[int, Pose]]:
        """Header stamp in ns and pose, in the order of recording; invalid poses are left out."""
        poses = []
        for ns, message in self.stamped(topic):
            try:
                poses.append((ns, pose_of(message)))
            except PoseError as error:
                self._skip('bad odometry pose', f'{topic} at {ns} ns: {error}')
        return poses

    def raw(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """The stored messages of topics, in the order of recording."""
        streams = [self._stream(part, topic) for part in self._parts for topic in topics]
        came: Counter[str] = Counter()
        for message in heapq.merge(*streams, key=lambda message: message.received_ns):
            if message.type:
                came[message.topic] += 1
                yield message
        for topic in self.topics():
            missing = topic.count - came[topic.name]
            if topic.name in topics and missing > 0:
                self.skipped['missing message'] += missing
                self._note(f'{self.path} lists {topic.count} messages of {topic.name}, of which '
                           f'{missing} are missing')

    # ---- what is wrong with it -----------------------------------------------------------------

    def _note(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)
            logger.warning('%s', fault)

    def _skip(self, kind: str, details: str) -> None:
        self.skipped[kind] += 1
        logger.warning('%s: %s', kind, details)

    # ---- messages ------------------------------------------------------------------------------

    def _count(self) -> Counts:
        counts: Counts = Counter()
        for each in self.connections():
            counts[each.topic, each.msgtype] += each.msgcount
        return counts

    def _stream(self, part: Part, topic: str) -> Iterator[RawMessage]:
        """The messages of a topic in one file; before them one without a type.

        That one has the time at which the file begins: so a file is not read before its time.
        """
        count = 0
        yield RawMessage(part.start_ns, topic, '', b'')
        try:
            for message in part.messages(topic):
                yield message
                count += 1
        except Exception as error:  # a parser may raise anything on foreign bytes
            self._damaged.append(damage(part.file, f'is damaged after {count} messages of '
                                                   f'{topic}: {reason(error)}'))
            self._note(self._damaged[-1])

    def _messages(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Time of recording in ns and message."""
        for received_ns, _, kind, data in self.raw([topic]):
            try:
                message = _TYPES.deserialize_cdr(data, kind)
            except Exception as error:  # as in _stream
                self._skip('unreadable message', f'{topic} at {received_ns} ns: {reason(error)}')
                continue
            yield received_ns, message
