"""Copies of damaged SQLite files: the rows before the damage."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from bags import cut_short

from selavpr_ros.recordings.whole_sqlite import copy_rows, copy_with_journals, journals


@pytest.fixture
def file(tmp_path) -> Path:
    """A hundred rows of many pages, and an index."""
    path = tmp_path / 'a.db3'
    with closing(sqlite3.connect(path)) as database, database:
        database.execute('CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT)')
        database.execute('CREATE TABLE messages (id INTEGER PRIMARY KEY, at INTEGER, data BLOB)')
        database.execute('CREATE INDEX by_time ON messages (at)')
        database.execute("INSERT INTO topics VALUES (1, '/image')")
        database.executemany('INSERT INTO messages VALUES (?, ?, ?)', (
            (i, i, bytes(20_000)) for i in range(100)))
    return path


def rows(path: Path, table: str = 'messages') -> list[int]:
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute(f'SELECT id FROM {table}')]


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / 'copies'
    path.mkdir()
    return path


@pytest.mark.parametrize('kept', [0.5, 0.9, 1.0])
def test_the_rows_before_the_end(file, folder, kept):
    cut_short(file, kept)
    found = rows(copy_rows(file, folder))
    assert found == list(range(len(found)))
    assert 100 * kept - 15 < len(found) <= 100 * kept


def test_the_other_tables_are_copied_too(file, folder):
    cut_short(file, 0.5)
    assert rows(copy_rows(file, folder), 'topics') == [1]


def test_what_is_no_database(tmp_path, folder):
    path = tmp_path / 'a.db3'
    path.write_text('no database' * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        copy_rows(path, folder)


def test_a_log_is_moved_into_the_copy(file, folder):
    with closing(sqlite3.connect(file)) as writer:
        writer.execute('PRAGMA journal_mode = WAL')
        with writer:
            writer.execute('INSERT INTO messages VALUES (100, 100, ?)', (b'',))
        assert [each.name for each in journals(file)] == ['a.db3-wal']
        copy = copy_with_journals(file, folder)
        assert rows(copy) == list(range(101))
        assert [each.name for each in folder.iterdir()] == ['a.db3']
    assert journals(file) == []
