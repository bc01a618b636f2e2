"""Maps into one: what comes out, field by field, what is refused, and what a kill leaves."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import resource
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from selavpr_ros.errors import MapError, SettingError
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.fleet.milvus_connection import Address
from selavpr_ros.maps.fleet.milvus_store import exists
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import BINARY, FLOAT16, INT8, NONE, encode
from selavpr_ros.maps.merge import merge_maps
from selavpr_ros.pose import Pose

SECOND = 1_000_000_000
MODEL = 'hog/0123456789ab/area96x128'


def unit_rows(count: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)


def bare(session: Session, number: int, second: int) -> NewKeyframe:
    """A keyframe with nothing that it could do without."""
    descriptor = unit_rows(1, 16, seed=second)[0].numpy()
    keyframe_id = KeyframeId(session.id.session_id, number, session.id.robot_id)
    return NewKeyframe(
        Keyframe(keyframe_id, second * SECOND, descriptor, None, 0.0), session)


def full(session: Session, number: int, second: int, codec: str = FLOAT16) -> NewKeyframe:
    """A keyframe with everything, of numbers that only it has."""
    new, seed = bare(session, number, second), 1000 + second
    pose, moved = Pose.planar(second, 2.5, 0.1), Pose.planar(-second, 0.25, 0.2)
    keyframe = replace(new.keyframe, pose=pose, travelled_m=second / 3,
                       map_pose=MapPose(f'map{second}', moved))
    return replace(
        new, keyframe=keyframe, local=encode(unit_rows(5, 12, seed), codec),
        thumbnail=f'jpeg of {second}'.encode(), covariance=np.arange(36.0) + second,
        external_key=2**63 + second)


def a_session(session_id: int, robot_id: int = 0, second: int = 0, label: str = '') -> Session:
    return Session(SessionId(session_id, robot_id), label, second * SECOND, f'odom{robot_id}',
                   MODEL)


def write(
    path: Path, *added: NewKeyframe, model_id: str = MODEL, codec: str = FLOAT16
) -> Path:
    with MapFile(path, new_manifest(model_id, codec)) as file:
        file.add(added)
    return path


def monday(folder: Path, codec: str = FLOAT16) -> Path:
    """Two sessions of robot 0; four keyframes, one of them forgotten."""
    morning, noon = a_session(1, second=100, label='morning'), a_session(2, second=200)
    path = write(folder / 'monday.vprmap', full(morning, 1, 100, codec), bare(morning, 2, 101),
                 full(morning, 4, 103, codec), bare(noon, 1, 200), codec=codec)
    with MapFile(path) as file:
        file.remove([KeyframeId(1, 2)])
    return path


def tuesday(folder: Path, codec: str = FLOAT16) -> Path:
    """A session of robot 0, and one of robot 7 whose stamps are those of Monday."""
    ours, other = a_session(1, second=300, label='again'), a_session(1, 7, 100)
    return write(folder / 'tuesday.vprmap', full(ours, 1, 300, codec), full(ours, 2, 301, codec),
                 bare(other, 1, 100), full(other, 2, 101, codec), codec=codec)


def content(path: Path) -> list[dict]:
    """Every keyframe with all of its fields, in the order of the map."""
    with MapFile(path, read_only=True) as file:
        sessions = {session.id: session for session in file.sessions()}
        return [{
            'id': k.id, 'stamp_ns': k.stamp_ns, 'descriptor': k.global_descriptor.tobytes(),
            'pose': k.pose, 'travelled_m': k.travelled_m, 'map_pose': k.map_pose,
            'has_local': k.has_local, 'session': sessions[k.id.session],
            'local': local and (local.codec, local.dim, local.data.tobytes()),
            'thumbnail': file.thumbnail(k.id), 'external_key': file.details(k.id)[1],
            'covariance': file.details(k.id)[0] is not None and [*file.details(k.id)[0]],
        } for k in file.keyframes() for local in [file.local_features(k.id)]]


def moved(keyframe: dict, session_id: int) -> dict:
    """The keyframe as it is in a map where its session has another id."""
    new_id = replace(keyframe['id'], session_id=session_id)
    return {**keyframe, 'id': new_id, 'session': replace(keyframe['session'], id=new_id.session)}


def names(folder: Path) -> list[str]:
    """What lies there, without the two files that SQLite puts beside whatever it reads."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(('-wal', '-shm')))


