"""Against the real Milvus Lite and real sockets; run from the root of the repository."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from relay import Relay, importing, milvus_server

from selavpr_ros.errors import MapError, UnreachableError
from selavpr_ros.maps.fleet import milvus_collections, milvus_store
from selavpr_ros.maps.fleet.milvus_connection import Address
from selavpr_ros.maps.fleet.milvus_store import MilvusStore
from selavpr_ros.maps.keyframe import (
    Hint,
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import EncodedFeatures
from selavpr_ros.pose import Pose

DIM = 64
TIMEOUT_S = 0.5
# A server that goes away while it is asked takes two of them; the rest is a busy machine.
BOUND_S = 2 * TIMEOUT_S + 1.0
SELAVPR_FEATURES, SELAVPR_DIM = 3721, 128


def unit(seed: int, dim: int = DIM) -> np.ndarray:
    """A unit descriptor (D,) float32 that depends on the seed alone."""
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


def features(seed: int, count: int = 5, dim: int = 16) -> EncodedFeatures:
    """Random local features (N, d) float16, of any bits."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (count, dim), np.uint16)
    return EncodedFeatures('float16', dim, bits.view(np.float16))


def session_of(session: int, robot: int = 0) -> Session:
    return Session(
        SessionId(session, robot), f'lap "{session}"', session, origin=f'a/{robot}.{session}')


def keyframe(number: int, *, session: int = 1, robot: int = 0) -> NewKeyframe:
    """A keyframe with local features and without poses."""
    frame = Keyframe(KeyframeId(session, number, robot), number * 10**9, unit(number), None,
                     0.5 * number, has_local=True)
    return NewKeyframe(frame, session_of(session, robot), features(number))


def opened(address: str | Path, **changed: object) -> MilvusStore:
    """A store with settings that all tests share."""
    if isinstance(address, Path):
        address = f'milvus://{address}'
    settings = {'model_id': 'resnet', 'dim': DIM, 'codec': 'float16', 'timeout_s': TIMEOUT_S}
    return MilvusStore(Address.parse(address), **(settings | changed))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_collections, 'PATIENCE_S', TIMEOUT_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'map.db'


@pytest.fixture
def store(path: Path) -> Iterator[MilvusStore]:
    kept = opened(path)
    yield kept
    kept.close()


def same(first: Keyframe, second: Keyframe) -> bool:
    """Whether all of two keyframes is the same, to the last bit."""
    np.testing.assert_array_equal(first.global_descriptor, second.global_descriptor)
    assert second.global_descriptor.dtype == np.float32
    return all(getattr(first, name) == getattr(second, name)
               for name in ('id', 'stamp_ns', 'pose', 'travelled_m', 'map_pose'))


SESSION = Session(SessionId(2**32 - 1, 2**16 - 1), origin='b/1')


def full_keyframe() -> Keyframe:
    """All fields are set, the numbers are as large as they may be."""
    pose = Pose(np.array([1.25, -2.5, 1e-3]), np.array([0.0, 0.0, 0.6, 0.8]))
    moved = MapPose('map, "é" \'1\'', Pose.planar(-3.0, 4.0, 0.0))
    return Keyframe(KeyframeId(2**32 - 1, 2**32 - 1, 2**16 - 1), 2**62 + 1, unit(0), pose,
                    1234.000000001, moved)


