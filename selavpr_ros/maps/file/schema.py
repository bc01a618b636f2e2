"""What a map file holds: its tables, their versions, and what it says of itself."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from selavpr_ros import __version__

CREATOR = f'selavpr_ros {__version__}'
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
# However a keyframe is deleted, a shared map that has it, or may have it, has to forget it, too.
TRIGGER = """
CREATE TRIGGER recall BEFORE DELETE ON keyframes
WHEN EXISTS (SELECT 1 FROM manifest WHERE name = 'shared_uuid') BEGIN
    INSERT OR REPLACE INTO recalled
    SELECT robot_id, session_id, OLD.keyframe_id FROM sessions WHERE number = OLD.session;
END
"""
# Checked whenever a map is opened. LARGE_TABLES may be gigabytes: their pages are checked when
# they are read.
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


def new_manifest(model_id: str, codec: str) -> Manifest:
    """The manifest of a map that begins now."""
    return Manifest(uuid.uuid4().hex, model_id, codec, CREATOR, time.time_ns())
