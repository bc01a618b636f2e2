"""The map file: nothing is lost or changed in it, and it refuses what it cannot trust."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing
from dataclasses import replace
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
    make_session,
    small_disk,
    wait_until,
)

from selavpr_ros.decision.unrelated import Unrelated
from selavpr_ros.errors import MapError
from selavpr_ros.maps.file import map_file, versions
from selavpr_ros.maps.file.database import PAGE_BYTES, Database
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.rows import bytes_by_table
from selavpr_ros.maps.file.schema import APPLICATION_ID, VERSION, new_manifest
from selavpr_ros.maps.keyframe import KeyframeId, MapPose, SessionId
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.local_codec import BINARY, CODECS, FLOAT16, NONE
from selavpr_ros.maps.opening import open_map
from selavpr_ros.pose import Pose
from selavpr_ros.settings import Settings, replace_setting

MANIFEST = new_manifest(MODEL, FLOAT16)
NOBODY = 65534


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / 'office.vprmap'


@pytest.fixture
def closed(path) -> Path:
    """A complete map of 20 keyframes that nobody has open."""
    make_map_file(path, 20, thumbnail=b'\xff\xd8 a picture \xff\xd9').close()
    return path


def ids(file: MapFile) -> list[str]:
    return [str(keyframe.id) for keyframe in file.keyframes()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit(path: Path, *statements: str) -> None:
    """Change a closed map behind its back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# ---- what goes in comes out --------------------------------------------------------------------


@pytest.mark.parametrize('codec', CODECS)
def test_every_field_comes_back_bit_by_bit(path, codec):
    turned = MapPose('map', Pose([1 / 3, -2e5, 1e-9], [0.5, -0.5, 0.5, 0.5]))
    new = make_keyframe(
        1, session=3, robot=7, codec=codec, dim=1024, local=(31, 20), map_pose=turned,
        thumbnail=bytes(range(256)), covariance=np.random.default_rng(0).random(36),
        external_key=2**64 - 1)
    manifest = new_manifest(MODEL, codec)
    with MapFile(path, manifest) as file:
        file.add([new])
    with MapFile(path) as file:
        assert file.manifest == manifest
        assert file.codec == codec
        found, = file.keyframes()
        assert_same_keyframe(file, found, new)
        assert file.thumbnail(found.id) == new.thumbnail
        covariance, external_key = file.details(found.id)
        np.testing.assert_array_equal(covariance, new.covariance)
        assert external_key == 2**64 - 1
        assert file.sessions() == [
            replace(new.session, origin=f'{manifest.uuid}/7/3')]


def test_what_a_keyframe_has_not_stays_away(path):
    bare = make_keyframe(1, codec=NONE)
    bare = replace(bare, keyframe=replace(bare.keyframe, pose=None))
    with make_map_file(path) as file:
        file.add([bare])
        found, = file.keyframes()
        assert_same_keyframe(file, found, bare)
        assert found.pose is None
        assert file.local_features(found.id) is None
        assert file.thumbnail(found.id) == b''
        assert file.details(found.id) == (None, 0)


@pytest.mark.parametrize('stamp_ns', [0, 1, 1_750_000_000_123_456_789, 2**63 - 1])
def test_stamps_are_exact(path, stamp_ns):
    new = make_keyframe(1)
    with make_map_file(path) as file:
        file.add([replace(new, keyframe=replace(new.keyframe, stamp_ns=stamp_ns))])
        assert next(file.keyframes()).stamp_ns == stamp_ns


def test_words_of_sessions_are_kept(path):
    session = replace(
        make_session(2), label="Büro; 'north'\n\x00 DROP TABLE", frame='öдом', model_id='',
        origin='elsewhere/2', started_ns=-1)
    with make_map_file(path) as file:
        file.add([replace(make_keyframe(1, session=2), session=session)])
        assert file.sessions() == [session]


def test_order_is_that_of_coming(path):
    wanted = [(1, 5, 0), (2, 5, 0), (1, 2, 0), (1, 9, 3), (1, 1, 3), (2, 1, 3), (3, 5, 0)]
    with make_map_file(path) as file:
        for number, session, robot in wanted:
            file.add([make_keyframe(number, session, robot)])
    with MapFile(path) as file:
        assert [(k.id.keyframe_id, k.id.session_id, k.id.robot_id)
                for k in file.keyframes()] == wanted
        assert [s.id for s in file.sessions()] == [
            SessionId(5), SessionId(2), SessionId(9, 3), SessionId(1, 3)]
        assert len(file) == 7


def test_more_keyframes_than_are_read_in_one_go(path, monkeypatch):
    monkeypatch.setattr(map_file, 'KEYFRAMES_AT_ONCE', 7)
    for count in (6, 7, 8, 21):
        with make_map_file(path, count) as file:
            file.remove([KeyframeId(1, 5)])
            assert [k.id.keyframe_id for k in file.keyframes()] == [
                number for number in range(1, count + 1) if number != 5]
        path.unlink()


def test_all_or_none_are_added(path):
    with make_map_file(path, 2) as file:
        with pytest.raises(MapError, match='a keyframe of this id is in it already'):
            file.add([make_keyframe(3), make_keyframe(2)])
        assert ids(file) == ['1:1', '1:2']
        file.add([make_keyframe(3)])
        assert ids(file) == ['1:1', '1:2', '1:3']


def test_an_unknown_keyframe_has_nothing(closed):
    unknown = KeyframeId(1, 99)
    with MapFile(closed) as file:
        assert file.local_features(unknown) is None
        assert file.thumbnail(unknown) == b''
        assert file.graph() == b''
        with pytest.raises(MapError, match=r'there is no keyframe 1:99'):
            file.details(unknown)


