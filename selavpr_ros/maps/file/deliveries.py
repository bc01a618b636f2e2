"""What of a map file still has to be delivered to a shared map; as durable as the file."""

from __future__ import annotations

from collections.abc import Iterable

from selavpr_ros.maps.file.database import Database
from selavpr_ros.maps.file.rows import ONE_KEYFRAME, forget, key_of, pose_bytes, pose_of, trusted
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose

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
    back-end that went with it. Changes therefore need no notes of their own, and a crash loses
    none; what was delivered but not marked is delivered again. The table `recalled` names what
    is forgotten here, delivered or not: an acknowledgement may have been lost.

    Args:
        database: database of the robot's own map.
        shared_uuid: uuid of the shared map; marks of another shared map are deleted.
    """

    def __init__(self, database: Database, shared_uuid: str) -> None:
        self._database = database
        known = database.select("SELECT value FROM manifest WHERE name = 'shared_uuid'")
        if known != [(shared_uuid,)]:
            with database.writing():
                database.execute('DELETE FROM delivered')
                database.execute('DELETE FROM recalled')
                database.execute("INSERT OR REPLACE INTO manifest VALUES ('shared_uuid', ?)",
                             (shared_uuid,))

    def new(self, limit: int, after: int = 0) -> dict[int, KeyframeId]:
        """Keyframes that the shared map does not have, the oldest first.

        Args:
            limit: number of keyframes at most.
            after: only those with a higher number in the file.

        Returns:
            their ids by their numbers in the file.
        """
        if not count_undelivered(self._database):  # cheaper than to look at all of them
            return {}
        return {number: KeyframeId(*key)
                for number, *key in self._database.select(_NEW, (after, limit))}

    def moved(self, limit: int) -> dict[KeyframeId, MapPose]:
        """Poses of the back-end that the shared map does not have.

        Raises:
            MapError: one of them cannot be read.
        """
        rows, found = self._database.select(_MOVED, (limit,)), {}
        with trusted(self._database):
            for *key, frame, content in rows:
                pose = pose_of(content)
                assert pose
                found[KeyframeId(*key)] = MapPose(frame, pose)
        return found

    def recalled(self, limit: int) -> list[KeyframeId]:
        """Keyframes that are forgotten here, and that the shared map may still have."""
        return [KeyframeId(*row) for row in self._database.select(
            'SELECT session_id, keyframe_id, robot_id FROM recalled LIMIT ?', (limit,))]

    def mark_new(self, keyframes: Iterable[Keyframe]) -> None:
        """Note that the shared map has these keyframes."""
        with self._database.writing():
            for keyframe in keyframes:
                self._mark(keyframe.id, keyframe.map_pose)

    def mark_moved(self, poses: Iterable[tuple[KeyframeId, MapPose]]) -> None:
        """Note that the shared map has these poses."""
        with self._database.writing():
            for keyframe_id, pose in poses:
                self._mark(keyframe_id, pose)

    def _mark(self, keyframe_id: KeyframeId, pose: MapPose | None) -> None:
        values = (pose.frame, pose_bytes(pose.pose)) if pose else (None, None)
        self._database.execute(
            f'INSERT OR REPLACE INTO delivered SELECT number, ?, ? {ONE_KEYFRAME}',
            (*values, *key_of(keyframe_id)))

    def mark_recalled(self, ids: Iterable[KeyframeId]) -> None:
        """Note that the shared map has forgotten these keyframes."""
        with self._database.writing():
            take_back(self._database, ids)


def take_back(database: Database, recalled: Iterable[KeyframeId]) -> None:
    """Cancel the recall of keyframes, inside of `writing`."""
    for keyframe_id in recalled:
        database.execute('DELETE FROM recalled WHERE robot_id = ? AND session_id = ? '
                     'AND keyframe_id = ?', key_of(keyframe_id))


def count_undelivered(database: Database) -> int:
    """How many keyframes no shared map has acknowledged."""
    (count,), = database.select(
        'SELECT (SELECT count(*) FROM keyframes) - (SELECT count(*) FROM delivered)')
    return int(count)


def forget_delivered(database: Database, ids: Iterable[KeyframeId]) -> list[KeyframeId]:
    """See `MapFile.forget_delivered`."""
    with database.writing():
        delivered = [keyframe_id for keyframe_id in ids if database.execute(
            f'DELETE FROM delivered WHERE keyframe IN (SELECT number {ONE_KEYFRAME})',
            key_of(keyframe_id)).rowcount]
        if delivered:
            forget(database, delivered)
            take_back(database, delivered)
    return delivered
