"""What SQLite and the file system say, with advice; told by codes, not by words."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.errors import DAMAGED, FULL, LOCKED, READ_ONLY, explained


def _locked(path: Path) -> None:
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path, timeout=0)) as two:
        one.execute('BEGIN IMMEDIATE')
        two.execute('BEGIN IMMEDIATE')


def _read_only(path: Path) -> None:
    sqlite3.connect(path).close()
    with closing(sqlite3.connect(f'file:{path}?mode=ro', uri=True)) as connection:
        connection.execute('CREATE TABLE t (a)')


def _full(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('CREATE TABLE t (a)')
        connection.execute('PRAGMA max_page_count = 3')
        connection.execute('INSERT INTO t VALUES (zeroblob(100000))')


def _damaged(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute('CREATE TABLE t (a)')
    path.write_bytes(path.read_bytes()[:4096] + b'\xff' * 4096)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('SELECT * FROM t').fetchall()


def _foreign(path: Path) -> None:
    path.write_bytes(b'words ' * 1000)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('SELECT * FROM sqlite_master')


def _missing(path: Path) -> None:
    sqlite3.connect(path / 'map')


def _twice(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('CREATE TABLE t (a, b, UNIQUE (a, b))')
        for _ in range(2):
            connection.execute('INSERT INTO t VALUES (1, 2)')


@pytest.mark.parametrize(('fail', 'advice'), [
    (_locked, LOCKED), (_read_only, READ_ONLY), (_full, FULL), (_damaged, DAMAGED),
    (_foreign, 'it is a file of another program'), (_missing, 'it cannot be opened'),
    (_twice, 'a keyframe of this id is in it already')])
def test_what_sqlite_says(tmp_path: Path, fail: Callable[[Path], None], advice: str) -> None:
    path = tmp_path / 'map'
    with pytest.raises(sqlite3.Error) as raised:
        fail(path)
    error = raised.value
    with pytest.raises(MapError, match=f'{path}: {advice}.* \\({error}\\)'), explained(path):
        raise error
    without_code = type(error)(str(error))  # as Python 3.10 has it
    with pytest.raises(MapError, match=f'{path}: {advice}'), explained(path):
        raise without_code


@pytest.mark.parametrize(('error', 'advice'), [
    (OSError(errno.ENOSPC, 'No space left on device'), FULL),
    (OSError(errno.EDQUOT, 'Disk quota exceeded'), FULL),
    (OSError(errno.EROFS, 'Read-only file system'), READ_ONLY),
    (PermissionError(errno.EACCES, 'Permission denied'), 'check its permissions and those of'),
    (UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid start byte'), DAMAGED),
    (OSError(errno.EIO, 'Input/output error'), 'it failed'),
    (OverflowError('Python int too large to convert to SQLite INTEGER'), 'it failed')])
def test_what_the_system_says(error: Exception, advice: str) -> None:
    with pytest.raises(MapError, match=f'the map: {advice}'), explained(None):
        raise error


def test_words_that_are_names_are_no_reason() -> None:
    with pytest.raises(MapError, match=r'it failed \(no such table: locked\)'), explained(None), \
            closing(sqlite3.connect(':memory:')) as connection:
        connection.execute('SELECT * FROM locked')