def test_all_fields_come_back_bit_exact_after_closing(path: Path) -> None:
    first = full_keyframe()
    with contextlib.closing(opened(path)) as store:
        store.add([NewKeyframe(first, SESSION)])
    with contextlib.closing(opened(path)) as store:
        (found, similarity), = store.search(unit(0), 5)
        assert same(first, found)
        assert similarity == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(('codec', 'data'), [
    ('float16', features(1, SELAVPR_FEATURES, SELAVPR_DIM).data),
    ('int8', np.arange(-128, 128, dtype=np.int8).repeat(25).reshape(50, 128)),
    ('binary', (np.arange(480) % 256).astype(np.uint8).reshape(15, 32)),
    ('float16', np.empty((0, SELAVPR_DIM), np.float16)),
])
def test_local_features_come_back_bit_exact(path: Path, codec: str, data: np.ndarray) -> None:
    dim = 130 if codec == 'binary' else data.shape[1]
    added = NewKeyframe(keyframe(1).keyframe, session_of(1), EncodedFeatures(codec, dim, data))
    with contextlib.closing(opened(path, codec=codec)) as store:
        store.add([added])
    with contextlib.closing(opened(path, codec=codec)) as store:
        found = store.local_features([added.keyframe.id, KeyframeId(9, 9)])
    assert list(found) == [added.keyframe.id]
    local = found[added.keyframe.id]
    assert (local.codec, local.dim, local.data.dtype, local.data.shape) == (
        codec, dim, data.dtype, data.shape)
    assert local.data.tobytes() == data.tobytes()


def test_many_large_local_features_are_read_at_once(store: MilvusStore) -> None:
    added = [NewKeyframe(keyframe(number).keyframe, session_of(1),
                         features(number, SELAVPR_FEATURES, SELAVPR_DIM))
             for number in range(1, 41)]
    store.add(added)
    found = store.local_features([new.keyframe.id for new in added])
    assert len(found) == 40
    assert all(found[new.keyframe.id].data.tobytes() == new.local.data.tobytes()
               for new in added if new.local)


def test_twice_is_once(store: MilvusStore) -> None:
    store.add([keyframe(1), keyframe(2), keyframe(1)])
    store.add([keyframe(1), keyframe(2)])
    assert len(store) == 2
    assert [found.id.keyframe_id for found, _ in store.search(unit(1), 9)] == [1, 2]


def test_the_last_of_two_versions_stays(store: MilvusStore) -> None:
    store.add([keyframe(1)])
    newer = NewKeyframe(
        Keyframe(KeyframeId(1, 1), 7, unit(3), Pose.planar(1, 2, 3), 8.0), session_of(1))
    store.add([newer])
    (found, _), = store.search(unit(3), 9)
    assert same(newer.keyframe, found)


def test_search_is_exact_and_sorted(store: MilvusStore) -> None:
    added = [keyframe(number) for number in range(1, 251)]  # more than Lite leaves unflushed
    store.add(added)
    query = unit(1000)
    found = store.search(query, 20)
    wanted = sorted((float(np.dot(query, new.keyframe.global_descriptor)) for new in added),
                    reverse=True)
    assert [similarity for _, similarity in found] == wanted[:20]
    assert len(store.search(query, 1000)) == 250


def test_excluded_sessions_are_not_found(store: MilvusStore) -> None:
    pairs = [(robot, session) for robot in (0, 3) for session in (1, 2, 3)]
    store.add([keyframe(1, session=session, robot=robot) for robot, session in pairs])

    def found(exclude: list[tuple[int, int]]) -> list[tuple[int, int]]:
        hits = store.search(unit(1), 9, [SessionId(s, r) for r, s in exclude])
        return sorted((hit.id.robot_id, hit.id.session_id) for hit, _ in hits)

    assert found([]) == pairs
    assert found([(3, 1), (3, 2)]) == [(0, 1), (0, 2), (0, 3), (3, 3)]
    assert found([(0, 1), (3, 2), (7, 7)]) == [(0, 2), (0, 3), (3, 1), (3, 3)]
    assert found(pairs) == []


def at(number: int, x: float, moved_x: float | None = None) -> NewKeyframe:
    """A keyframe with a pose, and perhaps one by the back-end."""
    moved = None if moved_x is None else MapPose('map', Pose.planar(moved_x, 0.0, 0.0))
    return NewKeyframe(
        Keyframe(KeyframeId(1, number), number, unit(number), Pose.planar(x, 0.0, 0.0), 0.0,
                 moved), session_of(1))


