"""What a shared map still has to be told of a map file; as durable as the file itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose
from selavpr_ros.maps.map_file import MapFile
from selavpr_ros.maps.schema import ONE_KEYFRAME, key_of, pose_bytes, pose_of

_NEW = (
    'SELECT keyframes.number, session_id, keyframe_id, robot_id FROM keyframes '
    'JOIN sessions ON sessions.number = session WHERE keyframes.number > ? '
    'AND keyframes.number NOT IN (SELECT keyframe FROM delivered) '
    'ORDER BY keyframes.number LIMIT ?')
_MOVED = (
    'SELECT session_id, keyframe_id, robot_id, map_poses.frame, map_poses.pose FROM delivered '
    'JOIN map_poses ON map_poses.keyframe = delivered.keyframe '
    'JOIN keyframes ON keyframes.number = delivered.keyframe '
    'JOIN sessions ON sessions.number = keyframes.session '
    'WHERE map_poses.frame IS NOT delivered.frame OR map_poses.pose IS NOT delivered.pose '
    'ORDER BY delivered.keyframe LIMIT ?')


class Deliveries:
    """Which keyframes, poses and removals of a map file were acknowledged by a shared map.

    The table `delivered` says what the shared map has: the keyframe, and the pose of the
    back-end that went with it. So nothing has to be noted when something changes, and nothing is
    forgotten by a crash; what was delivered but not marked is delivered again. The table
    `recalled` names what is forgotten here, delivered or not: an answer may have been lost.

    Args:
        file: of the robot's own map.
        shared_uuid: of the shared map; the marks of another one are taken back.
    """

    def __init__(self, file: MapFile, shared_uuid: str) -> None:
        self._file = file
        known = file.select("SELECT value FROM manifest WHERE name = 'shared_uuid'")
        if known != [(shared_uuid,)]:
            with file.writing():
                file.execute('DELETE FROM delivered')
                file.execute('DELETE FROM recalled')
                file.execute("INSERT OR REPLACE INTO manifest VALUES ('shared_uuid', ?)",
                             (shared_uuid,))

    def new(self, limit: int, after: int = 0) -> dict[int, KeyframeId]:
        """Keyframes that the shared map does not have, the oldest first.

        Args:
            limit: at most so many.
            after: only those with a higher number in the file.

        Returns:
            their ids by their numbers in the file.
        """
        if not count_undelivered(self._file):  # which is known without looking at all of them
            return {}
        return {number: KeyframeId(*key)
                for number, *key in self._file.select(_NEW, (after, limit))}

    def moved(self, limit: int) -> dict[KeyframeId, MapPose]:
        """Poses of the back-end that the shared map does not have."""
        found = {}
        for *key, frame, content in self._file.select(_MOVED, (limit,)):
            pose = pose_of(content)
            assert pose
            found[KeyframeId(*key)] = MapPose(frame, pose)
        return found

    def recalled(self, limit: int) -> list[KeyframeId]:
        """Keyframes that the shared map has, and that are forgotten here."""
        return [KeyframeId(*row) for row in self._file.select(
            'SELECT session_id, keyframe_id, robot_id FROM recalled LIMIT ?', (limit,))]

    def mark_new(self, keyframes: Iterable[Keyframe]) -> None:
        """The shared map has these keyframes."""
        with self._file.writing():
            for keyframe in keyframes:
                self._mark(keyframe.id, keyframe.map_pose)

    def mark_moved(self, poses: Iterable[tuple[KeyframeId, MapPose]]) -> None:
        """The shared map has these poses."""
        with self._file.writing():
            for keyframe_id, pose in poses:
                self._mark(keyframe_id, pose)

    def _mark(self, keyframe_id: KeyframeId, pose: MapPose | None) -> None:
        values = (pose.frame, pose_bytes(pose.pose)) if pose else (None, None)
        self._file.execute(
            f'INSERT OR REPLACE INTO delivered SELECT number, ?, ? {ONE_KEYFRAME}',
            (*values, *key_of(keyframe_id)))

    def mark_recalled(self, ids: Iterable[KeyframeId]) -> None:
        """The shared map has forgotten these keyframes."""
        with self._file.writing():
            _take_back(self._file, ids)


def _take_back(file: MapFile, recalled: Iterable[KeyframeId]) -> None:
    for keyframe_id in recalled:
        file.execute('DELETE FROM recalled WHERE robot_id = ? AND session_id = ? '
                     'AND keyframe_id = ?', key_of(keyframe_id))


def count_undelivered(file: MapFile) -> int:
    """How many keyframes no shared map has acknowledged."""
    (count,), = file.select(
        'SELECT (SELECT count(*) FROM keyframes) - (SELECT count(*) FROM delivered)')
    return int(count)


def forget_here(file: MapFile, ids: Sequence[KeyframeId]) -> list[KeyframeId]:
    """Forget keyframes in the file, and leave them in the shared map.

    Returns:
        Those that went; the others are nowhere else yet, and stay.
    """
    with file.writing():
        delivered = [keyframe_id for keyframe_id in ids if file.execute(
            f'DELETE FROM delivered WHERE keyframe IN (SELECT number {ONE_KEYFRAME})',
            key_of(keyframe_id)).rowcount]
        if delivered:
            file.forget(delivered)
            _take_back(file, delivered)
    return delivered
