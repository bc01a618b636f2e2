"""What a map survives: kill -9, power cuts, full disks, lost files, damage, too little memory.

Nothing is simulated: processes are killed, disks of a few megabytes are filled, 2 GB are read.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from maps import (
    MODEL,
    Child,
    assert_same_keyframe,
    assert_same_local,
    assert_same_pose,
    fill_disk,
    make_keyframe,
    make_map_file,
    small_disk,
    unit_rows,
    wait_until,
)

from selavpr_ros.errors import MapError
from selavpr_ros.maps import keyframe_index, keyframe_map
from selavpr_ros.maps.file.database import PAGE_BYTES
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.keyframe import KeyframeId, MapPose, NewKeyframe
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.local_codec import BINARY, FLOAT16
from selavpr_ros.maps.merge import merge_maps
from selavpr_ros.pose import Pose

# By codec, the shape of local features that are as short as those of a small model.
SHAPES = {FLOAT16: (160, 64), BINARY: (961, 64)}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / 'office.vprmap'


@cache
def new(number: int, codec: str = FLOAT16) -> NewKeyframe:
    return make_keyframe(number, codec=codec, dim=256, local=SHAPES[codec])


def open_map(path: Path, codec: str = FLOAT16, **options: object) -> KeyframeMap:
    return KeyframeMap(MapFile(path, new_manifest(MODEL, codec)), **options)


def assert_complete(found: KeyframeMap, count: int, codec: str = FLOAT16) -> None:
    """It has exactly the keyframes 1..count, with everything."""
    assert [k.id for k in found] == [KeyframeId(1, n) for n in range(1, count + 1)]
    for number, keyframe in enumerate(found, start=1):
        wanted = new(number, codec)
        np.testing.assert_array_equal(
            keyframe.global_descriptor, wanted.keyframe.global_descriptor)
        assert_same_local(found.local_features(keyframe.id), wanted.local)


def assert_recognises(found: KeyframeMap, number: int) -> None:
    """Keyframe n is found by its own descriptor, with its local features."""
    wanted = new(number)
    best = found.search(wanted.keyframe.global_descriptor, 1)[0]
    assert best.keyframe.id == wanted.keyframe.id
    assert best.similarity == pytest.approx(1, abs=1e-6)
    assert_same_local(found.local_features(best.keyframe.id), wanted.local)


# ---- kill -9 -----------------------------------------------------------------------------------

INSERTS = 200


def _insert(line: Connection, path: Path, codec: str) -> None:
    """Add keyframes, and tell each that the map says is kept."""
    keyframe_map = open_map(path, codec)
    made = [new(number, codec) for number in range(1, INSERTS + 1)]
    line.send('open')
    for number, keyframe in enumerate(made, start=1):
        keyframe_map.add(keyframe)
        assert not keyframe_map.store_error
        line.send(number)
    keyframe_map.close()


@pytest.fixture(scope='module')
def seconds_of_all_inserts(tmp_path_factory) -> float:
    with Child(_insert, tmp_path_factory.mktemp('timing') / 'map', FLOAT16) as child:
        child.hear()
        start = time.monotonic()
        assert child.finish()[-1] == INSERTS
        return time.monotonic() - start


@pytest.mark.parametrize('turn', range(20))
def test_what_was_acknowledged_survives_kill_9(path, turn, seconds_of_all_inserts):
    codec = (FLOAT16, BINARY)[turn % 2]
    with Child(_insert, path, codec) as child:
        assert child.hear() == 'open'
        time.sleep(random.Random(turn).random() * seconds_of_all_inserts)
        child.kill()
        acknowledged = child.hear_all()
    with closing(open_map(path, codec)) as found:
        assert len(found) - len(acknowledged) in (0, 1)  # the last one may be on its way
        assert_complete(found, len(found), codec)
        if len(found) < INSERTS:
            found.add(new(len(found) + 1, codec))
            assert not found.store_error
    assert os.listdir(path.parent) == [path.name]


def test_it_is_durable_before_add_returns(path):
    """Kill -9 leaves what the kernel has; for a power cut SQLite has to wait for the disk."""
    with make_map_file(path, 1) as file:
        assert file.database.pragma('journal_mode') == 'wal'
        assert file.database.pragma('synchronous') == 2  # FULL


def test_a_log_that_a_power_cut_cut_off(path, tmp_path):
    """Whatever part of the log is on the disk, what is before it is complete."""
    with make_map_file(path) as file:
        sizes = []
        for number in range(1, 21):
            file.add([new(number)])
            sizes.append(Path(f'{path}-wal').stat().st_size)
        whole, log = path.read_bytes(), Path(f'{path}-wal').read_bytes()
    cut = tmp_path / 'cut.vprmap'
    counts = []
    for length in [*sizes, *random.Random(0).sample(range(len(log)), 20)]:
        cut.write_bytes(whole)
        Path(f'{cut}-wal').write_bytes(log[:length])
        with closing(open_map(cut)) as found:
            assert_complete(found, len(found))
            counts.append((length, len(found)))
        cut.unlink()
    counts.sort()
    assert all(fewer <= more for (_, fewer), (_, more) in pairwise(counts))
    assert [dict(counts)[size] for size in sizes] == list(range(1, 21))


def test_a_log_with_a_byte_that_the_disk_lost(path, tmp_path):
    with make_map_file(path) as file:
        for number in range(1, 21):
            file.add([new(number)])
        whole, log = path.read_bytes(), Path(f'{path}-wal').read_bytes()
    for turn in range(20):
        damaged = bytearray(log)
        damaged[random.Random(turn).randrange(32, len(log))] ^= 0x55
        cut = tmp_path / f'{turn}.vprmap'
        cut.write_bytes(whole)
        Path(f'{cut}-wal').write_bytes(damaged)
        with closing(open_map(cut)) as found:
            assert len(found) < 20
            assert_complete(found, len(found))


def _save_again_and_again(line: Connection, path: Path, target: Path) -> None:
    with MapFile(path) as file:
        line.send('open')
        while True:
            file.save_to(target, overwrite=True)
            line.send('saved')


@pytest.mark.parametrize('turn', range(6))
def test_a_copy_is_absent_or_whole_after_kill_9(path, turn):
    make_map_file(path).close()
    with MapFile(path) as file:
        file.add([new(number) for number in range(1, 101)])
    target = path.with_name('copy.vprmap')
    with Child(_save_again_and_again, path, target) as child:
        assert child.hear() == 'open'
        if turn % 2:
            assert child.hear() == 'saved'
        time.sleep(random.Random(turn).random() * 0.03)
        child.kill()
        saved = turn % 2 or 'saved' in child.hear_all()
    assert target.exists() or not saved
    for name in (path, target):
        if name.exists():
            with closing(open_map(name)) as found:
                assert_complete(found, 100)


def test_a_map_that_is_closed_while_it_is_copied(path):
    """A node that loads another map does not wait for the copy of this one."""
    file = make_map_file(path)
    file.add([make_keyframe(number, local=(1860, 128)) for number in range(1, 101)])
    target, failures = path.with_name('copy.vprmap'), []

    def save() -> None:
        try:
            file.save_to(target)
        except MapError as error:
            failures.append(error)

    saving = threading.Thread(target=save)
    saving.start()
    wait_until(lambda: len(os.listdir(path.parent)) > 4)
    file.close()
    saving.join()
    assert target.exists() != bool(failures)
    for name in (path, target):
        if name.exists():
            with MapFile(name) as found:
                assert len(found) == 100


# ---- full disks --------------------------------------------------------------------------------

FULL = 'the disk is full: make room'


def test_a_full_disk_stops_nobody(tmp_path):
    with small_disk(tmp_path / 'disk', 4) as disk:
        path = disk / 'office.vprmap'
        found = open_map(path)
        for number in range(1, 11):
            found.add(new(number))
        assert (found.unsaved, found.store_error) == (0, '')
        ballast = fill_disk(disk)
        for number in range(11, 31):
            found.add(new(number))
            assert FULL in found.store_error
            assert str(path) in found.store_error
            assert found.unsaved == number - 10
            assert_recognises(found, number)
            assert_recognises(found, number - 10)
        assert not found.why_closed
        ballast.unlink()
        found.add(new(31))
        assert (found.unsaved, found.store_error) == (0, '')
        assert_complete(found, 31)
        found.close()
        with closing(open_map(path)) as again:
            assert_complete(again, 31)


def test_what_was_kept_before_the_disk_was_full_stays(tmp_path):
    """The node ends, or is killed, while the disk is full; there is not even room to tidy up."""
    with small_disk(tmp_path / 'disk', 2) as disk:
        path = disk / 'office.vprmap'
        for end in ('close', 'kill'):
            with Child(_fill_and_end, path, end) as child:
                assert child.hear() == (10, 2)
                child.kill()
            with closing(KeyframeMap(MapFile(path, read_only=True))) as found:
                assert_complete(found, 10)
            (disk / 'ballast').unlink()
            with closing(open_map(path)) as found:
                assert_complete(found, 10)
            path.unlink()


def _fill_and_end(line: Connection, path: Path, end: str) -> None:
    found = open_map(path)
    for number in range(1, 11):
        found.add(new(number))
    fill_disk(path.parent)
    for number in (11, 12):
        found.add(new(number))
    counts = len(found) - found.unsaved, found.unsaved
    if end == 'close':
        found.close()
    line.send(counts)
    line.recv()


def test_a_map_closes_when_more_waits_than_the_memory_may_take(tmp_path):
    with small_disk(tmp_path / 'disk', 2) as disk:
        found = open_map(disk / 'office.vprmap', cache_bytes=5 * new(1).nbytes)
        found.add(new(1))
        ballast = fill_disk(disk)
        for number in range(2, 8):
            assert not found.why_closed
            found.add(new(number))
        assert found.why_closed.startswith('6 keyframes wait to be written: ')
        assert FULL in found.why_closed
        assert_recognises(found, 7)
        ballast.unlink()
        found.flush()
        assert (found.why_closed, found.store_error, found.unsaved) == ('', '', 0)
        assert_complete(found, 7)
        found.close()


def test_figures_can_be_asked_for_while_keyframes_wait(tmp_path):
    """The node's status timer is another thread than the one that adds."""
    with small_disk(tmp_path / 'disk', 2) as disk, switching_often():
        found = open_map(disk / 'office.vprmap')
        found.add(new(1))
        fill_disk(disk)

        def add() -> None:
            for number in range(2, 400):
                found.add(new(number))

        thread = threading.Thread(target=add)
        thread.start()
        nbytes = 0
        while thread.is_alive():
            before, nbytes = nbytes, found.nbytes
            assert nbytes >= before
            assert not found.why_closed
        thread.join()
        assert found.unsaved == 398
        assert found.nbytes > 398 * new(2).nbytes


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_merge_that_does_not_fit_on_the_disk_is_an_error(tmp_path, overwrite):
    source = tmp_path / 'source.vprmap'
    with make_map_file(source) as file:
        file.add([make_keyframe(n, local=(1000, 16)) for n in range(1, 101)])
    with small_disk(tmp_path / 'disk', source.stat().st_size // 2**20 + 3) as disk:
        target = disk / 'merged.vprmap'
        if overwrite:
            with make_map_file(target) as file:
                file.add([new(1)])
        with pytest.raises(MapError, match='the disk is full: make room'):
            merge_maps([str(source)], str(target), overwrite=overwrite)
        assert target.exists() == overwrite
        if overwrite:
            with MapFile(target, read_only=True) as file:
                assert len(file) == 1


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns a thousand times as often: what can go wrong between two does."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 1000)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def test_poses_and_removals_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / 'disk', 2) as disk:
        path = disk / 'office.vprmap'
        with make_map_file(path) as file:
            file.add([new(number) for number in range(1, 21)])
        found = open_map(path)
        ballast = fill_disk(disk)
        with pytest.raises(MapError, match=FULL):
            found.remove([KeyframeId(1, number) for number in range(1, 21)])
        assert_complete(found, 20)
        moved = MapPose('map', Pose([1, 2, 3], [0, 0, 0, 1]))
        assert found.set_map_poses({KeyframeId(1, 7): moved}) == 1
        assert FULL in found.store_error
        assert found[KeyframeId(1, 7)].map_pose == moved
        with pytest.raises(MapError, match=FULL):
            found.set_external_keys({KeyframeId(1, 7): 7})
        ballast.unlink()
        assert found.remove([KeyframeId(1, 20)]) == 1
        found.close()
        with closing(open_map(path)) as again:
            assert_complete(again, 19)
            assert_same_pose(again[KeyframeId(1, 7)].place, moved.pose)


def test_a_new_map_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / 'disk', 2) as disk:
        ballast = fill_disk(disk)
        with pytest.raises(MapError, match=FULL):
            open_map(disk / 'office.vprmap')
        ballast.unlink()
        with closing(open_map(disk / 'office.vprmap')) as found:
            found.add(new(1))
            assert not found.store_error


