"""The lock that lets only one program write a map."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from selavpr_ros.errors import MapError


class WriterLock:
    """An advisory lock on a file beside a map, which the kernel releases when the program ends.

    It is not on the map itself, because closing that file would release SQLite's locks on it.

    Raises:
        MapError: another program has the lock. OSError: the lock file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        real = path.resolve()  # whichever link leads to it
        self._path = real.with_name(f'{real.name}.lock')
        self._file = self._path.open('a')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The program that had the lock before may have removed the file in the meantime.
            if os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino:
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            self._file.close()
            raise MapError(f'{path}: another node or program writes to this map: end it, or open '
                           'the map read-only') from None

    def release(self) -> None:
        """Let another program write."""
        with suppress(OSError):  # the file may stay behind; it is no lock any more
            self._path.unlink()
        self._file.close()
