"""Copies of a map file, and new map files, which appear when they are complete."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from selavpr_ros import files
from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.database import Database
from selavpr_ros.maps.file.errors import explained
from selavpr_ros.maps.file.schema import LARGE_TABLES

# Number of pages after which a copy lets the writer in.
PAGES_AT_ONCE = 2000


def _make_way(target: Path) -> None:
    """Remove the log of an older map beside a target: SQLite would apply it to the new map."""
    log = Path(f'{target}-wal')
    if target.exists():  # without a log it stays as it is, byte by byte
        Database(target, None, read_only=not log.exists()).close()
    if target.exists() and log.exists() and log.stat().st_size:
        raise MapError(f'{target}: another program reads it: end it, or choose another name')
    for name in (log, Path(f'{target}-shm')):
        name.unlink(missing_ok=True)


@contextmanager
def appearing(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path to write a map to, which becomes `target` once it is complete; see `files`.

    Args:
        target: of the map.
        overwrite: replace the map that is there.

    Raises:
        MapError: the target exists, or is no map that could be replaced, or cannot be written.
    """
    target = target.resolve()  # the file that a link names, and its log beside it
    with explained(target):
        if not target.parent.is_dir():
            raise MapError(f'{target}: there is no folder {target.parent}: make it first')
        if target.exists() and not overwrite:
            raise MapError(f'{target}: it exists already: choose another name, or overwrite it')
        _make_way(target)
        with files.appearing(target) as unnamed:
            try:
                yield unnamed
            except MapError as error:
                raise MapError(str(error).replace(str(unnamed), str(target))) from error
            _make_way(target)  # another program may have opened it meanwhile


@contextmanager
def _source(database: Database) -> Iterator[sqlite3.Connection]:
    """The connection that a copy reads; what this program writes meanwhile is copied, too.

    If the map was opened read-only, another program may write: a snapshot is read, because else
    the copy would begin again with every keyframe that is added.
    """
    connection = database.connection
    if not database.read_only:
        yield connection
        return
    with closing(database.connect()) as source:
        source.execute('BEGIN')
        source.execute('SELECT count(*) FROM manifest').fetchone()
        yield source


def copy_to(database: Database, target: Path, without: Iterable[str]) -> None:
    """Write a copy of a map, without some of its LARGE_TABLES."""
    copy = sqlite3.connect(target, isolation_level=None)
    try:
        with _source(database) as source:
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