def test_everything_of_two_maps(tmp_path):
    sources = [monday(tmp_path), tuesday(tmp_path)]
    before = [content(path) for path in sources]
    merged = merge_maps(sources, tmp_path / 'week.vprmap')
    after = content(tmp_path / 'week.vprmap')
    assert after == [*before[0], *(
        moved(keyframe, 3) if keyframe['id'].robot_id == 0 else keyframe
        for keyframe in before[1])]
    assert [str(keyframe['id']) for keyframe in after] == [
        '1:1', '1:4', '2:1', '3:1', '3:2', '7/1:1', '7/1:2']
    # The hand-made numbers did come through, not only the same ones twice.
    assert after[3]['stamp_ns'] == 300 * SECOND
    assert after[3]['map_pose'] == MapPose('map300', Pose.planar(-300, 0.25, 0.2))
    assert after[3]['covariance'] == [300.0 + i for i in range(36)]
    assert after[3]['external_key'] == 2**63 + 300
    assert after[3]['thumbnail'] == b'jpeg of 300'
    assert [content(path) for path in sources] == before
    assert [(m.source, str(m.old_id), str(m.session.id), m.session.label, m.keyframes)
            for m in merged] == [
        (str(sources[0]), '1', '1', 'morning', 2), (str(sources[0]), '2', '2', '', 1),
        (str(sources[1]), '1', '3', 'again', 2), (str(sources[1]), '7/1', '7/1', '', 2)]


def test_the_new_map_is_one_of_its_own_whose_sessions_tell_where_they_come_from(tmp_path):
    sources = [monday(tmp_path), tuesday(tmp_path)]
    with MapFile(sources[0]) as one, MapFile(sources[1]) as other:
        uuids = one.manifest.uuid, other.manifest.uuid
    merge_maps(sources, tmp_path / 'week.vprmap')
    third = write(tmp_path / 'third.vprmap', bare(a_session(3, second=900), 1, 900))
    merge_maps([third, tmp_path / 'week.vprmap'], tmp_path / 'all.vprmap')
    with MapFile(tmp_path / 'all.vprmap') as file:
        assert (file.manifest.model_id, file.codec) == (MODEL, FLOAT16)
        assert file.manifest.uuid not in uuids
        origins = {str(session.id): session.origin for session in file.sessions()}
    assert list(origins) == ['3', '1', '2', '4', '7/1']
    assert [origins[name] for name in ('1', '2', '4', '7/1')] == [
        f'{uuids[0]}/1', f'{uuids[0]}/2', f'{uuids[1]}/1', f'{uuids[1]}/7/1']


def test_a_session_without_keyframes_is_left_out(tmp_path):
    path = write(tmp_path / 'a', bare(a_session(1), 1, 1), bare(a_session(2), 1, 2))
    with MapFile(path) as file:
        file.remove([KeyframeId(1, 1)])
    merged = merge_maps([path], tmp_path / 'b')
    assert [(str(m.old_id), str(m.session.id)) for m in merged] == [('2', '2')]


def test_progress_counts_keyframes(tmp_path):
    session = a_session(1)
    first = write(tmp_path / 'a', *(bare(session, n, n) for n in range(1, 101)))
    other = write(tmp_path / 'b', bare(session, 1, 1000))
    told: list[tuple[int, int]] = []
    merge_maps([first, other], tmp_path / 'c', progress=lambda *counts: told.append(counts))
    assert told == [(64, 101), (100, 101), (101, 101)]


# ---- codecs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(('kept', 'asked'), [
    (FLOAT16, FLOAT16), (FLOAT16, INT8), (FLOAT16, BINARY), (FLOAT16, NONE), (INT8, INT8),
    (INT8, BINARY), (INT8, NONE), (BINARY, BINARY), (BINARY, NONE), (NONE, NONE)])