def test_a_hint_leaves_out_what_is_far(store: MilvusStore) -> None:
    store.add([at(1, 0.0), at(2, 9.0), at(3, 0.0, 9.0), at(4, 9.0, 0.0), keyframe(5)])
    found = store.search(unit(0), 9, hint=Hint(np.array([0.5, 0.0, 0.0]), 1.0))
    assert sorted(hit.id.keyframe_id for hit, _ in found) == [1, 4]
    found = store.search(unit(0), 9, [SessionId(1)], Hint(np.array([0.5, 0.0, 0.0]), 1.0))
    assert found == []


def test_sessions_and_the_last_of_a_robot(store: MilvusStore) -> None:
    pairs = [(1, 0), (2, 0), (12, 3), (5, 3)]
    store.add([keyframe(1, session=session, robot=robot) for session, robot in pairs])
    store.add([keyframe(2, session=12, robot=3)])
    assert [(each.session, each.keyframes) for each in store.summaries()] == [
        (session_of(1), 1), (session_of(2), 1), (session_of(5, 3), 1), (session_of(12, 3), 2)]
    assert [store.last_session_id(robot) for robot in (0, 3, 4)] == [2, 12, 0]


def test_all_of_it_can_be_listed_and_read(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_collections, 'SCANNED_AT_ONCE', 7)  # several pages
    monkeypatch.setattr(milvus_store, 'LOCAL_IDS', 3)
    added = [keyframe(number, session=session, robot=robot)
             for session, robot, count in ((1, 0, 20), (5, 3, 2), (12, 3, 9))
             for number in range(1, count + 1)]
    bare = replace(added[3], local=None, keyframe=replace(added[3].keyframe, has_local=False))
    store.add([*reversed(added), bare])
    moved = MapPose('map', Pose.planar(1.0, 2.0, 0.5))
    store.set_map_poses({added[0].keyframe.id: moved})
    ids = [each.keyframe.id for each in added]
    assert list(store.stamps()) == [(each.keyframe.id, each.keyframe.stamp_ns) for each in added]
    assert list(store.stamps(with_thumbnail=True)) == []
    assert [(s.session, s.keyframes, s.last_ns, s.with_pose, s.with_map_pose)
            for s in store.summaries()] == [
        (session_of(1), 20, 20 * 10**9, 0, 1), (session_of(5, 3), 2, 2 * 10**9, 0, 0),
        (session_of(12, 3), 9, 9 * 10**9, 0, 0)]
    found = store.whole([*ids, KeyframeId(9, 9)])
    assert [each.keyframe.id for each in found] == ids
    assert found[0].keyframe.map_pose == moved
    assert (found[3].local, found[3].keyframe.has_local) == (None, False)
    for one, other in list(zip(found, added, strict=True))[4:]:
        assert same(one.keyframe, other.keyframe)
        assert one.session == other.session
        assert one.local is not None
        assert other.local is not None
        assert one.local.data.tobytes() == other.local.data.tobytes()
    store.remove(ids[:20])
    assert store.summaries()[0].keyframes == 0
    assert store.whole(ids[:20]) == []


@pytest.mark.parametrize('other', [
    Session(SessionId(1), origin='b/1'),  # another robot of this number
    Session(SessionId(2), origin='a/0.1'),  # a copy of the map, with other numbers
])
def test_a_session_that_is_another_one_is_refused(store: MilvusStore, other: Session) -> None:
    store.add([keyframe(1)])
    keyframe_id = KeyframeId(other.id.session_id, 2)
    with pytest.raises(MapError, match=f'session 1 there is not session {other.id} here'):
        store.add([NewKeyframe(Keyframe(keyframe_id, 0, unit(2), None, 0.0), other)])
    assert len(store) == 1


def test_map_poses_change_and_nothing_else(store: MilvusStore) -> None:
    first = full_keyframe()
    store.add([NewKeyframe(first, SESSION, features(1)), keyframe(1)])
    moved = MapPose('map', Pose.planar(9.0, 8.0, 0.0))
    assert store.set_map_poses({first.id: moved, KeyframeId(5, 5): moved}) == 1
    (found, _), *others = store.search(unit(0), 9)
    assert found.map_pose == moved
    assert same(Keyframe(first.id, first.stamp_ns, first.global_descriptor, first.pose,
                         first.travelled_m, moved), found)
    assert [other.map_pose for other, _ in others] == [None]
    assert len(store.local_features([first.id])) == 1