def test_bytes_by_table(closed):
    with MapFile(closed) as file:
        assert bytes_by_table(file.database) == {
            'descriptors': (20, 20 * 32 * 4), 'local features': (20, 20 * 6 * 16 * 2),
            'thumbnails': (20, 20 * 15)}


@pytest.mark.parametrize('name', [
    'a map.vprmap', 'what?mode=ro&x#y.vprmap', '100%25.vprmap', 'Büro ☂.vprmap',
    os.fsdecode(b'latin-\xe9.vprmap')])
def test_any_file_name(tmp_path, name):
    path = tmp_path / name
    make_map_file(path, 2).close()
    assert os.listdir(tmp_path) == [name]
    for read_only in (False, True):
        with MapFile(path, read_only=read_only) as file:
            assert len(file) == 2


# ---- changes -----------------------------------------------------------------------------------


def test_set_map_poses(closed):
    first, second, unknown = (KeyframeId(1, number) for number in (1, 2, 99))
    poses = [MapPose('map', Pose([x, 0, 0], [0, 0, 0, 1])) for x in (1.0, 2.0, 3.0)]
    with MapFile(closed) as file:
        assert file.set_map_poses({first: poses[0], second: poses[1], unknown: poses[2]}) == 2
        assert file.set_map_poses({second: poses[2]}) == 1
    with MapFile(closed) as file:
        found = {k.id: k for k in file.keyframes()}
        for keyframe_id, wanted in ((first, poses[0]), (second, poses[2])):
            assert found[keyframe_id].map_pose.frame == 'map'
            assert_same_pose(found[keyframe_id].place, wanted.pose)
        assert found[KeyframeId(1, 3)].map_pose is None


def test_set_external_keys(closed):
    first, second, unknown = (KeyframeId(1, number) for number in (1, 2, 99))
    with MapFile(closed) as file:
        assert file.set_external_keys({first: 2**64 - 1, second: 7, unknown: 8}) == 2
        assert file.set_external_keys({second: 0}) == 1
        assert [file.details(k)[1] for k in (first, second)] == [2**64 - 1, 0]


def test_remove_takes_all_that_belonged_to_it(path):
    posed = MapPose('map', Pose([0, 0, 0], [0, 0, 0, 1]))
    with make_map_file(path, 40, map_pose=posed, thumbnail=bytes(2000), local=(100, 64)) as file:
        file.keep_graph(b'a graph')
        before = file.nbytes
        gone = [KeyframeId(1, number) for number in range(1, 40, 2)]
        assert file.remove([*gone, KeyframeId(1, 99)]) == 20
        assert file.remove(gone) == 0
        assert ids(file) == [f'1:{number}' for number in range(2, 41, 2)]
        assert file.nbytes < 0.65 * before
        assert [rows for rows, _ in bytes_by_table(file.database).values()] == [20, 20, 20]
        assert file.graph() == b''
        assert file.local_features(gone[0]) is None
        for number in (2, 40):
            assert_same_local(file.local_features(KeyframeId(1, number)), make_keyframe(
                number, local=(100, 64)).local)
    with closing(sqlite3.connect(path)) as connection:
        for table in ('map_poses', 'local_features', 'thumbnails'):
            assert connection.execute(f'SELECT count(*) FROM {table}').fetchone() == (20,)


def test_a_number_that_is_free_again_has_nothing_of_the_old_keyframe(path):
    with make_map_file(path, 3, thumbnail=b'old') as file:
        file.remove([KeyframeId(1, 3)])
        new = make_keyframe(4, codec=NONE)
        file.add([new])
        *_, found = file.keyframes()
        assert_same_keyframe(file, found, new)
        assert file.thumbnail(found.id) == b''


def test_graph_is_kept_and_replaced(closed):
    with MapFile(closed) as file:
        file.keep_graph(b'first')
        file.keep_graph(bytes(range(256)) * 1000)
    with MapFile(closed) as file:
        assert file.graph() == bytes(range(256)) * 1000


def test_what_is_known_of_unrelated_images_is_kept_and_replaced(closed):
    copy = closed.with_name('copy.vprmap')
    with MapFile(closed) as file:
        assert file.unrelated() == ''
        file.keep_unrelated('first')
        file.keep_unrelated(Unrelated(level=1 / 3).to_json())
        manifest = file.manifest
        file.save_to(copy)
    for each in (closed, copy):
        with MapFile(each, read_only=True) as file:
            assert Unrelated.from_json(file.unrelated()) == Unrelated(level=1 / 3)
            assert file.manifest == manifest


def test_closed_is_closed(closed):
    file = MapFile(closed)
    file.close()
    file.close()
    for use in (file.sessions, lambda: file.add([make_keyframe(21)]), lambda: len(file),
                lambda: file.save_to(closed.with_name('copy'))):
        with pytest.raises(MapError, match='it is closed'):
            use()


def test_summaries_and_stamps(path):
    posed = MapPose('map', Pose([0, 0, 0], [0, 0, 0, 1]))
    with make_map_file(path) as file:
        bare = make_keyframe(1, session=2)
        file.add([make_keyframe(1, session=4, map_pose=posed, thumbnail=b'jpeg'),
                  make_keyframe(2, session=4),
                  replace(bare, keyframe=replace(bare.keyframe, pose=None))])
        first, second = file.summaries()
        assert (first.session, second.session) == tuple(file.sessions())
        assert (first.keyframes, first.last_ns, first.with_pose, first.with_map_pose) == (
            2, 2_000_000_000, 2, 1)
        assert (second.keyframes, second.with_pose, second.with_map_pose) == (1, 0, 0)
        assert list(file.stamps()) == [
            (KeyframeId(4, 1), 1_000_000_000), (KeyframeId(4, 2), 2_000_000_000),
            (KeyframeId(2, 1), 1_000_000_000)]
        assert [str(k) for k, _ in file.stamps(with_thumbnail=True)] == ['4:1']
        file.remove([KeyframeId(2, 1)])
        assert [s.keyframes for s in file.summaries()] == [2, 0]