def _reach_the_limit(line: Connection, path: Path) -> None:
    """A limit of file sizes is what a full disk is to a user without rights."""
    found = open_map(path)
    for number in range(1, 6):
        found.add(new(number))
    log = Path(f'{path}-wal').stat().st_size
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log + 10_000, limit[1]))
    for number in range(6, 11):
        found.add(new(number))
        assert_recognises(found, number)
    line.send((found.unsaved, found.store_error))
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    found.add(new(11))
    line.send((found.unsaved, found.store_error))
    found.close()


def test_a_limit_of_file_sizes(path):
    with Child(_reach_the_limit, path) as child:
        unsaved, error = child.hear()
        assert unsaved == 5
        assert 'disk is full: make room' in error or 'quota is used up: check both' in error
        assert child.finish() == [(0, '')]
    with closing(open_map(path)) as found:
        assert_complete(found, 11)


# ---- lost files and rights ---------------------------------------------------------------------


@pytest.mark.parametrize('loss', ['deleted', 'moved', 'replaced', 'all deleted'])
def test_a_file_that_is_lost_while_it_is_open(path, loss):
    """What goes into a file without a name would be gone at the end: it waits in memory, told."""
    make_map_file(path.with_name('other.vprmap'), 2).close()
    found = open_map(path)
    for number in range(1, 4):
        found.add(new(number))
    {'deleted': path.unlink,
     'moved': lambda: path.rename(path.with_name('moved.vprmap')),
     'replaced': lambda: path.with_name('other.vprmap').replace(path),
     'all deleted': lambda: [name.unlink() for name in path.parent.iterdir()]}[loss]()
    for number in (4, 5):
        found.add(new(number))
        assert 'it was moved, deleted or replaced while it was open' in found.store_error
        assert_recognises(found, number)
    assert found.unsaved == 2
    for number in (1, 3):  # from the file, which is still there for who has it open
        found._store.cache.drop(KeyframeId(1, number))
        assert_recognises(found, number)
    saved = path.with_name('saved.vprmap')
    found.save_to(saved)
    found.close()
    with closing(open_map(saved)) as again:
        assert_complete(again, 3)


