"""The SQLite file of a map: opened safely, for one writer; its transactions and queries."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.errors import READ_ONLY, explained
from selavpr_ros.maps.file.lock import WriterLock
from selavpr_ros.maps.file.schema import Manifest
from selavpr_ros.maps.file.versions import prepare, read_manifest

BUSY_S = 5.0
# Limit of the write-ahead log, which is emptied whenever no program reads an older state.
MAX_LOG_BYTES = 64 << 20
# Three keyframes of 1024 numbers lie in a page, none across two: a disk then reads them in order,
# ten times as fast as with SQLite's 4096.
PAGE_BYTES = 16384


def _log_bytes(path: Path) -> int:
    log = Path(f'{path.resolve()}-wal')
    return log.stat().st_size if log.exists() else 0


def _inode(path: Path | None) -> tuple[int, int] | None:
    """Device and inode of the file that has this name now."""
    if path is None or not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def _require_place(path: Path | None, is_new: bool, read_only: bool) -> None:
    if path is None:
        if not is_new:
            raise MapError('a temporary map is new and empty: name the file that is to be read')
        return
    if not path.parent.is_dir():
        raise MapError(f'{path}: there is no folder {path.parent}: make it first')
    if path.is_dir():
        raise MapError(f'{path}: it is a folder: name a file in it, e.g. {path}/office.vprmap')
    if path.exists():
        _require_rights(path, read_only)
    elif not is_new:
        raise MapError(f'{path}: there is no such map')


def _require_rights(path: Path, read_only: bool) -> None:
    """Refuse files that SQLite would accept, but should not."""
    # SQLite would open the file for reading, and fail with the first keyframe.
    if not read_only and not os.access(path, os.W_OK):
        raise MapError(f'{path}: {READ_ONLY}')
    # SQLite takes a file of one byte for an empty one, and writes over it.
    if path.stat().st_size == 1:
        raise MapError(f'{path}: it is a file of another program')


def _address(path: Path, read_only: bool) -> str:
    real = path.resolve()
    mode = 'mode=ro' if read_only else 'mode=rwc'
    # Even a reader makes files for the log; where it cannot, no program writes either.
    if read_only and not os.access(real.parent, os.W_OK) and not _log_bytes(path):
        mode = 'immutable=1'
    return f'file:{quote(os.fsencode(real))}?{mode}'


class Database:
    """SQLite with a write-ahead log and `synchronous = FULL`, for any thread.

    Args:
        path, manifest, read_only: see `MapFile`.

    Attributes:
        manifest: manifest of the file.
    """

    def __init__(self, path: Path | None, manifest: Manifest | None, read_only: bool) -> None:
        self.path, self.read_only = path, read_only
        self.mutex = threading.RLock()
        self._lock: WriterLock | None = None
        self._connection: sqlite3.Connection | None = None
        try:
            with explained(path):
                _require_place(path, manifest is not None and not read_only, read_only)
                if path and not read_only:
                    self._lock = WriterLock(path)
                self._connection = self.connect()
                self._opened = _inode(path)
                prepare(self, manifest)
                self.manifest = read_manifest(self)
                if path and not read_only:
                    self.execute('PRAGMA journal_mode = WAL')
        except BaseException:
            self.close()
            raise

    def connect(self) -> sqlite3.Connection:
        """One more connection to the file."""
        # SQLite deletes a database without a name itself, even after kill -9.
        connection = sqlite3.connect(
            _address(self.path, self.read_only) if self.path else '', uri=bool(self.path),
            timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes.decode  # damage is a UnicodeDecodeError
        connection.execute('PRAGMA foreign_keys = ON')
        if self.path and not self.read_only:
            connection.execute('PRAGMA synchronous = FULL')
            connection.execute(f'PRAGMA page_size = {PAGE_BYTES}')  # of a file that is new
            connection.execute(f'PRAGMA journal_size_limit = {MAX_LOG_BYTES}')
        return connection

    def __str__(self) -> str:
        return str(self.path or 'the map')

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection; MapError once it is closed."""
        if self._connection is None:
            raise MapError(f'{self}: it is closed')
        return self._connection

    @property
    def log_bytes(self) -> int:
        """Bytes of the write-ahead log beside the file."""
        return _log_bytes(self.path) if self.path else 0

    def close(self) -> None:
        """Move the log into the file, and close the file."""
        with self.mutex:
            connection, self._connection = self._connection, None
            if connection:
                connection.close()
            lock, self._lock = self._lock, None
            if lock:
                lock.release()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement of SQL inside `writing`."""
        return self.connection.execute(statement, values)

    def pragma(self, name: str) -> Any:
        """Value of one of SQLite's settings."""
        return self.execute(f'PRAGMA {name}').fetchone()[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: all that is written inside is kept, or nothing."""
        self.execute('BEGIN IMMEDIATE')
        try:
            yield
            self.execute('COMMIT')
        except BaseException:
            # A full disk may have ended the transaction already.
            if self._connection and self._connection.in_transaction:
                self.execute('ROLLBACK')
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: what is written inside is durable after it, or not there at all."""
        if self.read_only:
            raise MapError(f'{self.path}: it was opened read-only')
        with self.mutex, explained(self.path), self.transaction():
            # What goes into a file that has lost its name is lost with the program.
            if _inode(self.path) != self._opened:
                raise MapError(f'{self.path}: it was moved, deleted or replaced while it was '
                               'open: save a copy under another name and open that')
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is one state of the map, whatever is added meanwhile."""
        with self.mutex:
            self.execute('BEGIN')
            try:
                yield
            finally:
                self.execute('COMMIT')

    def select(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows that a query in SQL finds."""
        with self.mutex, explained(self.path):
            return self.execute(query, values).fetchall()