# ---- several at once ---------------------------------------------------------------------------


def _read_until(line: Connection, path: Path, count: int) -> None:
    """Read a map again and again until it has so many keyframes; all of them are right."""
    with MapFile(path, read_only=True) as file:
        while True:
            found = list(file.keyframes())
            assert [k.id.keyframe_id for k in found] == list(range(1, len(found) + 1))
            if found:
                assert_same_keyframe(file, found[-1], make_keyframe(len(found)))
            line.send(len(found))
            if len(found) == count:
                return


def test_other_processes_read_while_this_one_adds(path):
    make_map_file(path, 1).close()
    with Child(_read_until, path, 60) as one, Child(_read_until, path, 60) as other:
        assert (one.hear(), other.hear()) == (1, 1)
        with MapFile(path) as file:
            for number in range(2, 61):
                file.add([make_keyframe(number)])
                for child in (one, other) if number % 20 == 0 else ():
                    while child.hear() < number:
                        pass
            for child in (one, other):
                assert set(child.finish()) <= {60}


def test_a_snapshot_is_one_state(closed):
    with MapFile(closed) as writer, MapFile(closed, read_only=True) as file:
        with file.snapshot():
            assert len(file) == 20
            writer.add([make_keyframe(21)])
            assert (len(file), len(ids(file)), file.summaries()[0].keyframes) == (20, 20, 20)
        assert len(file) == 21


def test_a_half_read_list_keeps_nobody_from_adding(closed):
    with MapFile(closed) as file:
        half_read = file.keyframes()
        next(half_read)
        writer = threading.Thread(target=file.add, args=([make_keyframe(21)],), daemon=True)
        writer.start()
        writer.join(5)
        assert not writer.is_alive()
        assert len(list(half_read)) >= 19
        assert len(file) == 21