def test_a_file_that_comes_back_takes_what_waited(path):
    found = open_map(path)
    found.add(new(1))
    moved = path.rename(path.with_name('moved'))
    found.add(new(2))
    assert found.unsaved == 1
    moved.rename(path)
    found.add(new(3))
    assert (found.unsaved, found.store_error) == (0, '')
    found.close()
    with closing(open_map(path)) as again:
        assert_complete(again, 3)


def _without_rights(line: Connection, folder: Path) -> None:
    """As a user without rights: the folder and the file become read-only while it runs."""
    new(1)  # what this imports may be out of that user's reach
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    path = folder / 'office.vprmap'
    found = open_map(path)
    found.add(new(1))
    path.chmod(0o444)
    folder.chmod(0o555)
    assert not os.access(folder, os.W_OK)
    for number in range(2, 31):
        found.add(new(number))
        assert_recognises(found, number)
    line.send((found.unsaved, found.store_error))
    found.close()
    with closing(KeyframeMap(MapFile(path, read_only=True))) as again:
        line.send(len(again))
        assert_complete(again, 30 - found.unsaved)
    with pytest.raises(MapError, match='check its permissions'):
        open_map(path)
    folder.chmod(0o755)
    with pytest.raises(MapError, match='check its permissions'):
        open_map(path)
    path.chmod(0o644)
    with closing(open_map(path)) as again:
        assert_complete(again, 30 - found.unsaved)


