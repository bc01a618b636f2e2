"""From settings to an open map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.copies import appearing
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.fleet.milvus_connection import Address, is_address
from selavpr_ros.maps.fleet.milvus_store import MilvusStore, exists, open_existing
from selavpr_ros.maps.fleet.shared_map import SharedMap
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.store import KeyframeStore
from selavpr_ros.settings import Settings

# Timeout of programs that no image waits for.
WRITER_TIMEOUT_S = 5.0


def open_store(name: str) -> KeyframeStore:
    """Open a map that is there, to read it: a file, or a shared map by its address.

    Raises:
        MapError: there is none, it cannot be read, or its server does not answer.
    """
    if is_address(name):
        return open_existing(Address.parse(name))
    return MapFile(Path(name), read_only=True)


@contextmanager
def new_store(
    name: str, model_id: str, codec: str, dim: int, *, overwrite: bool = False
) -> Iterator[KeyframeStore]:
    """Open a new map to write; at the end of the block it is there as a whole or not at all.

    Only kill -9 leaves a part of a shared map behind.

    Args:
        name: file, or address of a shared map.
        model_id, codec: see `KeyframeStore`.
        dim: length of its global descriptors; only a shared map needs it.
        overwrite: replace a file that is there.

    Raises:
        MapError: the map exists, or cannot be written.
    """
    if not is_address(name):
        with (appearing(Path(name), overwrite=overwrite) as unnamed,
              MapFile(unnamed, new_manifest(model_id, codec)) as file):
            yield file
            # A log that does not fit into the file is an error here; SQLite's close is silent.
            file.database.select('PRAGMA journal_mode = DELETE')
        return
    address = Address.parse(name)
    if not dim:
        raise MapError(f'{address}: there is no keyframe to begin a shared map with')
    if exists(address):
        raise MapError(f'{address}: it exists already: choose another name and put it behind the '
                       'address, #NAME; a shared map is not overwritten')
    with closing(MilvusStore(address, model_id=model_id, dim=dim, codec=codec,
                             timeout_s=WRITER_TIMEOUT_S)) as store:
        try:
            yield store
        except BaseException:
            store.drop()
            raise


@contextmanager
def _closed_on_error() -> Iterator[ExitStack]:
    """A stack of what was opened; an error closes all of it."""
    with ExitStack() as opened:
        yield opened
        opened.pop_all()


def open_map(
    settings: Settings, model_id: str, global_dim: int = 0, *,
    allow_model_mismatch: bool = False,
) -> KeyframeMap:
    """Open the map that the settings `map.*` name; without `map.path` a temporary one.

    Args:
        settings: `map.*`, `index.*` and `robot_id`.
        model_id: id of the model of the queries, see `VprModel.model_id`.
        global_dim: length of its global descriptors; only a shared map needs it.
        allow_model_mismatch: accept a map of another model; only for descriptors that can be
            compared all the same.

    Raises:
        MapError: the file cannot be opened, or is of another model; the server of a shared map
            refuses it. One that does not answer is waited for in the background.
    """
    if is_address(settings.map.path):
        return _open_shared(settings, model_id, global_dim)
    path = Path(settings.map.path).expanduser() if settings.map.path else None
    file = _open_file(path, settings, model_id, 'map.path', allow_model_mismatch)
    with _closed_on_error() as opened:
        opened.callback(file.close)
        return KeyframeMap(file, **_options(settings))


def _open_file(
    path: Path | None, settings: Settings, model_id: str, setting: str, allow_mismatch: bool
) -> MapFile:
    manifest = new_manifest(model_id, settings.map.local_codec)
    file = MapFile(path, manifest, read_only=settings.map.read_only)
    if file.manifest.model_id != model_id and not allow_mismatch:
        file.close()
        raise MapError(
            f'{path}: its descriptors are of model {file.manifest.model_id}, those of '
            f'{model_id} cannot be compared with them: set model.weights to that model, or '
            f'{setting} to a new file')
    return file


def _options(settings: Settings) -> dict[str, Any]:
    return {'index': settings.index.type, 'cache_bytes': settings.map.local_cache_mib << 20}


def own_path(settings: Settings) -> Path:
    """The file of a robot's own keyframes: `map.path`, or if that is shared, `map.own_path`."""
    if not is_address(settings.map.path):
        return Path(settings.map.path).expanduser()
    if settings.map.own_path:
        return Path(settings.map.own_path).expanduser()
    home = os.environ.get('ROS_HOME') or '~/.ros'
    return Path(home).expanduser() / f'selavpr/robot_{settings.robot_id}.vprmap'


def _open_shared(settings: Settings, model_id: str, global_dim: int) -> KeyframeMap:
    address = Address.parse(settings.map.path)
    if settings.robot_id == 0:
        raise MapError('a shared map has to tell its robots apart: set robot_id to a number '
                       'from 1 on that no other robot has')
    if settings.map.read_only:
        raise MapError('map.read_only is for files: use map.mode localization to keep no '
                       'keyframes in a shared map')
    path = own_path(settings)
    if not settings.map.own_path:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MapError(f'{path}: its folder cannot be made ({error}): set map.own_path to a '
                           'file where there is room') from error
    file = _open_file(path, settings, model_id, 'map.own_path', allow_mismatch=False)
    connect = partial(
        MilvusStore, address, model_id=model_id, dim=global_dim, codec=file.codec,
        timeout_s=settings.map.server_timeout)
    with _closed_on_error() as opened:
        opened.callback(file.close)
        shared = SharedMap(file, connect, fetch_s=settings.map.server_timeout)
        opened.callback(shared.close)
        return KeyframeMap(file, shared, **_options(settings))
