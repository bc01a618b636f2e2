"""What SQLite and the file system say, as errors that say what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selavpr_ros.errors import MapError

DAMAGED = 'it is damaged: go back to a copy of it'
FULL = 'the disk is full: make room'
LOCKED = 'another program keeps it locked'
READ_ONLY = 'it cannot be written: check its permissions, or open it read-only'

# By SQLite's result code (https://www.sqlite.org/rescode.html): the text that SQLite has for it,
# and what to do. Before Python 3.11, an error has only the text.
_OF_SQLITE = {
    5: ('database is locked', LOCKED),
    6: ('database table is locked', LOCKED),
    8: ('attempt to write a readonly database', READ_ONLY),
    10: ('disk I/O error', 'the disk failed, or a quota is used up: check both'),
    11: ('database disk image is malformed', DAMAGED),
    13: ('database or disk is full', FULL),
    14: ('unable to open database file',
         'it cannot be opened: check that the folder exists and can be written'),
    26: ('file is not a database', 'it is a file of another program, or its beginning is lost'),
    2067: ('UNIQUE constraint failed', 'a keyframe of this id is in it already'),
}
_OF_THE_SYSTEM = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: READ_ONLY,
    errno.EACCES: 'check its permissions and those of its folder, or open it read-only',
    errno.EPERM: 'check its permissions and those of its folder, or open it read-only',
}


def _sqlite_code(error: sqlite3.Error) -> int:
    """SQLite's result code; 0 for an error of Python's own."""
    code = getattr(error, 'sqlite_errorcode', None)
    if code is None:  # Python 3.10
        return next((known for known, (text, _) in _OF_SQLITE.items()
                     if str(error).startswith(text)), 0)
    return int(code) if code in _OF_SQLITE else int(code) & 0xFF  # the primary code


def _advice(error: Exception) -> str:
    if isinstance(error, sqlite3.Error):
        return _OF_SQLITE.get(_sqlite_code(error), ('', ''))[1]
    if isinstance(error, OSError):
        return _OF_THE_SYSTEM.get(error.errno or 0, '')
    return DAMAGED if isinstance(error, UnicodeDecodeError) else ''


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turn what SQLite and the file system say of a map into a MapError with advice."""
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
        raise MapError(
            f'{path or "the map"}: {_advice(error) or "it failed"} ({error})') from error
