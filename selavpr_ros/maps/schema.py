"""What a map file holds: its tables, their rows, and the questions asked of them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose, Session
from selavpr_ros.pose import Pose

CREATOR = 'selavpr_ros 0.1.0'
APPLICATION_ID = 0x5650524D  # 'VPRM' in the file's header
VERSION = 1
# SQL that brings a file from version n to n + 1, in the order of n.
MIGRATIONS: tuple[str, ...] = ()

SCHEMA = """
CREATE TABLE manifest (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    robot_id INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    label TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    frame TEXT NOT NULL,
    model_id TEXT NOT NULL,
    origin TEXT NOT NULL,
    UNIQUE (robot_id, session_id)
);
CREATE TABLE keyframes (
    number INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (number),
    keyframe_id INTEGER NOT NULL,
    stamp_ns INTEGER NOT NULL,
    travelled_m REAL NOT NULL,
    pose BLOB,
    covariance BLOB,
    external_key TEXT,
    descriptor BLOB NOT NULL,
    UNIQUE (session, keyframe_id)
);
CREATE TABLE map_poses (
    keyframe INTEGER PRIMARY KEY REFERENCES keyframes (number) ON DELETE CASCADE,
    frame TEXT NOT NULL,
    pose BLOB NOT NULL
);
CREATE TABLE local_features (
    keyframe INTEGER PRIMARY KEY REFERENCES keyframes (number) ON DELETE CASCADE,
    count INTEGER NOT NULL,
    dim INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE thumbnails (
    keyframe INTEGER PRIMARY KEY REFERENCES keyframes (number) ON DELETE CASCADE,
    jpeg BLOB NOT NULL
);
CREATE TABLE search_graph (number INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE delivered (
    keyframe INTEGER PRIMARY KEY REFERENCES keyframes (number) ON DELETE CASCADE,
    frame TEXT,
    pose BLOB
);
CREATE TABLE recalled (
    robot_id INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    keyframe_id INTEGER NOT NULL,
    PRIMARY KEY (robot_id, session_id, keyframe_id)
) WITHOUT ROWID;
"""
# Whatever forgets a keyframe that a shared map has, or may have: that has to forget it, too.
TRIGGER = """
CREATE TRIGGER recall BEFORE DELETE ON keyframes
WHEN EXISTS (SELECT 1 FROM manifest WHERE name = 'shared_uuid') BEGIN
    INSERT OR REPLACE INTO recalled
    SELECT robot_id, session_id, OLD.keyframe_id FROM sessions WHERE number = OLD.session;
END
"""
# Checked whenever a map is opened. The two that are not here are gigabytes: their pages are
# checked when they are read.
SMALL_TABLES = (
    'sqlite_master', 'manifest', 'sessions', 'keyframes', 'map_poses', 'delivered', 'recalled')
LARGE_TABLES = ('local_features', 'thumbnails')


@dataclass(frozen=True)
class Manifest:
    """What a map holds.

    Attributes:
        uuid: of the map; a copy has the same.
        model_id: of the descriptors: weights and preprocessing, see `VprModel.model_id`.
        codec: of the local features, see `local_codec`.
        creator: program and version.
        created_ns: by the clock of that computer.
    """

    uuid: str
    model_id: str
    codec: str
    creator: str
    created_ns: int


@dataclass(frozen=True)
class SessionSummary:
    """How much of a session is in a map.

    Attributes:
        session: see there.
        keyframes: how many; 0 where all of them were forgotten.
        last_ns: stamp of the last keyframe.
        with_pose: how many have a pose in the odometry frame.
        with_map_pose: how many have one of the back-end.
    """

    session: Session
    keyframes: int
    last_ns: int
    with_pose: int
    with_map_pose: int


def new_manifest(model_id: str, codec: str) -> Manifest:
    """The manifest of a map that begins now."""
    return Manifest(uuid.uuid4().hex, model_id, codec, CREATOR, time.time_ns())


def numbers(array: np.ndarray | None, dtype: str = '<f8') -> bytes | None:
    """An array as a map file keeps it."""
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
DESCRIPTOR = 7  # its place in a row of these:
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
