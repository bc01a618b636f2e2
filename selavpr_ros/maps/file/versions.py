"""A map file when it is opened: created if it is new, checked, updated if it is old."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from selavpr_ros.errors import MapError
from selavpr_ros.files import sync
from selavpr_ros.maps.file.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    SCHEMA,
    SMALL_TABLES,
    TRIGGER,
    VERSION,
    Manifest,
)
from selavpr_ros.maps.local_codec import CODECS

if TYPE_CHECKING:
    from selavpr_ros.maps.file.database import Database

READ_AHEAD_FROM = 1 << 20


def prepare(database: Database, manifest: Manifest | None) -> None:
    """Create a new map; refuse a file that is foreign or damaged; update an old one."""
    if manifest and not database.read_only and _is_empty(database):
        _create(database, manifest)
        return
    path, pragma = database.path, database.pragma
    if path and pragma('page_count') == 0:
        raise MapError(f'{path}: it is empty: its creation was interrupted; delete it')
    if pragma('application_id') != APPLICATION_ID:
        raise MapError(f'{path}: it is a file of another program')
    version = pragma('user_version')
    if version > VERSION:
        raise MapError(f'{path}: it is of map version {version}, but this program knows '
                       f'{VERSION}: update selavpr_ros')
    if version < 1:
        raise MapError(f'{path}: it is of map version {version}, which does not exist: it is '
                       'damaged, go back to a copy of it')
    _check(database)
    if version < VERSION:
        _migrate(database, version)


def _is_empty(database: Database) -> bool:
    """A new file, or one whose creation was interrupted."""
    tables = database.execute('SELECT count(*) FROM sqlite_master').fetchone()[0]
    return tables == 0 and database.pragma('application_id') in (0, APPLICATION_ID)


def _create(database: Database, manifest: Manifest) -> None:
    with database.transaction():
        for statement in (*SCHEMA.split(';'), TRIGGER):
            database.execute(statement)
        for name, value in asdict(manifest).items():
            database.execute('INSERT INTO manifest VALUES (?, ?)', (name, json.dumps(value)))
        database.execute(f'PRAGMA application_id = {APPLICATION_ID}')
        database.execute(f'PRAGMA user_version = {VERSION}')
    if database.path:
        sync(database.path.parent)  # the name, too


def _check(database: Database) -> None:
    """Refuse a file that was cut off or damaged; seconds for gigabytes."""
    path, pragma = database.path, database.pragma
    wanted = pragma('page_count') * pragma('page_size')
    size = path.stat().st_size if path else wanted
    if size < wanted and not database.log_bytes:
        raise MapError(f'{path}: it is cut off, {size} of {wanted} bytes: go back to a copy of it')
    _read_ahead(database, size)
    for table in SMALL_TABLES:
        said = str(pragma(f'integrity_check({table})'))
        if said != 'ok':
            raise MapError(f'{path}: it is damaged ({said.splitlines()[-1]}): go back to a copy '
                           'of it')


def _read_ahead(database: Database, size: int) -> None:
    """Read the file from beginning to end, if the checks look at most of it.

    The checks read in an order of their own, which takes a disk three times as long.
    """
    count, nbytes = database.execute(
        'SELECT max(number), length(descriptor) FROM keyframes').fetchone()
    if database.path and count and 2 * count * nbytes > size > READ_AHEAD_FROM:
        with database.path.open('rb', buffering=0) as file:
            while file.read(READ_AHEAD_FROM):
                pass


def _migrate(database: Database, version: int) -> None:
    if database.read_only:
        raise MapError(f'{database.path}: it is of map version {version}, this program reads '
                       f'{VERSION}: open it once for writing, which updates it')
    with database.transaction():
        for statements in MIGRATIONS[version - 1 :]:
            for statement in statements.split(';'):
                database.execute(statement)
        database.execute(f'PRAGMA user_version = {VERSION}')


def read_manifest(database: Database) -> Manifest:
    """What the map says of itself; MapError if that is damaged."""
    found = dict(database.execute('SELECT name, value FROM manifest').fetchall())
    try:
        manifest = Manifest(
            **{name: json.loads(found[name]) for name in Manifest.__annotations__})
        words = (manifest.uuid, manifest.model_id, manifest.creator)
        if not (all(isinstance(word, str) for word in words) and manifest.codec in CODECS
                and isinstance(manifest.created_ns, int)):
            raise ValueError(manifest)
    except (KeyError, ValueError) as error:
        raise MapError(f'{database.path}: its manifest is damaged ({error}): go back to a copy '
                       'of it') from error
    return manifest