def test_rights_that_are_lost_while_it_is_open():
    """Who has a file open keeps the right to write to it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with Child(_without_rights, Path(name)) as child:
            assert child.finish() == [(0, ''), 30]
        assert os.listdir(name) == ['office.vprmap']


# ---- damage ------------------------------------------------------------------------------------


def test_damaged_local_features_are_told_and_others_work(path):
    large = make_keyframe(12, dim=256, local=(480, 64))
    with make_map_file(path) as file:
        file.add([large if number == 12 else new(number) for number in range(1, 31)])
    content = path.read_bytes()
    # In the middle of keyframe 12's features: a page that begins with the number of the next.
    local = large.local
    assert local
    page = content.index(local.data.tobytes()[30_000:30_064]) // PAGE_BYTES
    with path.open('r+b') as damaged:
        damaged.seek(page * PAGE_BYTES)
        damaged.write(b'\xff\xff\xff\xf0')
    with closing(open_map(path, cache_bytes=3 * local.nbytes)) as found:
        assert not found.store_error
        assert found.local_features(KeyframeId(1, 12)) is None
        assert found.store_error == (f'{path}: it is damaged: go back to a copy of it '
                                     '(database disk image is malformed)')
        for number in (*range(1, 12), *range(13, 31)):
            assert_recognises(found, number)
        best = found.search(new(12).keyframe.global_descriptor, 1)[0]
        assert best.keyframe.id == KeyframeId(1, 12)
        found.add(new(31))
        assert_recognises(found, 31)
        assert found.unsaved == 0


# ---- the search graph --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def with_graph(tmp_path_factory) -> Path:
    """A map of 130 keyframes with their search graph."""
    path = tmp_path_factory.mktemp('graph') / 'office.vprmap'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyframe_index, 'GRAPH_FROM', 50)
        add_many(path, 1, 130)
    return path


@pytest.fixture
def small_graphs(path, with_graph, monkeypatch) -> None:
    """A graph from 50 keyframes on, in use from 100 on, kept every 60; and the map above."""
    monkeypatch.setattr(keyframe_index, 'GRAPH_FROM', 50)
    monkeypatch.setattr(keyframe_map, 'GRAPH_KEPT_EVERY', 60)
    shutil.copy(with_graph, path)


def add_many(path: Path, first: int, last: int) -> None:
    with closing(open_map(path)) as found:
        for number in range(first, last + 1):
            found.add(new(number))
        assert not found.store_error


def kept_graph(path: Path) -> bytes:
    with MapFile(path, read_only=True) as file:
        return file.graph()


def keep_graph(path: Path, graph: bytes) -> None:
    with MapFile(path) as file:
        file.keep_graph(graph)


def assert_finds_all(found: KeyframeMap, count: int) -> None:
    assert len(found) == count
    assert found._index
    assert (found._index.kind, len(found._index)) == (keyframe_index.HNSW, count)
    for number in range(1, count + 1):
        assert_recognises(found, number)


def test_a_kept_graph_is_loaded(path, small_graphs, monkeypatch):
    assert kept_graph(path)
    extended = []
    extend = keyframe_index.KeyframeIndex._extend_graph
    monkeypatch.setattr(keyframe_index.KeyframeIndex, '_extend_graph',
                        lambda *arguments: extended.append(arguments) or extend(*arguments))
    with closing(open_map(path)) as found:
        assert not extended  # nothing had to be put in
        assert_finds_all(found, 130)
        assert not found.store_error


def _add_and_wait(line: Connection, path: Path) -> None:
    found = open_map(path)
    for number in range(1, 151):
        found.add(new(number))
    line.send('added')
    line.recv()


def test_keyframes_that_came_after_the_kept_graph_join_it(path, small_graphs):
    path.unlink()
    with Child(_add_and_wait, path) as child:
        assert child.hear() == 'added'
    assert kept_graph(path)  # of 120 keyframes
    with closing(open_map(path)) as found:
        assert not found.store_error
        assert_finds_all(found, 150)


def test_a_graph_is_gone_with_keyframes_that_were_in_it(path, small_graphs):
    with MapFile(path) as file:
        file.remove([KeyframeId(1, number) for number in range(121, 131)])
        assert file.graph() == b''
    with closing(open_map(path)) as found:
        assert_finds_all(found, 120)
    assert kept_graph(path)


@pytest.mark.parametrize('damage', [
    lambda _: b'',
    lambda _: b'no graph',
    lambda graph: graph[:100],
    lambda graph: graph[:len(graph) // 2],
    lambda graph: graph[:-1],
    lambda graph: bytes(len(graph)),
    lambda _: graph_of(140, 256),
    lambda _: graph_of(130, 16),
], ids=['none', 'text', 'begun', 'half', 'cut', 'zeros', 'of more keyframes', 'of another model'])
def test_a_damaged_or_foreign_graph_is_made_again(path, small_graphs, damage):
    damaged = damage(kept_graph(path))
    keep_graph(path, damaged)
    with closing(open_map(path)) as found:
        assert ('is made again' in found.store_error) == bool(damaged)
        assert_finds_all(found, 130)
    with closing(open_map(path)) as found:
        assert not found.store_error
        assert_finds_all(found, 130)


def graph_of(count: int, dim: int) -> bytes:
    """A graph of other keyframes."""
    index = keyframe_index.KeyframeIndex(dim, keyframe_index.HNSW)
    for row in unit_rows(count, dim):
        index.add(row[None])
    assert index.kind == keyframe_index.HNSW
    return index.graph_bytes()


def _find_all(line: Connection, path: Path) -> None:
    with closing(KeyframeMap(MapFile(path, read_only=True))) as found:
        assert_finds_all(found, 130)


def test_a_graph_with_changed_bytes_is_no_danger(path, small_graphs):
    """Its links are row numbers: a wrong one would lead the search out of the memory."""
    graph = kept_graph(path)
    content = path.read_bytes()
    places = np.random.default_rng(0).integers(len(graph), size=8)
    for place in places:
        start = content.index(graph[place - place % 64:place - place % 64 + 64])
        damaged = bytearray(content)
        damaged[start + place % 64] ^= 0x40
        path.write_bytes(damaged)
        with Child(_find_all, path) as child:
            child.finish()


def test_a_graph_that_cannot_be_read_is_made_again(path, small_graphs):
    graph = kept_graph(path)
    page = path.read_bytes().index(graph[20_000:20_064]) // PAGE_BYTES
    with path.open('r+b') as damaged:
        damaged.seek(page * PAGE_BYTES)
        damaged.write(b'\xff\xff\xff\xf0')
    with closing(open_map(path)) as found:
        assert_finds_all(found, 130)
        found.add(new(131))
        assert_finds_all(found, 131)


# ---- more than the memory ----------------------------------------------------------------------

BIG, CACHE_MIB = 2100, 512
READ_ALL = """
import json, random, sys
from pathlib import Path
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.file.map_file import MapFile

