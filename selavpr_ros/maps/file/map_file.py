"""Keyframes <-> one durable SQLite file: what was added survives a power cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.copies import appearing, copy_to
from selavpr_ros.maps.file.database import Database
from selavpr_ros.maps.file.deliveries import Deliveries, count_undelivered, forget_delivered
from selavpr_ros.maps.file.errors import explained
from selavpr_ros.maps.file.rows import (
    DESCRIPTOR,
    KEYFRAMES,
    ONE_KEYFRAME,
    SUMMARIES,
    bytes_by_table,
    forget,
    insert,
    key_of,
    keyframe_of,
    pose_bytes,
    trusted,
)
from selavpr_ros.maps.file.schema import Manifest
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
    SessionSummary,
)
from selavpr_ros.maps.local_codec import EncodedFeatures, from_bytes

# Number of keyframes that are read in one query.
KEYFRAMES_AT_ONCE = 1000


class MapFile:
    """A map on disk. Keyframes are added in one transaction, and are durable when `add` returns.

    One program writes, any number may read meanwhile. Methods may be called from any thread.

    Args:
        path: of the file; its folder has to exist. None keeps the map in a temporary file that
            is gone when the map is closed.
        manifest: manifest of a new map, if there is none yet; None opens only an existing one.
        read_only: write nothing.

    Attributes:
        database: for questions in SQL.
        manifest: what the file says of itself.
        uuid, model_id, codec: the same as in the manifest.

    Raises:
        MapError: there is none, or it is damaged, of another program, of a newer version, or
            being written to.
    """

    def __init__(
        self, path: Path | None, manifest: Manifest | None = None, *, read_only: bool = False
    ) -> None:
        self.path, self.read_only = path, read_only
        self.database = Database(path, manifest, read_only)
        self.manifest = kept = self.database.manifest
        self.uuid, self.model_id, self.codec = kept.uuid, kept.model_id, kept.codec

    @property
    def name(self) -> str:
        """Path of the file, or 'the map'."""
        return str(self.database)

    def close(self) -> None:
        """Move the log into the file, and close the file."""
        self.database.close()

    def __enter__(self) -> MapFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- writing -------------------------------------------------------------------------------

    def add(self, added: Sequence[NewKeyframe]) -> None:
        """Keep keyframes, all or none; when this returns, they are on the disk.

        Raises:
            MapError: they cannot be written, or one of them is there already.
        """
        with self.database.writing():
            for new in added:
                insert(self.database, new)

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep the back-end's poses of keyframes; returns how many of the keyframes it has."""
        with self.database.writing():
            return sum(
                self.database.execute(
                    f'INSERT OR REPLACE INTO map_poses SELECT number, ?, ? {ONE_KEYFRAME}',
                    (pose.frame, pose_bytes(pose.pose), *key_of(keyframe_id))).rowcount
                for keyframe_id, pose in poses.items())

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        """Keep the back-end's keys of keyframes; returns how many of the keyframes it has."""
        with self.database.writing():
            return sum(
                self.database.execute(
                    'UPDATE keyframes SET external_key = ? WHERE number IN '
                    f'(SELECT number {ONE_KEYFRAME})', (str(key), *key_of(keyframe_id))).rowcount
                for keyframe_id, key in keys.items())

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes with all that belongs to them; returns how many there were."""
        with self.database.writing():
            return forget(self.database, ids)

    def forget_delivered(self, ids: Iterable[KeyframeId]) -> list[KeyframeId]:
        """Forget keyframes here, and leave them in the shared map.

        Returns:
            Those that were forgotten; the others are not in the shared map yet, and stay.
        """
        return forget_delivered(self.database, ids)

    def keep_graph(self, graph: bytes) -> None:
        """Keep `KeyframeIndex.graph_bytes()` of all keyframes, to make the next start faster."""
        with self.database.writing():
            self.database.execute('INSERT OR REPLACE INTO search_graph VALUES (1, ?)', (graph,))

    def keep_unrelated(self, text: str) -> None:
        """Keep what was learned of unrelated images, see `Unrelated.to_json`."""
        with self.database.writing():
            self.database.execute(
                "INSERT OR REPLACE INTO manifest VALUES ('unrelated', ?)", (text,))

    # ---- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.database.select('SELECT count(*) FROM keyframes')[0][0])

    def __bool__(self) -> bool:
        """True also for an empty map, which would be false otherwise because its length is 0."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes in use in the file, without the log."""
        pages, free, size = (self.database.select(f'PRAGMA {name}')[0][0] for name in (
            'page_count', 'freelist_count', 'page_size'))
        return int((pages - free) * size)

    def sessions(self) -> list[Session]:
        """All sessions, in the order in which they came."""
        rows = self.database.select(
            'SELECT session_id, robot_id, label, started_ns, frame, model_id, origin '
            'FROM sessions ORDER BY number')
        return [Session(SessionId(*row[:2]), *row[2:]) for row in rows]

    def snapshot(self) -> AbstractContextManager[None]:
        """All that is read inside is one state of the map, whatever is added meanwhile."""
        return self.database.snapshot()

    def summaries(self) -> list[SessionSummary]:
        """How much of each session there is, in the order in which they came."""
        rows = self.database.select(SUMMARIES)
        return [SessionSummary(Session(SessionId(*row[:2]), *row[2:7]), *row[7:]) for row in rows]

    def stamps(self, *, with_thumbnail: bool = False) -> Iterator[tuple[KeyframeId, int]]:
        """Ids and stamps in ns in the order in which they came, without all the rest.

        Args:
            with_thumbnail: only of keyframes that have one.
        """
        among = 'JOIN thumbnails ON keyframe = keyframes.number' if with_thumbnail else ''
        for *key, stamp_ns in self.database.select(
                'SELECT session_id, keyframe_id, robot_id, stamp_ns FROM keyframes JOIN '
                f'sessions ON sessions.number = session {among} ORDER BY keyframes.number'):
            yield KeyframeId(*key), stamp_ns

    def keyframes(self) -> Iterator[Keyframe]:
        """All keyframes, in the order in which they came.

        Raises:
            MapError: one of them cannot be read.
        """
        # Some at a time, because a half-read query would keep other threads out.
        number = dim = 0
        while rows := self.database.select(KEYFRAMES, (number, KEYFRAMES_AT_ONCE)):
            with trusted(self.database):
                dim = dim or len(np.frombuffer(rows[0][DESCRIPTOR], '<f4'))
                for row in rows:
                    yield keyframe_of(row, dim)
                number = rows[-1][0]

    def whole(self, ids: Sequence[KeyframeId]) -> list[NewKeyframe]:
        """Keyframes with all that belongs to them; those that are not there are left out.

        Raises:
            MapError: one of them cannot be read.
        """
        with self.database.mutex:  # one might be forgotten meanwhile
            sessions = {session.id: session for session in self.sessions()}
            return [self._whole(keyframe_id, number, sessions[keyframe_id.session])
                    for keyframe_id in ids for number, in self.database.select(
                        f'SELECT number {ONE_KEYFRAME}', key_of(keyframe_id))]

    def _whole(self, keyframe_id: KeyframeId, number: int, session: Session) -> NewKeyframe:
        row, = self.database.select(KEYFRAMES, (number - 1, 1))
        with trusted(self.database):
            keyframe = keyframe_of(row, len(np.frombuffer(row[DESCRIPTOR], '<f4')))
        return NewKeyframe(
            keyframe, session, self.local_features(keyframe_id), self.thumbnail(keyframe_id),
            *self.details(keyframe_id))

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """The local features of a keyframe; None where it has none.

        Raises:
            MapError: they cannot be read.
        """
        found = self.database.select(
            'SELECT count, dim, data FROM local_features '
            f'WHERE keyframe = (SELECT number {ONE_KEYFRAME})', key_of(keyframe_id))
        with trusted(self.database):
            return from_bytes(self.manifest.codec, *found[0]) if found else None

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""
        found = self.database.select(
            'SELECT jpeg FROM thumbnails '
            f'WHERE keyframe = (SELECT number {ONE_KEYFRAME})', key_of(keyframe_id))
        return bytes(found[0][0]) if found else b''

    def graph(self) -> bytes:
        """What `keep_graph` kept; empty without, or if it is damaged: it can be made again."""
        with suppress(MapError):
            found = self.database.select('SELECT data FROM search_graph')
            return bytes(found[0][0]) if found else b''
        return b''

    def unrelated(self) -> str:
        """What `keep_unrelated` kept; empty without."""
        found = self.database.select("SELECT value FROM manifest WHERE name = 'unrelated'")
        return str(found[0][0]) if found else ''

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of the pose, or None, and the back-end's key, or 0.

        Raises:
            MapError: they cannot be read, or there is no such keyframe.
        """
        found = self.database.select(
            f'SELECT covariance, external_key {ONE_KEYFRAME}', key_of(keyframe_id))
        if not found:
            raise MapError(f'{self.database}: there is no keyframe {keyframe_id}')
        covariance, key = found[0]
        with trusted(self.database):
            return (None if covariance is None else np.frombuffer(covariance, '<f8').reshape(36),
                    int(key or 0))

    def describe(self) -> dict[str, Any]:
        """Program and time of the file's creation, its bytes, and those of its contents."""
        size = self.path.stat().st_size + self.database.log_bytes if self.path else self.nbytes
        return {
            'creator': self.manifest.creator, 'created_ns': self.manifest.created_ns,
            'file_bytes': size,
            'contents': {name.replace(' ', '_'): {'count': count, 'bytes': nbytes}
                         for name, (count, nbytes) in bytes_by_table(self.database).items()}}

    # ---- deliveries ----------------------------------------------------------------------------

    def deliveries(self, shared_uuid: str) -> Deliveries:
        """What still has to be delivered to the shared map with this uuid."""
        return Deliveries(self.database, shared_uuid)

    @property
    def undelivered(self) -> int:
        """How many keyframes no shared map has acknowledged."""
        return count_undelivered(self.database)

    # ---- copies --------------------------------------------------------------------------------

    def save_to(
        self, target: Path, *, overwrite: bool = False, without: Iterable[str] = ()
    ) -> int:
        """Write a copy while the map goes on growing; it appears when it is complete.

        Args:
            target: of the copy.
            overwrite: replace what is there.
            without: LARGE_TABLES that the copy leaves out.

        Returns:
            Bytes of the copy.

        Raises:
            MapError: the target exists, or cannot be written; then it is as it was.
        """
        with explained(target):
            is_itself = overwrite and self.path and target.exists() and target.samefile(self.path)
        if is_itself:
            raise MapError(f'{target}: it is the open map itself, which is up to date')
        with appearing(target, overwrite=overwrite) as unnamed:
            copy_to(self.database, unnamed, without)
            return unnamed.stat().st_size