def test_removed_keyframes_are_gone_also_after_closing(path: Path) -> None:
    with contextlib.closing(opened(path)) as store:
        store.add([keyframe(number) for number in (1, 2, 3)])
        assert store.remove([KeyframeId(1, 1), KeyframeId(1, 3), KeyframeId(1, 4)]) == 2
    with contextlib.closing(opened(path)) as store:
        assert [found.id.keyframe_id for found, _ in store.search(unit(1), 9)] == [2]
        assert list(store.local_features([KeyframeId(1, n) for n in (1, 2, 3)])) == [
            KeyframeId(1, 2)]
        assert len(store) == 1


@pytest.mark.parametrize(('fact', 'value'), [
    ('model_id', 'other'), ('dim', DIM + 1), ('codec', 'int8')])
def test_another_model_is_refused(path: Path, fact: str, value: object) -> None:
    opened(path).close()
    with pytest.raises(MapError, match=f"its {fact} is '.*', not '{value}'"):
        opened(path, **{fact: value})
    opened(path).close()  # and the refusal has freed the folder


def test_two_maps_on_one_server(path: Path) -> None:
    with contextlib.closing(opened(path)) as store:
        store.add([keyframe(1)])
        with contextlib.closing(opened(f'milvus://{path}#other', codec='int8')) as other:
            assert len(other) == 0
        assert len(store) == 1


@pytest.mark.parametrize('broken', [
    NewKeyframe(Keyframe(KeyframeId(1, 1), 0, unit(1, DIM + 1), None, 0.0), session_of(1)),
    NewKeyframe(
        Keyframe(KeyframeId(1, 1), 0, unit(1) * np.float32('nan'), None, 0.0), session_of(1)),
    NewKeyframe(keyframe(1).keyframe, session_of(1),
                EncodedFeatures('int8', 4, np.zeros((1, 4), np.int8))),
    NewKeyframe(keyframe(1).keyframe, session_of(1), features(1, 6000, 128)),
])
def test_what_does_not_fit_is_refused(store: MilvusStore, broken: NewKeyframe) -> None:
    with pytest.raises(MapError, match='^keyframe 1:1 '):
        store.add([keyframe(2), broken])
    assert len(store) == 0


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """What fails with a MapError, and in time."""
    start = time.monotonic()
    with pytest.raises(UnreachableError, match='no answer in time'):
        yield
    assert time.monotonic() - start < BOUND_S