def test_local_features_are_encoded_again(tmp_path, kept, asked):
    source = write(tmp_path / 'a', full(a_session(1), 1, 5, kept), codec=kept)
    merge_maps([source], tmp_path / 'b', codec=asked)
    with MapFile(source) as one, MapFile(tmp_path / 'b') as other:
        assert other.codec == asked
        before, after = (file.local_features(KeyframeId(1, 1)) for file in (one, other))
        (keyframe,) = other.keyframes()
    assert keyframe.has_local == (asked != NONE)
    if asked == NONE:
        assert after is None
        return
    wanted = before if kept == asked else encode(before.decode(), asked)
    assert (after.codec, after.dim, after.data.tobytes()) == (
        asked, 12, wanted.data.tobytes())


def test_maps_of_several_codecs_become_the_poorest(tmp_path):
    sources = [monday(tmp_path, INT8), tuesday(tmp_path, BINARY)]
    with pytest.raises(MapError, match='several ways .*monday.vprmap int8.*binary at the most'):
        merge_maps(sources, tmp_path / 'c')
    merge_maps(sources, tmp_path / 'c', codec=BINARY)
    assert {k['local'][0] for k in content(tmp_path / 'c') if k['local']} == {BINARY}


@pytest.mark.parametrize(('kept', 'asked'), [
    (INT8, FLOAT16), (BINARY, FLOAT16), (BINARY, INT8), (NONE, BINARY)])
def test_what_is_lost_stays_lost(tmp_path, kept, asked):
    source = monday(tmp_path, kept)
    with pytest.raises(MapError, match=rf'monday.vprmap: .*\({kept}\) cannot become {asked} '
                                       f'again: choose {kept}'):
        merge_maps([source], tmp_path / 'b', codec=asked)
    assert names(tmp_path) == ['monday.vprmap']


def test_no_such_codec(tmp_path):
    with pytest.raises(SettingError, match="codec 'jpeg' is none of float16, int8, binary, none"):
        merge_maps([monday(tmp_path)], tmp_path / 'b', codec='jpeg')


# ---- refusals ----------------------------------------------------------------------------------


def test_maps_of_two_models(tmp_path):
    other = write(tmp_path / 'other.vprmap', bare(a_session(1), 1, 900), model_id='salad/9/s')
    with pytest.raises(MapError) as error:
        merge_maps([monday(tmp_path), other], tmp_path / 'c')
    for word in ('monday.vprmap', MODEL, 'other.vprmap', 'salad/9/s', 'only maps of one model'):
        assert word in str(error.value)
    assert names(tmp_path) == ['monday.vprmap', 'other.vprmap']


def test_a_copy_and_a_continuation(tmp_path):
    path, copy = monday(tmp_path), tmp_path / 'copy.vprmap'
    shutil.copy(path, copy)
    with MapFile(copy) as file:
        file.add([bare(a_session(2, second=200), 2, 201)])
    for first, second in ((path, copy), (copy, path), (path, path)):
        with pytest.raises(MapError) as error:
            merge_maps([first, second], tmp_path / 'c')
        for word in (f'{first} and {second} both hold 3 keyframes', 'robot 0 at 100000000000 ns',
                     '1970-01-01 00:01:40', 'leave the smaller one out'):
            assert word in str(error.value)
    assert names(tmp_path) == ['copy.vprmap', 'monday.vprmap']


def test_a_stamp_of_two_robots_is_no_copy(tmp_path):
    one = write(tmp_path / 'a', bare(a_session(1, 1), 1, 5))
    other = write(tmp_path / 'b', bare(a_session(1, 2), 1, 5), bare(a_session(1, 3), 1, 5))
    assert len(merge_maps([one, other], tmp_path / 'c')) == 3
    third = write(tmp_path / 'd', bare(a_session(1, 3), 1, 5), bare(a_session(1, 3), 2, 6))
    with pytest.raises(MapError, match=r'both hold 1 keyframes, e.g. that of robot 3 at 5000'):
        merge_maps([tmp_path / 'c', third], tmp_path / 'e')


