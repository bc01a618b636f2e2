"""Copies of SQLite files that a crash left: with their journals, or up to where they end."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

JOURNALS = ('-wal', '-journal')


def journals(file: Path) -> list[Path]:
    """The files beside a database that hold a part of what was written to it."""
    beside = [file.with_name(file.name + suffix) for suffix in JOURNALS]
    return [each for each in beside if each.is_file() and each.stat().st_size]


def copy_with_journals(file: Path, folder: Path) -> Path:
    """Copy a database and its journals into a folder, and make one file of them.

    Raises:
        OSError: there is no room.
        sqlite3.Error: it is no database.
    """
    for each in (file, *journals(file)):
        shutil.copyfile(each, folder / each.name)
    copy = folder / file.name
    with closing(sqlite3.connect(copy)) as database:
        database.execute('PRAGMA journal_mode = DELETE').fetchall()
    return copy


def _rows(database: sqlite3.Connection, table: str) -> Iterator[tuple]:
    """The rows of a table up to the first that cannot be read."""
    # By the id of the row: the pages of an index may be missing before those of the rows are.
    with suppress(sqlite3.DatabaseError):
        yield from database.execute(f'SELECT * FROM "{table}" NOT INDEXED ORDER BY rowid')


def _copy_table(damaged: sqlite3.Connection, whole: sqlite3.Connection, table: str) -> None:
    columns = len(whole.execute(f'PRAGMA table_info("{table}")').fetchall())
    marks = ','.join('?' * columns)
    whole.executemany(f'INSERT INTO "{table}" VALUES ({marks})', _rows(damaged, table))


def copy_rows(file: Path, folder: Path) -> Path:
    """Copy the rows of a damaged database that can be read, from the first one on, into a folder.

    Raises:
        OSError, sqlite3.Error: there is no room, or not even the names of its tables are there.
    """
    copy = folder / file.name
    copy.unlink(missing_ok=True)
    address = f'{file.resolve().as_uri()}?immutable=1'
    with (closing(sqlite3.connect(address, uri=True)) as damaged,
          closing(sqlite3.connect(copy)) as whole):
        # SQLite opens no file that is shorter than it should be, except to repair it.
        damaged.execute('PRAGMA writable_schema = ON')
        tables = damaged.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        for name, sql in tables.fetchall():
            if not name.startswith('sqlite_'):
                whole.execute(sql)
                _copy_table(damaged, whole, name)
        whole.commit()
    return copy