@pytest.mark.parametrize('scheme', ['http', 'milvus'])
def test_a_refused_port(scheme: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    with bounded():
        opened(f'{scheme}://127.0.0.1:{port}')
    assert capfd.readouterr() == ('', '')


def test_a_silent_server(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener, bounded():
        opened(f'http://127.0.0.1:{listener.getsockname()[1]}')
    assert capfd.readouterr() == ('', '')


def test_the_password_is_not_shown() -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MapError) as refused:
        opened(f'milvus://robot:secret@127.0.0.1:{port}')
    assert 'secret' not in str(refused.value)
    assert f'127.0.0.1:{port}' in str(refused.value)


@pytest.fixture
def relay(path: Path) -> Iterator[Relay]:
    with milvus_server(path) as way:
        yield way


def test_a_server_that_goes_away_and_comes_back(relay: Relay) -> None:
    with contextlib.closing(opened(f'milvus://127.0.0.1:{relay.port}')) as store:
        store.add([keyframe(1)])
        relay.cut()
        for _ in range(3):
            with bounded():
                store.add([keyframe(2)])
        with bounded():
            store.search(unit(1), 1)
        relay.open()
        store.add([keyframe(2)])
        assert len(store.search(unit(1), 9)) == 2


def test_a_server_that_freezes_and_goes_on(relay: Relay) -> None:
    with contextlib.closing(opened(f'milvus://127.0.0.1:{relay.port}')) as store:
        store.add([keyframe(1)])
        relay.running.clear()
        for ask in (lambda: store.add([keyframe(2)]), lambda: store.search(unit(1), 1),
                    lambda: store.local_features([KeyframeId(1, 1)]), lambda: len(store),
                    lambda: store.remove([KeyframeId(1, 9)])):
            with bounded():
                ask()
        relay.running.set()
        time.sleep(0.2)
        store.add([keyframe(2)])
        assert len(store) == 2


def test_a_closed_store(path: Path) -> None:
    store = opened(path)
    store.close()
    store.close()
    with pytest.raises(MapError, match='closed'):
        store.search(unit(1), 1)


def test_threads_and_stores_of_one_process_share_the_folder(path: Path) -> None:
    """Lite by itself loses rows here."""
    stores = [opened(path), opened(path)]

    def write(session: int) -> None:
        for number in range(1, 121):
            stores[session % 2].add([keyframe(number, session=session)])

    threads = [threading.Thread(target=write, args=(session,)) for session in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[0].close()
    assert len(stores[1]) == 480
    stores[1].close()


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Python code in a process of its own that can import this file."""
    return subprocess.Popen(
        [sys.executable, '-c', code, *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=importing(Path(__file__)))


OPEN = 'import sys, pathlib, test_milvus_store as t; store = t.opened(pathlib.Path(sys.argv[1]))'


def test_another_process_is_told_who_has_the_folder(store: MilvusStore, path: Path) -> None:
    _, errors = child(OPEN, str(path)).communicate(timeout=60)
    assert errors.splitlines()[-1].startswith('selavpr_ros.errors.MapError: map ')
    assert 'another process has it open' in errors
    assert 'DataDirLockedError' not in errors  # only the traceback of our own error


WRITER = OPEN + """
number = int(sys.argv[2])
while True:
    store.add([t.keyframe(number)])
    if number % 5 == 0:
        store.remove([t.KeyframeId(1, number - 1)])
    print(number, flush=True)
    number += 1
"""


def written_until_killed(path: Path, first: int, count: int) -> int:
    """Number of the last keyframe that a writer said it has kept before kill -9."""
    writer = child(WRITER, str(path), str(first))
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= first + count:
            break
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate(timeout=60)
    return int(rest.split()[-1]) if rest.split() else int(line)


def test_kill_9_loses_nothing_acknowledged(path: Path) -> None:
    last = 1
    for count in (7, 60, 130):  # before and after Lite's first flush
        last = written_until_killed(path, last, count)
        with contextlib.closing(opened(path)) as store:
            found = {hit.id.keyframe_id for hit, _ in store.search(unit(1), 1000)}
            local = store.local_features([KeyframeId(1, number) for number in found])
        # What came after the last acknowledged keyframe may be there or not.
        removed = {number for number in range(1, last) if (number + 1) % 5 == 0}
        assert found & set(range(1, last)) == set(range(1, last)) - removed
        assert found <= set(range(1, last + 2))
        assert {each.keyframe_id for each in local} == found
        assert all(kept.data.tobytes() == features(each.keyframe_id).data.tobytes()
                   for each, kept in local.items())


def test_the_import_leaves_logs_and_environment_alone(tmp_path: Path) -> None:
    (tmp_path / '.env').write_text('FROM_DOTENV=1\n')
    code = """
import logging, os, sys
os.chdir(os.path.dirname(sys.argv[1]))
logging.basicConfig(filename='log', filemode='w')
import test_milvus_store as t
t.opened(f'milvus://{sys.argv[1]}').close()
logging.warning('still there')
assert 'FROM_DOTENV' not in os.environ and 'PYTHON_DOTENV_DISABLED' not in os.environ
"""
    _, errors = child(code, str(tmp_path / 'map.db')).communicate(timeout=60)
    assert errors == ''
    assert 'still there' in (tmp_path / 'log').read_text()
