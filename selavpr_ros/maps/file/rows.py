"""Rows of a map file: keyframes as rows, and rows as keyframes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from selavpr_ros.errors import MapError, PoseError
from selavpr_ros.maps.file.database import Database
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose, NewKeyframe, Session
from selavpr_ros.pose import Pose


def numbers(array: np.ndarray | None, dtype: str = '<f8') -> bytes | None:
    """Bytes of an array as a map file keeps it; None without."""
    return None if array is None else np.ascontiguousarray(array, dtype).tobytes()


def pose_bytes(pose: Pose | None) -> bytes | None:
    """Seven float64: translation, then quaternion (x, y, z, w)."""
    return None if pose is None else numbers(np.concatenate([pose.translation_m, pose.rotation]))


def pose_of(content: bytes | None) -> Pose | None:
    """The pose that `pose_bytes` made; PoseError or ValueError if it is none."""
    if content is None:
        return None
    found = np.frombuffer(content, '<f8')
    return Pose(found[:3], found[3:])


def keyframe_of(row: tuple[Any, ...], dim: int) -> Keyframe:
    """A keyframe of a row of KEYFRAMES; PoseError, TypeError or ValueError if it is none."""
    _, *key, stamp_ns, travelled_m, pose, descriptor, frame, moved, has_local = row
    map_pose = pose_of(moved)
    return Keyframe(
        KeyframeId(*map(int, key)), int(stamp_ns),
        np.frombuffer(descriptor, '<f4').reshape(dim), pose_of(pose), float(travelled_m),
        None if map_pose is None else MapPose(frame, map_pose), bool(has_local))


ONE_KEYFRAME = (
    'FROM keyframes WHERE session = (SELECT number FROM sessions WHERE robot_id = ? '
    'AND session_id = ?) AND keyframe_id = ?')
DESCRIPTOR = 7  # column of the descriptor in a row of KEYFRAMES
KEYFRAMES = (
    'SELECT keyframes.number, session_id, keyframe_id, robot_id, stamp_ns, travelled_m, '
    'keyframes.pose, descriptor, map_poses.frame, map_poses.pose, '
    'EXISTS (SELECT 1 FROM local_features WHERE keyframe = keyframes.number) FROM keyframes '
    'JOIN sessions ON sessions.number = keyframes.session '
    'LEFT JOIN map_poses ON map_poses.keyframe = keyframes.number '
    'WHERE keyframes.number > ? ORDER BY keyframes.number LIMIT ?')

SUMMARIES = (
    'SELECT session_id, robot_id, label, started_ns, sessions.frame, model_id, origin, '
    'count(keyframes.number), coalesce(max(stamp_ns), started_ns), count(keyframes.pose), '
    'count(map_poses.keyframe) FROM sessions '
    'LEFT JOIN keyframes ON keyframes.session = sessions.number '
    'LEFT JOIN map_poses ON map_poses.keyframe = keyframes.number '
    'GROUP BY sessions.number ORDER BY sessions.number')


def key_of(keyframe_id: KeyframeId) -> tuple[int, int, int]:
    """The values for ONE_KEYFRAME."""
    return keyframe_id.robot_id, keyframe_id.session_id, keyframe_id.keyframe_id


@contextmanager
def trusted(database: Database) -> Iterator[None]:
    """Report values that SQLite accepts, but that no map ever holds, as damage."""
    try:
        yield
    except (PoseError, TypeError, ValueError) as error:
        raise MapError(
            f'{database}: it is damaged ({error}): go back to a copy of it') from error


def _session_number(database: Database, session: Session) -> int:
    """Number of the session's row, which is written with its first keyframe."""
    key = (session.id.robot_id, session.id.session_id)
    found = database.execute(
        'SELECT number FROM sessions WHERE robot_id = ? AND session_id = ?', key).fetchone()
    if found:
        return int(found[0])
    origin = session.origin or f'{database.manifest.uuid}/{session.id}'
    return int(database.execute(
        'INSERT INTO sessions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)',
        (*key, session.label, session.started_ns, session.frame, session.model_id,
         origin)).lastrowid or 0)


def insert(database: Database, new: NewKeyframe) -> None:
    """Write the rows of a keyframe, and that of its session if it is the first one."""
    keyframe, execute = new.keyframe, database.execute
    number = execute(
        'INSERT INTO keyframes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)',
        (_session_number(database, new.session), keyframe.id.keyframe_id, keyframe.stamp_ns,
         keyframe.travelled_m, pose_bytes(keyframe.pose), numbers(new.covariance),
         str(new.external_key) if new.external_key else None,
         numbers(keyframe.global_descriptor, '<f4'))).lastrowid
    if keyframe.map_pose:
        execute('INSERT INTO map_poses VALUES (?, ?, ?)',
                (number, keyframe.map_pose.frame, pose_bytes(keyframe.map_pose.pose)))
    if new.local is not None:
        execute('INSERT INTO local_features VALUES (?, ?, ?, ?)',
                (number, len(new.local), new.local.dim, new.local.data.tobytes()))
    if new.thumbnail:
        execute('INSERT INTO thumbnails VALUES (?, ?)', (number, new.thumbnail))


def forget(database: Database, ids: Iterable[KeyframeId]) -> int:
    """Delete the rows of keyframes, inside of `writing`; returns how many there were."""
    database.execute('DELETE FROM search_graph')
    return sum(
        database.execute(
            f'DELETE FROM keyframes WHERE number IN (SELECT number {ONE_KEYFRAME})',
            key_of(keyframe_id)).rowcount
        for keyframe_id in ids)


def bytes_by_table(database: Database) -> dict[str, tuple[int, int]]:
    """Number of rows and bytes of content of each kind that makes a map large."""
    contents = {'descriptors': ('keyframes', 'descriptor'),
                'local features': ('local_features', 'data'),
                'thumbnails': ('thumbnails', 'jpeg')}
    return {
        name: database.select(
            f'SELECT count(*), coalesce(sum(length({column})), 0) FROM {table}')[0]
        for name, (table, column) in contents.items()}