@pytest.mark.parametrize(('sources', 'target', 'words'), [
    ([], 'c', 'nothing to merge'),
    (['none'], 'c', 'none: there is no such map'),
    (['monday.vprmap'], 'none/c', 'there is no folder .*none: make it first'),
    (['monday.vprmap', 'text'], 'c', 'text: it is a file of another program'),
    (['monday.vprmap'], 'text', 'text: it exists already: choose another name, or overwrite it'),
    (['monday.vprmap'], 'text/c', 'there is no folder .*text: make it first'),
])
def test_what_cannot_be_read_or_written(tmp_path, sources, target, words):
    monday(tmp_path)
    (tmp_path / 'text').write_text('some text, which no database begins with' * 20)
    with pytest.raises(MapError, match=words):
        merge_maps([tmp_path / name for name in sources], tmp_path / target)
    assert names(tmp_path) == ['monday.vprmap', 'text']


def test_into_one_of_the_sources(tmp_path):
    source = monday(tmp_path)
    (tmp_path / 'link').symlink_to(source)
    for name in ('monday.vprmap', 'link'):
        with pytest.raises(MapError, match=f'{name}: it is one of the maps to merge: choose anot'):
            merge_maps([source], tmp_path / name, overwrite=True)
    assert len(content(source)) == 3


# ---- in place of what was there ----------------------------------------------------------------


def test_overwrite_replaces_a_map(tmp_path):
    target = tuesday(tmp_path)
    merge_maps([monday(tmp_path)], target, overwrite=True)
    assert [k['stamp_ns'] // SECOND for k in content(target)] == [100, 103, 200]
    assert names(tmp_path) == ['monday.vprmap', 'tuesday.vprmap']


@pytest.mark.parametrize('is_there', [True, False])
def test_the_log_of_a_killed_writer_does_not_come_back(tmp_path, is_there):
    """SQLite would apply it to whatever file has the name."""
    target = tmp_path / 'target.vprmap'
    with MapFile(tmp_path / 'old.vprmap', new_manifest(MODEL, FLOAT16)) as old:
        old.add([bare(a_session(1), n, n) for n in range(1, 50)])
        for suffix in ('', '-wal', '-shm'):
            shutil.copy(f'{tmp_path}/old.vprmap{suffix}', f'{target}{suffix}')
    if not is_there:
        target.unlink()
    merge_maps([monday(tmp_path)], target, overwrite=True)
    assert len(content(target)) == 3


def test_overwrite_leaves_alone_what_is_no_map_or_in_use(tmp_path):
    source, target = monday(tmp_path), tmp_path / 'thesis.odt'
    target.write_text('years of work, and not a database' * 20)
    with pytest.raises(MapError, match=r'thesis.odt: it is a file of another program'):
        merge_maps([source], target, overwrite=True)
    assert target.read_text().startswith('years of work')
    with MapFile(tuesday(tmp_path)) as used:
        with pytest.raises(MapError, match='another node or program writes to this map'):
            merge_maps([source], used.path, overwrite=True)
        with MapFile(used.path, read_only=True) as reader:
            used.add([bare(a_session(5), 1, 999)])
            used.close()
            with pytest.raises(MapError, match=r'tuesday.vprmap: another program reads it'):
                merge_maps([source], used.path, overwrite=True)
            assert len(reader) == 5
    assert len(content(tmp_path / 'tuesday.vprmap')) == 5


# ---- interruptions -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def large(tmp_path_factory) -> list[Path]:
    """Two maps that take a while."""
    folder = tmp_path_factory.mktemp('large')
    return [write(folder / f'{robot}.vprmap', *(
        full(a_session(1, robot), n, n) for n in range(1, 801))) for robot in range(2)]


@pytest.mark.parametrize('error', [KeyboardInterrupt, MapError])
def test_an_error_on_the_way_leaves_nothing(tmp_path, large, error):
    def stop(done: int, total: int) -> None:
        assert any(name.startswith('.c.vprmap.') for name in names(tmp_path))
        raise error

    with pytest.raises(error):
        merge_maps(large, tmp_path / 'c.vprmap', progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more(tmp_path, large):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(MapError, match=r'/c.vprmap: '):
            merge_maps(large, tmp_path / 'c.vprmap')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_grows_meanwhile_is_merged_as_it_was(tmp_path, large):
    source = shutil.copy(large[0], tmp_path / 'a.vprmap')
    with MapFile(source) as growing:
        def grow(done: int, total: int) -> None:
            session = a_session(2, 0, 9000 + done)
            growing.add([bare(session, done, 9000 + done)])

        merge_maps([large[1], source], tmp_path / 'c.vprmap', progress=grow)
        assert len(growing) == 826
    assert [k['id'].keyframe_id for k in content(tmp_path / 'c.vprmap')] == [
        *range(1, 801), *range(1, 801)]


def test_kill_9_at_any_moment_leaves_a_whole_map_or_none(tmp_path, large):
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['selavpr_ros.maps.merge'])
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in large]
    start = time.perf_counter()
    merge_maps(large, tmp_path / 'whole.vprmap')
    duration = time.perf_counter() - start
    moments, outcomes = random.Random(0), set()
    for trial in range(10):
        target = tmp_path / f'{trial}.vprmap'
        process = context.Process(target=merge_maps, args=(large, target))
        process.start()
        while process.is_alive() and not any(tmp_path.glob(f'.{trial}.vprmap.*')):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.9 * duration))
        process.kill()
        process.join()
        outcomes.add((process.exitcode, target.exists()))
        if target.exists():
            with sqlite3.connect(f'file:{target}?mode=ro', uri=True) as file:
                assert file.execute('PRAGMA integrity_check').fetchone() == ('ok',)
            assert len(content(target)) == 1600
    assert (-9, False) in outcomes
    assert outcomes <= {(-9, False), (-9, True), (0, True)}
    assert [hashlib.sha256(path.read_bytes()).digest() for path in large] == digests
    merge_maps(large, tmp_path / '0.vprmap', overwrite=True)
    assert len(content(tmp_path / '0.vprmap')) == 1600