def memory_kb(name):  # ru_maxrss would be that of the process which started this one
    return int(Path('/proc/self/status').read_text().split(name + ':')[1].split()[0])

before = memory_kb('VmRSS')
keyframe_map = KeyframeMap(MapFile(Path(sys.argv[1])), cache_bytes=int(sys.argv[2]) << 20)
ids = [keyframe.id for keyframe in keyframe_map] * 2
random.Random(0).shuffle(ids)
wrong = 0
for keyframe_id in ids:
    local = keyframe_map.local_features(keyframe_id)
    wrong += local is None or int(local.data[0, 0]) != keyframe_id.keyframe_id % 2048
print(json.dumps({'read': len(ids), 'wrong': wrong, 'error': keyframe_map.store_error,
                  'cached': keyframe_map._store.cache.nbytes >> 20,
                  'MiB': (memory_kb('VmHWM') - before) >> 10}))
keyframe_map.close()
"""


@pytest.fixture
def big_map(path) -> Path:
    """2100 keyframes with SelaVPR's local features: 2 GB."""
    if shutil.disk_usage(path.parent).free < 5e9:
        pytest.skip('needs 5 GB of disk')
    file = make_map_file(path)
    for pragma in ('journal_mode = OFF', 'synchronous = OFF'):  # it is made for a test
        file.database.execute(f'PRAGMA {pragma}')
    features = make_keyframe(1, local=(3721, 128)).local
    assert features
    bare = make_keyframe(1, dim=1024)
    for start in range(1, BIG + 1, 100):
        several = []
        for number in range(start, start + 100):
            data = features.data.copy()
            data[0, 0] = number % 2048  # float16 has all of these
            several.append(replace(
                bare, local=replace(features, data=data),
                keyframe=replace(bare.keyframe, id=KeyframeId(1, number))))
        file.add(several)
    file.close()
    return path


