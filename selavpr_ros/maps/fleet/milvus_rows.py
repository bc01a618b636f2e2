"""Keyframes <-> rows of Milvus, and conditions on rows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.keyframe import (
    Hint,
    Keyframe,
    KeyframeId,
    MapPose,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import EncodedFeatures, from_bytes
from selavpr_ros.pose import Pose

T = TypeVar('T')

# Milvus has no type for bytes: base64 in strings, each of which has at most 65 535 bytes. A
# multiple of 4 keeps every string whole base64. Other ways are larger (numbers) or slower.
PART_BYTES = 65532
# Size of a request that a link of a megabit a second carries in time.
REQUEST_BYTES = 2_000_000

POSE = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')
MAP_POSE = tuple(f'map_{name}' for name in POSE)
# Milvus wants a vector in every row.
NO_VECTOR = [0.0, 0.0]

# ---- rows --------------------------------------------------------------------------------------


def _pose_values(pose: Pose | None) -> list[float] | list[None]:
    """The 7 columns of a pose."""
    return [None] * 7 if pose is None else [*pose.translation_m.tolist(), *pose.rotation.tolist()]


def _pose(row: Mapping[str, Any], columns: Sequence[str]) -> Pose | None:
    """The pose in 7 columns, which may all be empty."""
    values = [row[name] for name in columns]
    return None if values[0] is None else Pose(np.array(values[:3]), np.array(values[3:]))


def map_pose_columns(map_pose: MapPose | None) -> dict[str, Any]:
    """The columns of the back-end's pose."""
    values = _pose_values(map_pose.pose if map_pose else None)
    return {'map_frame': map_pose.frame if map_pose else None,
            **dict(zip(MAP_POSE, values, strict=True))}


def keyframe_row(keyframe: Keyframe) -> dict[str, Any]:
    """The row of a keyframe."""
    return {'key': str(keyframe.id), 'robot_id': keyframe.id.robot_id,
            'session_id': keyframe.id.session_id, 'keyframe_id': keyframe.id.keyframe_id,
            'stamp_ns': keyframe.stamp_ns, 'travelled_m': keyframe.travelled_m,
            'has_local': keyframe.has_local,
            **dict(zip(POSE, _pose_values(keyframe.pose), strict=True)),
            **map_pose_columns(keyframe.map_pose), 'descriptor': keyframe.global_descriptor}


def keyframe_of(row: Mapping[str, Any]) -> Keyframe:
    """The keyframe of a row."""
    map_pose = _pose(row, MAP_POSE)
    return Keyframe(
        KeyframeId(row['session_id'], row['keyframe_id'], row['robot_id']), row['stamp_ns'],
        np.array(row['descriptor'], np.float32), _pose(row, POSE), row['travelled_m'],
        MapPose(row['map_frame'], map_pose) if map_pose else None, row['has_local'])


def local_row(key: str, local: EncodedFeatures) -> dict[str, Any]:
    """The row of local features."""
    text = base64.b64encode(local.data.tobytes()).decode('ascii')
    parts = [text[start:start + PART_BYTES] for start in range(0, len(text), PART_BYTES)]
    return {'key': key, 'count': len(local), 'dim': local.dim, 'data': parts,
            'descriptor': NO_VECTOR}


def local_of(row: Mapping[str, Any], codec: str) -> EncodedFeatures:
    """The local features of a row; MapError if they are damaged."""
    try:
        content = base64.b64decode(''.join(row['data']))
        return from_bytes(codec, row['count'], row['dim'], content)
    except ValueError as error:
        raise MapError(f"the shared map's local features of keyframe {row['key']} are damaged "
                       f'({error})') from error


def session_row(session: Session) -> dict[str, Any]:
    """The row of a session."""
    return {'key': str(session.id), 'robot_id': session.id.robot_id,
            'session_id': session.id.session_id, 'label': session.label,
            'started_ns': session.started_ns, 'frame': session.frame,
            'model_id': session.model_id, 'origin': session.origin, 'descriptor': NO_VECTOR}


def session_of(row: Mapping[str, Any]) -> Session:
    """The session of a row."""
    return Session(
        SessionId(row['session_id'], row['robot_id']), row['label'], row['started_ns'],
        row['frame'], row['model_id'], row['origin'])


def _row_bytes(row: Mapping[str, Any]) -> int:
    """Approximate bytes of a row."""
    return sum(map(len, row.get('data', ()))) + 4 * len(row['descriptor'])


def batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in batches of at most REQUEST_BYTES, or of one larger row."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if batch and size + _row_bytes(row) > REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += _row_bytes(row)
    if batch:
        yield batch


def slices(keys: Sequence[T], size: int) -> Iterator[list[T]]:
    """Keys in lists of at most `size`."""
    return (list(keys[start:start + size]) for start in range(0, len(keys), size))


# ---- filters -----------------------------------------------------------------------------------


def excluding(sessions: Iterable[SessionId]) -> list[str]:
    """Conditions of the rows that are in none of the sessions."""
    by_robot: dict[int, list[int]] = {}
    for session in sorted(set(sessions)):
        by_robot.setdefault(session.robot_id, []).append(session.session_id)
    return [f'not (robot_id == {robot} and session_id in {ids})'
            for robot, ids in by_robot.items()]


def _around(hint: Hint, columns: Sequence[str]) -> str:
    """Condition of the rows whose position is in the box around a hint's circle."""
    return ' and '.join(
        f'{column} >= {centre - hint.radius_m} and {column} <= {centre + hint.radius_m}'
        for column, centre in zip(columns[:3], hint.position_m.tolist(), strict=True))


def near(hint: Hint) -> str:
    """Condition of the rows whose `Keyframe.place` is in the box around a hint's circle."""
    return (f'(({_around(hint, MAP_POSE)}) or '
            f'({MAP_POSE[0]} is null and {_around(hint, POSE)}))')