# ---- maps that robots share --------------------------------------------------------------------


def as_a_server_has_it(keyframe: dict) -> dict:
    return {**keyframe, 'thumbnail': b'', 'external_key': 0, 'covariance': False}


def test_files_go_to_a_server_and_come_back(tmp_path):
    address, sources = f'milvus://{tmp_path}/fleet.db', [monday(tmp_path), tuesday(tmp_path)]
    directly = merge_maps(sources, tmp_path / 'week.vprmap')
    assert merge_maps(sources, address) == directly
    back = merge_maps([address], tmp_path / 'back.vprmap')
    assert [(m.source, m.keyframes) for m in back] == [
        (f"map 'selavpr' on {tmp_path}/fleet.db", m.keyframes) for m in directly]
    assert content(tmp_path / 'back.vprmap') == [
        as_a_server_has_it(keyframe) for keyframe in content(tmp_path / 'week.vprmap')]


def test_what_a_server_and_a_file_both_hold_is_refused(tmp_path):
    address, source = f'milvus://{tmp_path}/fleet.db', monday(tmp_path)
    merge_maps([source], address)
    with pytest.raises(MapError, match=r"monday\.vprmap and map 'selavpr' on .* both hold 3"):
        merge_maps([source, address], tmp_path / 'all.vprmap')


def test_a_shared_map_that_exists_is_not_overwritten(tmp_path):
    address, source = f'milvus://{tmp_path}/fleet.db', monday(tmp_path)
    other = tuesday(tmp_path)
    merge_maps([source], address)
    for overwrite in (False, True):
        with pytest.raises(MapError, match='it exists already: choose another name'):
            merge_maps([other], address, overwrite=overwrite)
    merge_maps([other], f'{address}#tuesday')
    merge_maps([address, f'{address}#tuesday'], tmp_path / 'both.vprmap')
    assert len(content(tmp_path / 'both.vprmap')) == 7


def test_a_merge_that_ends_early_leaves_no_shared_map(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    address, source = f'milvus://{tmp_path}/fleet.db', monday(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        merge_maps([source], address, progress=stop)
    assert not exists(Address.parse(address))
    assert len(merge_maps([source], address)) == 2


def test_nothing_to_merge_is_no_shared_map(tmp_path):
    empty = write(tmp_path / 'empty.vprmap')
    with pytest.raises(MapError, match='there is no keyframe to begin a shared map with'):
        merge_maps([empty], f'milvus://{tmp_path}/fleet.db')
