"""Keyframes <-> one durable SQLite file: what was added survives a power cut."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from selavpr_ros.errors import MapError, PoseError
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import CODECS, EncodedFeatures, from_bytes
from selavpr_ros.maps.schema import (
    APPLICATION_ID,
    DESCRIPTOR,
    KEYFRAMES,
    LARGE_TABLES,
    MIGRATIONS,
    ONE_KEYFRAME,
    SCHEMA,
    SMALL_TABLES,
    SUMMARIES,
    TRIGGER,
    VERSION,
    Manifest,
    SessionSummary,
    key_of,
    keyframe_of,
    numbers,
    pose_bytes,
)

BUSY_S = 5.0
# Of the write-ahead log, which is emptied whenever nobody reads an older state.
MAX_LOG_BYTES = 64 << 20
# Three keyframes of 1024 numbers lie in a page, none across two: a disk then reads them in order,
# ten times as fast as with SQLite's 4096.
PAGE_BYTES = 16384
READ_AHEAD_FROM = 1 << 20
# A copy lets the writer in after so many pages.
PAGES_AT_ONCE = 2000
# So many are read in one go.
KEYFRAMES_AT_ONCE = 1000


# ---- errors that say what to do ----------------------------------------------------------------

_ADVICE = (
    ('disk is full', 'the disk is full: make room'),
    ('no space', 'the disk is full: make room'),
    ('readonly', 'it cannot be written: check its permissions, or open it read-only'),
    ('read-only', 'it cannot be written: check its permissions, or open it read-only'),
    ('permission', 'check its permissions and those of its folder, or open it read-only'),
    ('unable to open', 'it cannot be opened: check that the folder exists and can be written'),
    ('not a database', 'it is a file of another program, or its beginning is lost'),
    ('malformed', 'it is damaged: go back to a copy of it'),
    ('decode', 'it is damaged: go back to a copy of it'),
    ('locked', 'another program keeps it locked'),
    ('unique', 'a keyframe of this id is in it already'),
    ('disk i/o', 'the disk failed, or a quota is used up: check both'),
)


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """Turn what SQLite and the file system say into a MapError with advice."""
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
        words = str(error).lower()
        advice = next((advice for word, advice in _ADVICE if word in words), '')
        raise MapError(f'{path or "the map"}: {advice or "it failed"} ({error})') from error


# ---- one writer --------------------------------------------------------------------------------


class _WriterLock:
    """One program writes a map: an advisory lock on a file beside it, which ends with the program.

    Not on the map itself: to close it would end the locks that SQLite has on it.
    """

    def __init__(self, path: Path) -> None:
        real = path.resolve()  # whichever link leads to it
        self._path = real.with_name(f'{real.name}.lock')
        self._file = self._path.open('a')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before may have removed the file in the meantime.
            if os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino:
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            self._file.close()
            raise MapError(f'{path}: another node or program writes to this map: end it, or open '
                           'the map read-only') from None

    def release(self) -> None:
        with suppress(OSError):  # it may stay behind; a lock it is no more
            self._path.unlink()
        self._file.close()


# ---- the file ----------------------------------------------------------------------------------


class MapFile:
    """A map on disk. To add keyframes is one transaction; when `add` returns, they are durable.

    SQLite with a write-ahead log and `synchronous = FULL`. One program writes, any number may
    read meanwhile. Methods may be called from any thread.

    Args:
        path: of the file; its folder has to exist. None keeps the map in a temporary file that
            is gone when the map is closed.
        manifest: of the new map, where there is none yet; None opens only what is there.
        read_only: write nothing.

    Raises:
        MapError: there is none, or it is damaged, of another program, of a newer version, or
            being written to.
    """

    def __init__(
        self, path: Path | None, manifest: Manifest | None = None, *, read_only: bool = False
    ) -> None:
        self.path, self.read_only = path, read_only
        self._mutex = threading.RLock()
        self._lock: _WriterLock | None = None
        self._connection: sqlite3.Connection | None = None
        try:
            with _explained(path):
                self._require_place(manifest)
                if path and not read_only:
                    self._lock = _WriterLock(path)
                self._connection = self._connect()
                self._opened = self._inode()
                self._prepare(manifest)
                self.manifest = self._read_manifest()
                if path and not read_only:
                    self.execute('PRAGMA journal_mode = WAL')
        except BaseException:
            self.close()
            raise

    def _require_place(self, manifest: Manifest | None) -> None:
        path, is_new = self.path, manifest is not None and not self.read_only
        if path is None:
            if not is_new:
                raise MapError('a temporary map is new and empty: name the file that is to be '
                               'read')
            return
        if not path.parent.is_dir():
            raise MapError(f'{path}: there is no folder {path.parent}: make it first')
        if path.is_dir():
            raise MapError(f'{path}: it is a folder: name a file in it, e.g. {path}/office.vprmap')
        if path.exists():
            self._require_rights(path)
        elif not is_new:
            raise MapError(f'{path}: there is no such map')

    def _require_rights(self, path: Path) -> None:
        """Refuse what SQLite takes, but should not."""
        # It would open it for reading, and fail with the first keyframe.
        if not self.read_only and not os.access(path, os.W_OK):
            raise MapError(f'{path}: it cannot be written: check its permissions, or open it '
                           'read-only')
        # It takes a file of one byte for an empty one, and writes over it.
        if path.stat().st_size == 1:
            raise MapError(f'{path}: it is a file of another program')

    def _connect(self) -> sqlite3.Connection:
        # SQLite deletes a database without a name itself, even after kill -9.
        connection = sqlite3.connect(
            self._address() if self.path else '', uri=bool(self.path), timeout=BUSY_S,
            isolation_level=None, check_same_thread=False)
        connection.execute('PRAGMA foreign_keys = ON')
        if self.path and not self.read_only:
            connection.execute('PRAGMA synchronous = FULL')
            connection.execute(f'PRAGMA page_size = {PAGE_BYTES}')  # of what is not there yet
            connection.execute(f'PRAGMA journal_size_limit = {MAX_LOG_BYTES}')
        return connection

    def _address(self) -> str:
        assert self.path
        real = self.path.resolve()
        mode = 'mode=ro' if self.read_only else 'mode=rwc'
        # Even a reader makes files for the log; where it cannot, nobody writes either.
        if self.read_only and not os.access(real.parent, os.W_OK) and not self._log_bytes():
            mode = 'immutable=1'
        return f'file:{quote(os.fsencode(real))}?{mode}'

    def _log_bytes(self) -> int:
        log = Path(f'{self.path.resolve()}-wal') if self.path else None
        return log.stat().st_size if log and log.exists() else 0

    def _inode(self) -> tuple[int, int] | None:
        """Which file has the map's name now."""
        if self.path is None or not self.path.exists():
            return None
        found = self.path.stat()
        return found.st_dev, found.st_ino

    @property
    def codec(self) -> str:
        """How the map keeps local features."""
        return self.manifest.codec

    def close(self) -> None:
        """Move the log into the file, and let go of it."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection:
                connection.close()
            lock, self._lock = self._lock, None
            if lock:
                lock.release()

    def __enter__(self) -> MapFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- opening -------------------------------------------------------------------------------

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement of SQL inside `writing`."""
        if self._connection is None:
            raise MapError(f'{self.path or "the map"}: it is closed')
        return self._connection.execute(statement, values)

    def _pragma(self, name: str) -> Any:
        return self.execute(f'PRAGMA {name}').fetchone()[0]

    def _prepare(self, manifest: Manifest | None) -> None:
        """Create what is new, refuse what is foreign or damaged, update what is old."""
        if manifest and not self.read_only and self._is_empty():
            self._create(manifest)
            return
        if self.path and self._pragma('page_count') == 0:
            raise MapError(f'{self.path}: it is empty: its creation was interrupted; delete it')
        if self._pragma('application_id') != APPLICATION_ID:
            raise MapError(f'{self.path}: it is a file of another program')
        version = self._pragma('user_version')
        if version > VERSION:
            raise MapError(f'{self.path}: it is of map version {version}, but this program knows '
                           f'{VERSION}: update selavpr_ros')
        if version < 1:
            raise MapError(f'{self.path}: of map version {version}, which never was: it is '
                           'damaged, go back to a copy of it')
        self._check()
        if version < VERSION:
            self._migrate(version)

    def _is_empty(self) -> bool:
        """A new file, or one whose creation was interrupted."""
        tables = self.execute('SELECT count(*) FROM sqlite_master').fetchone()[0]
        return tables == 0 and self._pragma('application_id') in (0, APPLICATION_ID)

    def _create(self, manifest: Manifest) -> None:
        with self._transaction():
            for statement in (*SCHEMA.split(';'), TRIGGER):
                self.execute(statement)
            for name, value in asdict(manifest).items():
                self.execute('INSERT INTO manifest VALUES (?, ?)', (name, json.dumps(value)))
            self.execute(f'PRAGMA application_id = {APPLICATION_ID}')
            self.execute(f'PRAGMA user_version = {VERSION}')
        if self.path:
            _sync(self.path.parent)  # the name, too

    def _check(self) -> None:
        """Refuse a file that was cut off or damaged; seconds for gigabytes."""
        wanted = self._pragma('page_count') * self._pragma('page_size')
        size = self.path.stat().st_size if self.path else wanted
        if size < wanted and not self._log_bytes():
            raise MapError(f'{self.path}: it is cut off, {size} of {wanted} bytes: go back to a '
                           'copy of it')
        self._read_ahead(size)
        for table in SMALL_TABLES:
            said = str(self._pragma(f'integrity_check({table})'))
            if said != 'ok':
                raise MapError(f'{self.path}: it is damaged ({said.splitlines()[-1]}): go back '
                               'to a copy of it')

    def _read_ahead(self, size: int) -> None:
        """Read the file from begin to end, where the checks look at most of it.

        They do so in an order of their own, in which a disk takes three times as long.
        """
        count, nbytes = self.execute(
            'SELECT max(number), length(descriptor) FROM keyframes').fetchone()
        if self.path and count and 2 * count * nbytes > size > READ_AHEAD_FROM:
            with self.path.open('rb', buffering=0) as file:
                while file.read(READ_AHEAD_FROM):
                    pass

    def _migrate(self, version: int) -> None:
        if self.read_only:
            raise MapError(f'{self.path}: it is of map version {version}, this program reads '
                           f'{VERSION}: open it once for writing, which updates it')
        with self._transaction():
            for statements in MIGRATIONS[version - 1 :]:
                for statement in statements.split(';'):
                    self.execute(statement)
            self.execute(f'PRAGMA user_version = {VERSION}')

    def _read_manifest(self) -> Manifest:
        found = dict(self.execute('SELECT name, value FROM manifest').fetchall())
        try:
            manifest = Manifest(
                **{name: json.loads(found[name]) for name in Manifest.__annotations__})
            words = (manifest.uuid, manifest.model_id, manifest.creator)
            if not (all(isinstance(word, str) for word in words) and manifest.codec in CODECS
                    and isinstance(manifest.created_ns, int)):
                raise ValueError(manifest)
        except (KeyError, ValueError) as error:
            raise MapError(f'{self.path}: its manifest is damaged ({error}): go back to a copy '
                           'of it') from error
        return manifest

    # ---- writing -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.execute('BEGIN IMMEDIATE')
        try:
            yield
            self.execute('COMMIT')
        except BaseException:
            # A full disk has ended it already.
            if self._connection and self._connection.in_transaction:
                self.execute('ROLLBACK')
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: what is written inside is durable after it, or not there at all."""
        if self.read_only:
            raise MapError(f'{self.path}: it was opened read-only')
        with self._mutex, _explained(self.path), self._transaction():
            # What goes into a file that has lost its name is lost with the program.
            if self._inode() != self._opened:
                raise MapError(f'{self.path}: it was moved, deleted or replaced while it was '
                               'open: save a copy under another name and open that')
            yield

    def add(self, added: Sequence[NewKeyframe]) -> None:
        """Keep keyframes, all or none; when this returns, they are on the disk.

        Raises:
            MapError: they cannot be written, or one of them is there already.
        """
        with self.writing():
            for new in added:
                self._insert(new)

    def _insert(self, new: NewKeyframe) -> None:
        keyframe = new.keyframe
        number = self.execute(
            'INSERT INTO keyframes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)',
            (self._session_number(new.session), keyframe.id.keyframe_id, keyframe.stamp_ns,
             keyframe.travelled_m, pose_bytes(keyframe.pose), numbers(new.covariance),
             str(new.external_key) if new.external_key else None,
             numbers(keyframe.global_descriptor, '<f4'))).lastrowid
        if keyframe.map_pose:
            self.execute('INSERT INTO map_poses VALUES (?, ?, ?)',
                          (number, keyframe.map_pose.frame, pose_bytes(keyframe.map_pose.pose)))
        if new.local is not None:
            self.execute('INSERT INTO local_features VALUES (?, ?, ?, ?)',
                          (number, len(new.local), new.local.dim, new.local.data.tobytes()))
        if new.thumbnail:
            self.execute('INSERT INTO thumbnails VALUES (?, ?)', (number, new.thumbnail))

    def _session_number(self, session: Session) -> int:
        """The session's row, which comes with its first keyframe."""
        key = (session.id.robot_id, session.id.session_id)
        found = self.execute(
            'SELECT number FROM sessions WHERE robot_id = ? AND session_id = ?', key).fetchone()
        if found:
            return int(found[0])
        origin = session.origin or f'{self.manifest.uuid}/{session.id}'
        return int(self.execute(
            'INSERT INTO sessions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)',
            (*key, session.label, session.started_ns, session.frame, session.model_id,
             origin)).lastrowid or 0)

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep what the back-end says of keyframes; returns how many of them there are."""
        with self.writing():
            return sum(
                self.execute(
                    f'INSERT OR REPLACE INTO map_poses SELECT number, ?, ? {ONE_KEYFRAME}',
                    (pose.frame, pose_bytes(pose.pose), *key_of(keyframe_id))).rowcount
                for keyframe_id, pose in poses.items())

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        """Keep the back-end's names of keyframes; returns how many of them there are."""
        with self.writing():
            return sum(
                self.execute(
                    'UPDATE keyframes SET external_key = ? WHERE number IN '
                    f'(SELECT number {ONE_KEYFRAME})', (str(key), *key_of(keyframe_id))).rowcount
                for keyframe_id, key in keys.items())

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes with all that belongs to them; returns how many there were."""
        with self.writing():
            return self.forget(ids)

    def forget(self, ids: Iterable[KeyframeId]) -> int:
        """What `remove` does inside of `writing`."""
        self.execute('DELETE FROM search_graph')
        return sum(
            self.execute(
                f'DELETE FROM keyframes WHERE number IN (SELECT number {ONE_KEYFRAME})',
                key_of(keyframe_id)).rowcount
            for keyframe_id in ids)

    def keep_graph(self, graph: bytes) -> None:
        """Keep `KeyframeIndex.graph_bytes()` of all keyframes, which saves the next start time."""
        with self.writing():
            self.execute('INSERT OR REPLACE INTO search_graph VALUES (1, ?)', (graph,))

    def keep_unrelated(self, text: str) -> None:
        """Keep what is known of unrelated images, see `Unrelated.to_json`."""
        with self.writing():
            self.execute("INSERT OR REPLACE INTO manifest VALUES ('unrelated', ?)", (text,))

    # ---- reading -------------------------------------------------------------------------------

    def select(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows that a query in SQL finds."""
        with self._mutex, _explained(self.path):
            return self.execute(query, values).fetchall()

    def __len__(self) -> int:
        return int(self.select('SELECT count(*) FROM keyframes')[0][0])

    def __bool__(self) -> bool:
        """True, of an empty map as well: without this, it would count as none."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of all that is in use, the log not counted."""
        pages, free, size = (self.select(f'PRAGMA {name}')[0][0] for name in (
            'page_count', 'freelist_count', 'page_size'))
        return int((pages - free) * size)

    def sessions(self) -> list[Session]:
        """All sessions, in the order in which they came."""
        rows = self.select(
            'SELECT session_id, robot_id, label, started_ns, frame, model_id, origin '
            'FROM sessions ORDER BY number')
        return [Session(SessionId(*row[:2]), *row[2:]) for row in rows]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is one state of the map, whatever is added meanwhile."""
        with self._mutex:
            self.execute('BEGIN')
            try:
                yield
            finally:
                self.execute('COMMIT')

    def summaries(self) -> list[SessionSummary]:
        """How much of each session there is, in the order in which they came."""
        rows = self.select(SUMMARIES)
        return [SessionSummary(Session(SessionId(*row[:2]), *row[2:7]), *row[7:]) for row in rows]

    def stamps(self, *, with_thumbnail: bool = False) -> Iterator[tuple[KeyframeId, int]]:
        """Ids and stamps in ns in the order in which they came, without all the rest.

        Args:
            with_thumbnail: only of keyframes that have one.
        """
        among = 'JOIN thumbnails ON keyframe = keyframes.number' if with_thumbnail else ''
        for *key, stamp_ns in self.select(
                'SELECT session_id, keyframe_id, robot_id, stamp_ns FROM keyframes JOIN '
                f'sessions ON sessions.number = session {among} ORDER BY keyframes.number'):
            yield KeyframeId(*key), stamp_ns

    def keyframes(self) -> Iterator[Keyframe]:
        """All keyframes, in the order in which they came.

        Raises:
            MapError: one of them cannot be read.
        """
        # Some at a time: one that is half-read would keep other threads out.
        number = dim = 0
        while rows := self.select(KEYFRAMES, (number, KEYFRAMES_AT_ONCE)):
            with self._trusted():
                dim = dim or len(np.frombuffer(rows[0][DESCRIPTOR], '<f4'))
                for row in rows:
                    yield keyframe_of(row, dim)
                number = rows[-1][0]

    def whole(self, keyframe_id: KeyframeId) -> NewKeyframe | None:
        """A keyframe with all that belongs to it; None if there is none of that id.

        Raises:
            MapError: it cannot be read.
        """
        with self._mutex:  # it might be forgotten meanwhile
            found = self.select(f'SELECT number {ONE_KEYFRAME}', key_of(keyframe_id))
            if not found:
                return None
            row, = self.select(KEYFRAMES, (found[0][0] - 1, 1))
            session = next(each for each in self.sessions() if each.id == keyframe_id.session)
            with self._trusted():
                keyframe = keyframe_of(row, len(np.frombuffer(row[DESCRIPTOR], '<f4')))
            return NewKeyframe(
                keyframe, session, self.local_features(keyframe_id),
                self.thumbnail(keyframe_id), *self.details(keyframe_id))

    @contextmanager
    def _trusted(self) -> Iterator[None]:
        """Values that SQLite lets pass, but that nobody ever wrote, are damage, too."""
        try:
            yield
        except (PoseError, TypeError, ValueError) as error:
            raise MapError(f'{self.path or "the map"}: it is damaged ({error}): go back to a copy '
                           'of it') from error

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """The local features of a keyframe; None where it has none.

        Raises:
            MapError: they cannot be read.
        """
        found = self.select(
            'SELECT count, dim, data FROM local_features '
            f'WHERE keyframe = (SELECT number {ONE_KEYFRAME})', key_of(keyframe_id))
        with self._trusted():
            return from_bytes(self.manifest.codec, *found[0]) if found else None

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""
        found = self.select(
            'SELECT jpeg FROM thumbnails '
            f'WHERE keyframe = (SELECT number {ONE_KEYFRAME})', key_of(keyframe_id))
        return bytes(found[0][0]) if found else b''

    def graph(self) -> bytes:
        """What `keep_graph` kept; empty without, or where it is damaged: it can be made again."""
        with suppress(MapError):
            found = self.select('SELECT data FROM search_graph')
            return bytes(found[0][0]) if found else b''
        return b''

    def unrelated(self) -> str:
        """What `keep_unrelated` kept; empty without."""
        found = self.select("SELECT value FROM manifest WHERE name = 'unrelated'")
        return str(found[0][0]) if found else ''

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of the pose, or None, and the back-end's key, or 0."""
        found = self.select(
            f'SELECT covariance, external_key {ONE_KEYFRAME}', key_of(keyframe_id))
        if not found:
            raise MapError(f'{self.path or "the map"}: there is no keyframe {keyframe_id}')
        covariance, key = found[0]
        return None if covariance is None else np.frombuffer(covariance, '<f8'), int(key or 0)

    def bytes_by_table(self) -> dict[str, tuple[int, int]]:
        """Rows and bytes of content of what makes a map large."""
        contents = {'descriptors': ('keyframes', 'descriptor'),
                    'local features': ('local_features', 'data'),
                    'thumbnails': ('thumbnails', 'jpeg')}
        return {
            name: self.select(f'SELECT count(*), coalesce(sum(length({column})), 0) FROM {table}'
                               )[0]
            for name, (table, column) in contents.items()}

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
        with _explained(target):
            is_itself = overwrite and self.path and target.exists() and target.samefile(self.path)
        if is_itself:
            raise MapError(f'{target}: it is the open map itself, which is up to date')
        with appearing(target, overwrite=overwrite) as unnamed:
            self._copy(unnamed, without)
            return unnamed.stat().st_size

    @contextmanager
    def _source(self) -> Iterator[sqlite3.Connection]:
        """What a copy is made from; what this program writes meanwhile goes into both.

        Where another program writes, it is the state of now: else the copy would begin again
        with every keyframe that comes.
        """
        if self._connection is None:
            raise MapError(f'{self.path or "the map"}: it is closed')
        if not self.read_only:
            yield self._connection
            return
        with closing(self._connect()) as source:
            source.execute('BEGIN')
            source.execute('SELECT count(*) FROM manifest').fetchone()
            yield source

    def _copy(self, target: Path, without: Iterable[str]) -> None:
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            with self._source() as source:
                source.backup(copy, pages=PAGES_AT_ONCE, sleep=0.002)
            # A file without a log beside it can be read from a read-only disk, too.
            copy.execute('PRAGMA journal_mode = DELETE')
            tables = [table for table in without if table in LARGE_TABLES]
            for table in tables:
                copy.execute(f'DELETE FROM {table}')
            if tables:
                copy.execute('VACUUM')
        finally:
            copy.close()