def test_a_map_that_is_larger_than_the_memory_for_it(big_map):
    assert big_map.stat().st_size > 2e9
    done = subprocess.run(
        [sys.executable, '-c', READ_ALL, str(big_map), str(CACHE_MIB)], capture_output=True,
        text=True, timeout=120)
    big_map.unlink()
    assert not done.returncode, done.stderr
    seen = json.loads(done.stdout)
    assert (seen['read'], seen['wrong'], seen['error']) == (2 * BIG, 0, '')
    assert CACHE_MIB - 1 <= seen['cached'] <= CACHE_MIB
    assert seen['MiB'] < CACHE_MIB + 150


def test_threads_use_one_map(path):
    """The node reads details and saves copies while its worker adds and searches."""
    with closing(open_map(path)) as found:
        for number in range(1, 31):
            found.add(new(number))
        stop, failures = threading.Event(), []

        def save() -> None:
            try:
                for number in range(1000):
                    if stop.is_set():
                        return
                    found.save_to(path.with_name(f'copy{number % 2}'), overwrite=True)
                    found.details(KeyframeId(1, 1))
            except BaseException as error:  # the main thread tells
                failures.append(error)

        saving = threading.Thread(target=save)
        saving.start()
        for number in range(31, 131):
            found.add(new(number))
            assert_recognises(found, number)
        stop.set()
        saving.join()
        assert not failures
        assert_complete(found, 130)
    with MapFile(path.with_name('copy0'), read_only=True) as copy:
        last = list(copy.keyframes())[-1]
        assert_same_keyframe(copy, last, new(len(copy)))