def test_threads_add_and_read_at_once(path):
    failures: list[BaseException] = []

    def use(session: int) -> None:
        try:
            for number in range(1, 16):
                file.add([make_keyframe(number, session)])
                wanted = make_keyframe(number, session)
                assert_same_local(file.local_features(wanted.keyframe.id), wanted.local)
                assert sum(k.id.session_id == session for k in file.keyframes()) == number
        except BaseException as error:  # the main thread tells
            failures.append(error)

    with make_map_file(path) as file:
        threads = [threading.Thread(target=use, args=(session,)) for session in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(file) == 45


def test_a_second_writer_is_refused(closed):
    words = 'another node or program writes to this map: end it, or open the map read-only'
    with MapFile(closed):
        with pytest.raises(MapError, match=words):
            MapFile(closed)
        with pytest.raises(MapError, match=words):
            MapFile(closed, MANIFEST)
        with MapFile(closed, read_only=True) as reader:
            assert len(reader) == 20
    with MapFile(closed) as file:
        assert len(file) == 20


def test_a_second_writer_by_another_name_is_refused(closed):
    link = closed.with_name('current.vprmap')
    link.symlink_to(closed.name)
    with (MapFile(closed), pytest.raises(MapError, match='another node or program writes')):
        MapFile(link)
    with (MapFile(link), pytest.raises(MapError, match='another node or program writes')):
        MapFile(closed)


def _hold(line: Connection, path: Path) -> None:
    with MapFile(path, MANIFEST) as file:
        file.add([make_keyframe(21)])
        line.send('open')
        line.recv()


def test_a_writer_in_another_process_keeps_others_out_until_it_is_killed(closed):
    with Child(_hold, closed) as child:
        assert child.hear() == 'open'
        with pytest.raises(MapError, match='another node or program writes to this map'):
            MapFile(closed)
        with MapFile(closed, read_only=True) as file:
            assert len(file) == 21
        child.kill()
        with MapFile(closed) as file:
            assert len(file) == 21
            file.add([make_keyframe(22)])
    assert os.listdir(closed.parent) == [closed.name]


# ---- read-only ---------------------------------------------------------------------------------


def test_read_only_writes_nothing(closed):
    before = digest(closed)
    with MapFile(closed, read_only=True) as file:
        assert len(file) == 20
        for write in (lambda: file.add([make_keyframe(21)]), lambda: file.keep_graph(b'x'),
                      lambda: file.keep_unrelated('x'),
                      lambda: file.remove([KeyframeId(1, 1)]), lambda: file.set_map_poses({}),
                      lambda: file.set_external_keys({})):
            with pytest.raises(MapError, match='it was opened read-only'):
                write()
    assert digest(closed) == before


def test_read_only_sees_what_a_killed_writer_left_in_the_log(closed):
    with Child(_hold, closed) as child:
        child.hear()
    assert Path(f'{closed}-wal').stat().st_size > 0
    with MapFile(closed, read_only=True) as file:
        assert len(file) == 21


@pytest.fixture
def open_folder():
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _as_nobody(line: Connection, folder: Path) -> None:
    """Read a map in a folder that this user may not write to."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    assert not os.access(folder, os.W_OK)
    path = folder / 'office.vprmap'
    with MapFile(path, read_only=True) as file:
        assert len(file) == 20
        for found in file.keyframes():
            assert_same_keyframe(file, found, make_keyframe(found.id.keyframe_id))
        line.send(file.save_to(Path(tempfile.gettempdir(), f'copy_{os.getpid()}.vprmap')))
        Path(tempfile.gettempdir(), f'copy_{os.getpid()}.vprmap').unlink()
    for target in (path, folder / 'new.vprmap'):
        with pytest.raises(MapError, match='check its permissions'):
            MapFile(target, MANIFEST)


def test_read_only_in_a_folder_that_cannot_be_written(open_folder):
    path = open_folder / 'office.vprmap'
    make_map_file(path, 20).close()
    path.chmod(0o444)
    open_folder.chmod(0o555)
    before = digest(path)
    with Child(_as_nobody, open_folder) as child:
        assert child.finish()[0] > 0
    assert os.listdir(open_folder) == [path.name]
    assert digest(path) == before


def _in_a_hidden_folder(line: Connection, folder: Path) -> None:
    if os.getuid() == 0:
        os.setuid(NOBODY)
    for read_only in (False, True):
        with pytest.raises(MapError, match='check its permissions'):
            MapFile(folder / 'office.vprmap', MANIFEST, read_only=read_only)


def test_a_folder_that_cannot_be_entered(open_folder):
    hidden = open_folder / 'hidden'
    hidden.mkdir()
    make_map_file(hidden / 'office.vprmap', 1).close()
    hidden.chmod(0o000)
    try:
        with Child(_in_a_hidden_folder, hidden) as child:
            child.finish()
    finally:
        hidden.chmod(0o700)


def test_read_only_disk(tmp_path):
    with small_disk(tmp_path / 'disk', 4) as disk:
        path = disk / 'office.vprmap'
        make_map_file(path, 20).close()
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
        with MapFile(path, read_only=True) as file:
            assert len(file) == 20
        with pytest.raises(MapError, match='cannot be written: check its permissions'):
            MapFile(path)


# ---- copies ------------------------------------------------------------------------------------


def test_save_to(closed):
    target = closed.with_name('copy.vprmap')
    with MapFile(closed) as file:
        file.add([make_keyframe(21)])
        nbytes = file.save_to(target)
        manifest = file.manifest
    assert nbytes == target.stat().st_size
    assert sorted(os.listdir(closed.parent)) == ['copy.vprmap', 'office.vprmap']
    with MapFile(target) as file:
        assert file.manifest == manifest
        for number, found in enumerate(file.keyframes(), start=1):
            assert_same_keyframe(file, found, make_keyframe(number))
        assert number == 21


def test_save_to_while_another_thread_adds(path):
    target = path.with_name('copy.vprmap')
    with make_map_file(path) as file:
        of_100_kb = {'local': (400, 128)}
        file.add([make_keyframe(number, **of_100_kb) for number in range(1, 401)])
        stop = threading.Event()

        def grow() -> None:
            number = 400
            while not stop.is_set():
                number += 1
                file.add([make_keyframe(number, **of_100_kb)])

        writer = threading.Thread(target=grow)
        writer.start()
        try:
            wait_until(lambda: len(file) > 402)
            before = len(file)
            file.save_to(target)
            after = len(file)
        finally:
            stop.set()
            writer.join()
        with MapFile(target, read_only=True) as copy:
            assert before <= len(copy) <= after
            for number in (1, 400, len(copy)):
                wanted = make_keyframe(number, **of_100_kb)
                assert_same_local(copy.local_features(wanted.keyframe.id), wanted.local)
        in_all = len(file)
        assert after > before  # it did add meanwhile
    with MapFile(path) as file:
        assert ids(file) == [f'1:{number}' for number in range(1, in_all + 1)]
        assert file.local_features(KeyframeId(1, in_all)) is not None


def _grow(line: Connection, path: Path) -> None:
    """Add keyframes until the other process says something."""
    new = make_keyframe(1, local=(400, 128))
    with MapFile(path) as file:
        number = len(file)
        while not line.poll():
            number += 1
            file.add([replace(new, keyframe=replace(new.keyframe, id=KeyframeId(1, number)))])
            if number == 105:
                line.send('growing')
        line.send(number)


def test_a_reader_copies_while_another_process_adds(path):
    """The copy must not begin again with every keyframe that comes."""
    with make_map_file(path) as file:
        file.add([make_keyframe(number, local=(1860, 128)) for number in range(1, 101)])
    target = path.with_name('copy.vprmap')
    with Child(_grow, path) as child:
        assert child.hear() == 'growing'
        with MapFile(path, read_only=True) as file:
            before = len(file)
            copying = threading.Thread(target=file.save_to, args=(target,), daemon=True)
            copying.start()
            copying.join(10)
            assert not copying.is_alive()
            after = len(file)
        child.line.send('stop')
        in_all = child.hear()
    with MapFile(target) as copy:
        assert before <= len(copy) <= after <= in_all
        assert copy.local_features(KeyframeId(1, len(copy))) is not None


def test_save_to_without_local_features(closed):
    small, smaller = (closed.with_name(name) for name in ('small', 'smaller'))
    with MapFile(closed, read_only=True) as file:
        whole = file.nbytes
        assert file.save_to(small, without=['local_features']) <= whole  # it has few features
        file.save_to(smaller, without=['local_features', 'thumbnails'])
        assert file.local_features(KeyframeId(1, 1)) is not None
    with MapFile(small) as copy:
        assert len(copy) == 20
        assert not any(k.has_local for k in copy.keyframes())
        assert copy.local_features(KeyframeId(1, 1)) is None
        assert copy.thumbnail(KeyframeId(1, 1)) == b'\xff\xd8 a picture \xff\xd9'
    with MapFile(smaller) as copy:
        assert copy.thumbnail(KeyframeId(1, 1)) == b''


def test_save_to_refuses_what_exists(closed):
    target, text = closed.with_name('copy.vprmap'), closed.with_name('notes.txt')
    make_map_file(target, 3).close()
    text.write_bytes(b'precious')
    before = digest(target)
    with MapFile(closed) as file:
        for name in (target, text):
            with pytest.raises(MapError, match='it exists already: choose another name'):
                file.save_to(name)
        assert digest(target) == before
        file.save_to(target, overwrite=True)
        with pytest.raises(MapError, match='it is a file of another program'):
            file.save_to(text, overwrite=True)
    assert text.read_bytes() == b'precious'
    with MapFile(target) as copy:
        assert len(copy) == 20


@pytest.mark.parametrize('overwrite', [True, False])
def test_save_to_refuses_itself(closed, overwrite):
    link = closed.with_name('link')
    link.symlink_to(closed)
    with MapFile(closed) as file:
        for target in (closed, link, closed.parent / '..' / closed.parent.name / closed.name):
            with pytest.raises(MapError, match='it exists already|it is the open map itself'):
                file.save_to(target, overwrite=overwrite)
        assert len(file) == 20


def test_save_to_a_missing_folder_or_a_folder(closed):
    with MapFile(closed) as file:
        with pytest.raises(MapError, match=r'there is no folder .*/nowhere: make it first'):
            file.save_to(closed.parent / 'nowhere' / 'copy.vprmap')
        with pytest.raises(MapError, match='too long'):
            file.save_to(closed.parent / ('long' * 100), overwrite=True)
        folder = closed.parent / 'folder'
        folder.mkdir()
        with pytest.raises(MapError, match='folder'):
            file.save_to(folder, overwrite=True)
    assert sorted(os.listdir(closed.parent)) == ['folder', 'office.vprmap']


def test_save_to_a_full_disk_leaves_the_old_copy(path, tmp_path):
    with small_disk(tmp_path / 'disk', 2) as disk, make_map_file(path, 3) as file:
        target = disk / 'copy.vprmap'
        file.save_to(target)
        before = digest(target)
        file.add([make_keyframe(number, local=(800, 128)) for number in range(4, 20)])
        with pytest.raises(MapError, match='the disk is full: make room'):
            file.save_to(target, overwrite=True)
        assert os.listdir(disk) == ['copy.vprmap']
        assert digest(target) == before
        fill_disk(disk)
        with pytest.raises(MapError, match='the disk is full: make room'):
            file.save_to(disk / 'other.vprmap', without=['local_features'])
        assert sorted(os.listdir(disk)) == ['ballast', 'copy.vprmap']
        assert len(file) == 19


def test_save_to_over_a_map_whose_writer_was_killed(closed, tmp_path):
    """What is in the old map's log does not belong to the new one."""
    target = tmp_path / 'target.vprmap'
    make_map_file(target, 5, seed=77, dim=8, local=(200, 16)).close()
    with Child(_hold, target) as child:
        child.hear()
    assert Path(f'{target}-wal').stat().st_size > 0
    with MapFile(closed) as file:
        file.save_to(target, overwrite=True)
    with MapFile(target) as copy:
        for number, found in enumerate(copy.keyframes(), start=1):
            assert_same_keyframe(copy, found, make_keyframe(number))
        assert number == 20


def test_save_to_refuses_a_map_that_another_node_writes(closed, tmp_path):
    target = tmp_path / 'target.vprmap'
    with Child(_hold, target) as child:
        child.hear()
        with MapFile(closed) as file, pytest.raises(MapError, match='another node or program'):
            file.save_to(target, overwrite=True)
    with MapFile(target) as copy:
        assert ids(copy) == ['1:21']


# ---- temporary maps ----------------------------------------------------------------------------


def _use_temporary(line: Connection, folder: Path) -> None:
    os.environ['SQLITE_TMPDIR'] = str(folder)
    file = make_map_file(None, 100, local=(400, 128))  # 10 MB, more than SQLite's cache
    line.send((len(file), os.listdir(folder)))
    for number, found in enumerate(file.keyframes(), start=1):
        assert_same_keyframe(file, found, make_keyframe(number, local=(400, 128)))
    file.save_to(folder / 'kept.vprmap')
    file.remove([KeyframeId(1, 1)])
    file.add([make_keyframe(101)])
    line.send(len(file))
    if line.recv() == 'close':
        file.close()
        line.send(os.listdir(folder))


def test_a_temporary_map_leaves_nothing_behind(tmp_path):
    with Child(_use_temporary, tmp_path) as child:
        assert child.hear() == (100, [])
        assert child.hear() == 100
        child.line.send('close')
        assert child.finish() == [['kept.vprmap']]
    with MapFile(tmp_path / 'kept.vprmap') as file:
        assert len(file) == 100


def test_a_temporary_map_of_a_killed_program_leaves_nothing_behind(tmp_path):
    with Child(_use_temporary, tmp_path) as child:
        assert (child.hear(), child.hear()) == ((100, []), 100)
        child.kill()
    assert os.listdir(tmp_path) == ['kept.vprmap']


def test_a_temporary_map_cannot_be_read_only():
    with pytest.raises(MapError, match='a temporary map'):
        MapFile(None, MANIFEST, read_only=True)
    with pytest.raises(MapError, match='a temporary map'):
        MapFile(None)


# ---- versions ----------------------------------------------------------------------------------

STEPS = (
    "CREATE TABLE notes (text TEXT NOT NULL); INSERT INTO notes VALUES ('of version 2')",
    "UPDATE sessions SET label = label || ' (migrated)'; DROP TABLE search_graph;"
    'CREATE TABLE search_graph (number INTEGER PRIMARY KEY, data BLOB NOT NULL);',
)


@pytest.fixture
def newer(monkeypatch) -> None:
    """A program that is two versions newer than the map."""
    monkeypatch.setattr(versions, 'MIGRATIONS', (*versions.MIGRATIONS, *STEPS))
    monkeypatch.setattr(versions, 'VERSION', VERSION + 2)


def user_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute('PRAGMA user_version').fetchone()[0]


def test_there_is_a_migration_from_every_version():
    assert len(versions.MIGRATIONS) == VERSION - 1


def test_an_older_map_is_migrated(closed, newer):
    for _ in range(2):  # only once
        with MapFile(closed) as file:
            assert file.sessions()[0].label == 'lap 1 (migrated)'
            assert len(file) == 20
    assert user_version(closed) == VERSION + 2
    with closing(sqlite3.connect(closed)) as connection:
        assert connection.execute('SELECT * FROM notes').fetchall() == [('of version 2',)]


def test_a_map_of_the_version_between_takes_only_the_last_step(closed, newer):
    edit(closed, *STEPS[0].split(';'), f'PRAGMA user_version = {VERSION + 1}')
    with MapFile(closed) as file:
        assert file.sessions()[0].label == 'lap 1 (migrated)'
    assert user_version(closed) == VERSION + 2


def test_a_migration_that_fails_changes_nothing(closed, newer, monkeypatch):
    monkeypatch.setattr(versions, 'MIGRATIONS', (
        *versions.MIGRATIONS[:-1], "UPDATE sessions SET label = ''; INSERT INTO nowhere VALUES (1)"
    ))
    before = digest(closed)
    with pytest.raises(MapError, match='nowhere'):
        MapFile(closed)
    assert digest(closed) == before
    monkeypatch.undo()
    with MapFile(closed) as file:
        assert file.sessions()[0].label == 'lap 1'


def _migrate_and_stop(line: Connection, path: Path) -> None:
    """Stop in the middle of the last step."""
    versions.MIGRATIONS, versions.VERSION = (*versions.MIGRATIONS, *STEPS), VERSION + 2
    execute = Database.execute

    def stop_at(file: Database, statement: str, values: tuple = ()) -> sqlite3.Cursor:
        if 'DROP TABLE' in statement:
            line.send('here')
            line.recv()
        return execute(file, statement, values)

    Database.execute = stop_at  # type: ignore[method-assign]
    MapFile(path)


def test_a_migration_that_is_killed_changes_nothing(closed):
    with Child(_migrate_and_stop, closed) as child:
        assert child.hear() == 'here'
    with MapFile(closed) as file:
        assert file.sessions()[0].label == 'lap 1'
        assert len(file) == 20
    assert user_version(closed) == VERSION


def test_an_older_map_is_not_read_only(closed, newer):
    before = digest(closed)
    with pytest.raises(MapError, match=r'of map version 1, this program reads 3: open it once '
                                       'for writing, which updates it'):
        MapFile(closed, read_only=True)
    assert digest(closed) == before


def test_a_newer_map_is_refused(closed):
    edit(closed, f'PRAGMA user_version = {VERSION + 1}')
    before = digest(closed)
    for read_only in (False, True):
        with pytest.raises(MapError, match='of map version 2, but this program knows 1: update'):
            MapFile(closed, MANIFEST, read_only=read_only)
    assert digest(closed) == before


@pytest.mark.parametrize('version', [0, -1])
def test_a_version_that_never_was_is_refused(closed, newer, version):
    edit(closed, f'PRAGMA user_version = {version}')
    with pytest.raises(MapError, match=f'version {version}.* damaged'):
        MapFile(closed)


# ---- what is no map ----------------------------------------------------------------------------


def test_an_interrupted_creation_becomes_a_new_map(path):
    path.touch()
    with MapFile(path, MANIFEST) as file:
        assert len(file) == 0
        file.add([make_keyframe(1)])
    with MapFile(path) as file:
        assert file.manifest == MANIFEST
        assert len(file) == 1


def test_an_empty_file_holds_nothing_to_read(path):
    path.touch()
    with pytest.raises(MapError, match='it is empty'):
        MapFile(path)
    with pytest.raises(MapError, match='it is empty'):
        MapFile(path, MANIFEST, read_only=True)
    assert path.stat().st_size == 0


def _create_slowly(line: Connection, path: Path, statements: int) -> None:
    """Stop after so many statements of a creation."""
    execute, count = Database.execute, 0

    def stop_at(file: Database, statement: str, values: tuple = ()) -> sqlite3.Cursor:
        nonlocal count
        count += 1
        if count == statements:
            line.send('here')
            line.recv()
        return execute(file, statement, values)

    Database.execute = stop_at  # type: ignore[method-assign]
    MapFile(path, MANIFEST)
    line.send('all')


def test_a_creation_that_is_killed_anywhere_becomes_a_new_map(path):
    said, statements = '', 0
    while said != 'all':
        statements += 3
        with Child(_create_slowly, path, statements) as child:
            said = child.hear()
        with MapFile(path, MANIFEST) as file:
            file.add([make_keyframe(1)])
            assert file.manifest == MANIFEST
        assert os.listdir(path.parent) == [path.name]
        path.unlink()
    assert statements > 15


def test_the_log_of_a_map_that_was_deleted_is_not_played_into_a_new_one(closed):
    with Child(_hold, closed) as child:
        child.hear()
    closed.unlink()
    assert Path(f'{closed}-wal').exists()
    with MapFile(closed, MANIFEST) as file:
        assert len(file) == 0
        assert file.manifest == MANIFEST


@pytest.mark.parametrize('content', [
    b'x', b'\n', b'# a text\n', b'text ' * 30, b'a line\n' * 2000, bytes(100), bytes(8192),
    b'SQLite format 3\x00', b'SQLite format 3\x00' + bytes(5000)])
def test_a_file_of_another_program_stays_as_it_was(path, content):
    path.write_bytes(content)
    for options in ({}, {'manifest': MANIFEST}, {'manifest': MANIFEST, 'read_only': True}):
        with pytest.raises(MapError, match=f'{path}: .*(another program|damaged)'):
            MapFile(path, **options)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


TABLE = ('CREATE TABLE manifest (name, value)', 'INSERT INTO manifest VALUES (1, 2)')
OTHER_ID = 'PRAGMA application_id = 1196444487'


@pytest.mark.parametrize('statements', [
    TABLE, (OTHER_ID,), (OTHER_ID, *TABLE), ('PRAGMA journal_mode = WAL', *TABLE),
    ('PRAGMA user_version = 1', *TABLE), (OTHER_ID, 'PRAGMA journal_mode = WAL', *TABLE)])
def test_a_database_of_another_program_stays_as_it_was(path, statements):
    edit(path, *statements)
    before = digest(path)
    for options in ({}, {'manifest': MANIFEST}, {'manifest': MANIFEST, 'read_only': True}):
        with pytest.raises(MapError, match='it is a file of another program'):
            MapFile(path, **options)
    assert digest(path) == before


def test_a_folder_a_missing_folder_and_a_missing_file(tmp_path):
    with pytest.raises(MapError, match=r'it is a folder: name a file in it, e\.g\. '):
        MapFile(tmp_path, MANIFEST)
    with pytest.raises(MapError, match=r'there is no folder .*/nowhere: make it first'):
        MapFile(tmp_path / 'nowhere' / 'office.vprmap', MANIFEST)
    for options in ({}, {'manifest': MANIFEST, 'read_only': True}):
        with pytest.raises(MapError, match=r'office\.vprmap: there is no such map'):
            MapFile(tmp_path / 'office.vprmap', **options)
    with pytest.raises(MapError, match='too long'):
        MapFile(tmp_path / ('long' * 100), MANIFEST)
    (tmp_path / 'file').touch()
    with pytest.raises(MapError, match='there is no folder'):
        MapFile(tmp_path / 'file' / 'office.vprmap', MANIFEST)
    assert os.listdir(tmp_path) == ['file']


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize('keep', [
    1, 15, 99, 100, 511, 512, 4095, 4096, 4097, 20_000, -40_960, -4097, -4096, -4095, -1])
@pytest.mark.parametrize('read_only', [True, False])
def test_a_file_that_was_cut_off_is_refused(closed, keep, read_only):
    size = closed.stat().st_size
    os.truncate(closed, keep if keep > 0 else size + keep)
    before = digest(closed)
    with pytest.raises(MapError, match='another program|damaged|cut off'):
        MapFile(closed, MANIFEST, read_only=read_only)
    assert digest(closed) == before


def _is_damaged(path: Path) -> bool:
    """What all of SQLite's checks say."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute('PRAGMA integrity_check').fetchall() != [('ok',)]
    except sqlite3.DatabaseError:
        return True


def _pages_of(path: Path, *tables: str) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        marks = ', '.join('?' * len(tables))
        return [number for number, in connection.execute(
            f'SELECT pageno FROM dbstat WHERE name IN ({marks})', tables)]


def _read_all(path: Path) -> list[tuple]:
    with MapFile(path, read_only=True) as file:
        sessions = file.sessions()
        return [(k.id, k.stamp_ns, k.travelled_m, k.global_descriptor.tobytes(), k.has_local,
                 k.pose.translation_m.tobytes(), sessions[0]) for k in file.keyframes()]


def test_damage_is_found_wherever_sqlite_can_tell(path, tmp_path):
    """A byte is changed in the structure or the content of the tables that are read at once."""
    make_map_file(path, 60, dim=64).close()
    wanted, content = _read_all(path), path.read_bytes()
    pages = _pages_of(path, 'keyframes', 'sessions', 'manifest', 'map_poses', 'sqlite_schema',
                      'sqlite_autoindex_keyframes_1', 'sqlite_autoindex_sessions_1')
    random = np.random.default_rng(0)
    refused = 0
    for turn in range(400):
        page = pages[turn % len(pages)] - 1
        # Half of them in the first bytes of a page, which say where the rows are.
        offset = page * PAGE_BYTES + int(random.integers(150 if turn % 2 else PAGE_BYTES))
        damaged = bytearray(content)
        damaged[offset] ^= int(random.integers(1, 256))
        copy = tmp_path / 'copy'
        copy.write_bytes(damaged)
        try:
            found = _read_all(copy)
        except MapError:
            refused += 1
        else:
            # Else it is a value as good as the one before: only a checksum could tell.
            assert found == wanted or not _is_damaged(copy), f'byte {offset} of {len(content)}'
    assert refused > 50


def test_a_whole_page_of_keyframes_is_gone(closed):
    page = _pages_of(closed, 'keyframes')[-1]
    with closed.open('r+b') as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    with pytest.raises(MapError, match='it is damaged.*: go back to a copy of it'):
        MapFile(closed)


KEYFRAME_7 = KeyframeId(1, 7)


@pytest.mark.parametrize(('read', 'statement'), [
    *((lambda file: list(file.keyframes()), statement) for statement in (
        "UPDATE keyframes SET descriptor = x'00112233' WHERE number = 7",
        "UPDATE keyframes SET descriptor = x'001122' WHERE number = 7",
        "UPDATE keyframes SET descriptor = 'words' WHERE number = 7",
        'UPDATE keyframes SET descriptor = 7 WHERE number = 7',
        "UPDATE keyframes SET pose = x'0011' WHERE number = 7",
        'UPDATE keyframes SET pose = zeroblob(56) WHERE number = 7',
        "UPDATE keyframes SET pose = x'000000000000f87f' || zeroblob(48) WHERE number = 7",
        "UPDATE keyframes SET stamp_ns = 'noon' WHERE number = 7",
        "UPDATE keyframes SET keyframe_id = 'seven' WHERE number = 7",
        "INSERT INTO map_poses VALUES (7, 'map', x'00')",
    )),
    *((lambda file: file.local_features(KEYFRAME_7), statement) for statement in (
        'UPDATE local_features SET count = 5 WHERE keyframe = 7',
        "UPDATE local_features SET dim = 'x' WHERE keyframe = 7",
        'UPDATE local_features SET dim = -16, count = -6 WHERE keyframe = 7',
        "UPDATE local_features SET data = 'words' WHERE keyframe = 7",
        'UPDATE local_features SET data = 7 WHERE keyframe = 7',
    )),
    *((lambda file: file.details(KEYFRAME_7), statement) for statement in (
        "UPDATE keyframes SET covariance = x'001122' WHERE number = 7",
        'UPDATE keyframes SET covariance = zeroblob(80) WHERE number = 7',
        "UPDATE keyframes SET covariance = 'words' WHERE number = 7",
        "UPDATE keyframes SET external_key = 'seven' WHERE number = 7",
    )),
])
def test_values_that_no_keyframe_has_are_damage(closed, read, statement):
    edit(closed, statement)
    with MapFile(closed) as file:
        with pytest.raises(MapError, match=r'is damaged.*: go back to a copy of it'):
            read(file)
        assert_same_local(file.local_features(KeyframeId(1, 8)), make_keyframe(8).local)


@pytest.mark.parametrize('statement', [
    "DELETE FROM manifest WHERE name = 'codec'",
    "UPDATE manifest SET value = '\"jpeg\"' WHERE name = 'codec'",
    "UPDATE manifest SET value = 'half a' WHERE name = 'uuid'",
    "UPDATE manifest SET value = '7' WHERE name = 'model_id'",
    "UPDATE manifest SET value = '\"noon\"' WHERE name = 'created_ns'",
])
def test_a_damaged_manifest(closed, statement):
    edit(closed, statement)
    with pytest.raises(MapError, match='its manifest is damaged'):
        MapFile(closed)


def test_keyframes_that_cannot_be_written_are_told(path):
    """What SQLite cannot hold is a MapError, too: it waits in memory, and the node goes on."""
    new = make_keyframe(1)
    with make_map_file(path) as file:
        with pytest.raises(MapError):
            file.add([replace(new, keyframe=replace(new.keyframe, stamp_ns=2**63))])
        with pytest.raises(MapError):
            file.add([replace(new, session=replace(new.session, label='\udcff'))])
        assert len(file) == 0
        file.add([new])


# ---- opening by settings -----------------------------------------------------------------------


def settings_of(**of_the_map: object) -> Settings:
    settings = Settings()
    for name, value in of_the_map.items():
        settings = replace_setting(settings, f'map.{name}', value)
    return settings


def test_open_map_loads_what_is_there(closed):
    with closing(open_map(settings_of(path=str(closed), local_codec=BINARY), MODEL)) as opened:
        assert len(opened) == 20
        assert opened.codec == FLOAT16  # that of the file
        query = make_keyframe(7).keyframe.global_descriptor
        assert opened.search(query, 1)[0].keyframe.id == KeyframeId(1, 7)
        opened.add(make_keyframe(21))
        assert opened.store_error == ''
    with MapFile(closed) as file:
        assert len(file) == 21


def test_open_map_makes_a_new_one(path, monkeypatch):
    monkeypatch.setenv('HOME', str(path.parent))
    with closing(open_map(settings_of(path='~/office.vprmap', local_codec=BINARY), MODEL)):
        pass
    with MapFile(path) as file:
        assert (file.manifest.model_id, file.codec) == (MODEL, BINARY)


def test_open_map_without_a_path_is_temporary():
    with closing(open_map(settings_of(), MODEL)) as opened:
        opened.add(make_keyframe(1))
        assert opened.store_error == ''
        assert isinstance(opened, KeyframeMap)
        assert opened.unsaved == 0


def test_open_map_refuses_another_model(closed):
    words = (f'its descriptors are of model {MODEL}, those of other/1 cannot be compared with '
             r'them: set model\.weights to that model, or map\.path to a new file')
    with pytest.raises(MapError, match=words):
        open_map(settings_of(path=str(closed)), 'other/1')
    settings = settings_of(path=str(closed))
    with closing(open_map(settings, 'other/1', allow_model_mismatch=True)) as opened:
        assert len(opened) == 20


def test_open_map_read_only(closed):
    with closing(open_map(settings_of(path=str(closed), read_only=True), MODEL)) as opened:
        assert opened.why_closed == 'the map is read-only'
        assert len(opened) == 20
    with pytest.raises(MapError, match='a temporary map'):
        open_map(settings_of(read_only=True), MODEL)


def test_open_map_knows_unrelated_images_again(closed):
    learned = Unrelated(level=0.0123, queries=5.0).to_json()
    with closing(open_map(settings_of(path=str(closed)), MODEL)) as opened:
        assert opened.unrelated == ''
        opened.unrelated = learned
    before = digest(closed)
    with closing(open_map(settings_of(path=str(closed), read_only=True), MODEL)) as opened:
        assert opened.unrelated == learned
        opened.unrelated = 'something else'
    assert digest(closed) == before
    with closing(open_map(settings_of(path=str(closed)), MODEL)) as opened:
        assert opened.unrelated == learned


@pytest.mark.parametrize('value', ["'no json'", "'{}'", "X'00FF'", '7', "''"])
def test_open_map_learns_unrelated_images_again_where_they_are_damaged(closed, value):
    edit(closed, f"INSERT INTO manifest VALUES ('unrelated', {value})")
    with closing(open_map(settings_of(path=str(closed)), MODEL)) as opened:
        with pytest.raises(ValueError):  # noqa: PT011
            Unrelated.from_json(opened.unrelated)
        assert len(opened) == 20
        opened.unrelated = Unrelated().to_json()
    with MapFile(closed) as file:
        assert file.unrelated() == Unrelated().to_json()


def test_the_header_says_what_it_is(closed):
    header = closed.read_bytes()[:100]
    assert header[68:72] == APPLICATION_ID.to_bytes(4, 'big') == b'VPRM'
    copy = shutil.copy(closed, closed.with_name('elsewhere.vprmap'))
    with MapFile(Path(copy)) as file:
        assert len(file) == 20