def _sync(path: Path) -> None:
    """Make the disk keep a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_way(target: Path) -> None:
    """Let no log of an older map stay beside a target: SQLite would apply it to its successor."""
    log = Path(f'{target}-wal')
    if target.exists():  # without a log it stays as it is, byte by byte
        MapFile(target, read_only=not log.exists()).close()
    if target.exists() and log.exists() and log.stat().st_size:
        raise MapError(f'{target}: another program reads it: end it, or choose another name')
    for name in (log, Path(f'{target}-shm')):
        name.unlink(missing_ok=True)


@contextmanager
def appearing(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden name to write a map under, which becomes `target` once it is complete.

    After an error the hidden file is gone, and the target as it was; after kill -9 the hidden
    file stays.

    Args:
        target: of the map.
        overwrite: replace the map that is there.

    Raises:
        MapError: the target exists, or is no map that could be replaced, or cannot be written.
    """
    unnamed = target.with_name(f'.{target.name}.{uuid.uuid4().hex[:8]}')
    try:
        with _explained(target):
            if not target.parent.is_dir():
                raise MapError(f'{target}: there is no folder {target.parent}: make it first')
            if target.exists() and not overwrite:
                raise MapError(
                    f'{target}: it exists already: choose another name, or overwrite it')
            _make_way(target)
            yield unnamed
            _sync(unnamed)
            _make_way(target)  # somebody may have opened it meanwhile
            unnamed.replace(target)
            _sync(target.parent)
    except MapError as error:
        raise MapError(str(error).replace(str(unnamed), str(target))) from error
    finally:
        for suffix in ('', '-wal', '-shm', '.lock'):
            with suppress(OSError):
                Path(f'{unnamed}{suffix}').unlink()
