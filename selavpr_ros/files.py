"""Files and folders that appear under their names only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(unnamed: Path, target: Path, replaced: Path) -> None:
    """Rename a file or a folder to its target; a folder that is there goes out of the way."""
    try:
        if unnamed.is_dir() and target.is_dir():  # a rename replaces no folder
            target.rename(replaced)
        unnamed.replace(target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` at the end of the block: all of it or nothing.

    The path has the target's name, in a hidden folder beside it. A file replaces a file, a folder
    a folder. After an error the target is as it was and the hidden folder is gone; after kill -9
    or a power cut the hidden folder stays. If that comes just while a folder is replaced, which no
    single rename does, the older one is in there, as `replaced`.

    Raises:
        OSError: the target's folder cannot be written, or the disk is full, or the target is a
            folder and no folder was written.
    """
    with TemporaryDirectory(
            prefix=f'.{target.name}.', dir=target.parent, ignore_cleanup_errors=True) as folder:
        unnamed = Path(folder, target.name)
        yield unnamed
        for path in (*unnamed.rglob('*'), unnamed):
            sync(path)
        _put(unnamed, target, Path(folder, 'replaced'))
        sync(target.parent)
