"""Robots that share a map, by real Milvus Lite and through a network that fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maps import MODEL, make_keyframe
from relay import Relay, importing, milvus_server

from selavpr_ros.errors import MapError, UnreachableError
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.fleet import courier, milvus_collections
from selavpr_ros.maps.fleet.milvus_connection import Address
from selavpr_ros.maps.fleet.milvus_store import MilvusStore
from selavpr_ros.maps.keyframe import Hint, KeyframeId, MapPose, NewKeyframe, SessionId
from selavpr_ros.maps.keyframe_map import DENSEST, OLDEST_SESSION, KeyframeMap
from selavpr_ros.maps.opening import open_map
from selavpr_ros.pose import Pose
from selavpr_ros.settings import make_settings

DIM = 32
TIMEOUT_S = 0.3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, 'RETRY_S', 0.05)
    monkeypatch.setattr(courier, 'LONGEST_RETRY_S', 0.2)
    monkeypatch.setattr(courier, 'CLOSING_S', 1.0)
    monkeypatch.setattr(milvus_collections, 'PATIENCE_S', 2.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Relay]:
    with milvus_server(tmp_path / 'server.db') as way:
        yield way


@contextmanager
def look(server: Relay) -> Iterator[MilvusStore]:
    """What is on the server, not through the network."""
    with closing(MilvusStore(
            Address.parse(f'milvus://127.0.0.1:{server.target}'), model_id=MODEL, dim=DIM,
            codec='float16', timeout_s=10.0)) as store:
        yield store


def ids_on(server: Relay) -> list[KeyframeId]:
    """All keyframes on the server; one that is there twice is here twice."""
    with look(server) as store:
        return sorted(found.id for found, _ in store.search(np.ones(DIM, np.float32), 9999))


def settings_of(server: Relay, folder: Path, robot: int = 1, **others: Any) -> Any:
    return make_settings({
        'map.path': f'milvus://127.0.0.1:{server.port}', 'map.server_timeout': TIMEOUT_S,
        'map.own_path': str(folder / f'own_{robot}.vprmap'), 'robot_id': robot, **others})


@contextmanager
def robot(
    server: Relay, folder: Path, number: int = 1, **others: Any
) -> Iterator[KeyframeMap]:
    with closing(open_map(settings_of(server, folder, number, **others), MODEL, DIM)) as found:
        yield found


def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, 'it did not come'
        time.sleep(0.02)


def new(number: int, robot: int = 1, session: int = 1) -> NewKeyframe:
    return make_keyframe(number, session, robot, dim=DIM)


def delivered(found: KeyframeMap) -> None:
    until(lambda: found.undelivered == 0 and not found.shared_error)


def test_robots_find_each_other(server, tmp_path):
    with robot(server, tmp_path, 1) as one, robot(server, tmp_path, 2) as two:
        for number in range(1, 21):
            one.add(new(number, 1))
            two.add(new(number, 2))
        delivered(one)
        wanted = new(7, 1)
        best, *others = two.search_shared(wanted.keyframe.global_descriptor, 5)
        assert best.keyframe.id == KeyframeId(1, 7, 1)
        assert best.similarity == pytest.approx(1.0, abs=1e-6)
        assert {each.keyframe.id.robot_id for each in others} == {1}  # its own are searched here
        local = two.local_features(best.keyframe.id)
        assert local is not None
        assert wanted.local is not None
        assert local.data.tobytes() == wanted.local.data.tobytes()
        assert best.keyframe.pose == wanted.keyframe.pose
        assert two.search(wanted.keyframe.global_descriptor, 1)[0].keyframe.id.robot_id == 2


def test_a_hint_is_a_circle(server, tmp_path):
    with robot(server, tmp_path, 1) as one, robot(server, tmp_path, 2) as two:
        for number in range(1, 11):
            one.add(new(number))  # at (n / 2, 1, 1)
        delivered(one)
        found = two.search_shared(
            new(3).keyframe.global_descriptor, 9, Hint(np.array([1.5, 1.0, 1.0]), 0.5))
        assert sorted(each.keyframe.id.keyframe_id for each in found) == [2, 3, 4]
        for number in range(11, 41):  # in a corner of the box, and more similar
            near = replace(new(3).keyframe, id=KeyframeId(1, number, 1),
                           pose=Pose([1.95, 1.45, 1.0], [0, 0, 0, 1]))
            one.add(replace(new(number), keyframe=near))
        delivered(one)
        found = two.search_shared(
            new(3).keyframe.global_descriptor, 3, Hint(np.array([1.5, 1.0, 1.0]), 0.5))
        assert sorted(each.keyframe.id.keyframe_id for each in found) == [2, 3, 4]
        corner = Hint(np.array([1.0, 0.6, 0.6]), 0.5)  # in the box, not in the circle
        assert two.search_shared(new(2).keyframe.global_descriptor, 9, corner) == []


def test_without_a_server_at_the_start_it_goes_on_and_delivers_later(server, tmp_path):
    server.cut()
    with robot(server, tmp_path) as found:
        for number in range(1, 31):
            found.add(new(number))
        assert 'no answer in time' in found.shared_error
        assert found.undelivered == 30
        assert found.search_shared(new(3).keyframe.global_descriptor, 5) == []
        assert found.search(
            new(3).keyframe.global_descriptor, 1)[0].keyframe.id == KeyframeId(1, 3, 1)
        server.open()
        delivered(found)
        assert ids_on(server) == [KeyframeId(1, number, 1) for number in range(1, 31)]


def test_a_server_that_comes_and_goes(server, tmp_path):
    """None lost, none doubled."""
    with robot(server, tmp_path) as found:
        for number in range(1, 121):
            if number % 30 == 10:
                server.cut()
            if number % 30 == 20:
                server.open()
            found.add(new(number))
            time.sleep(0.01)
        assert len(found) == 120
        server.running.set()
        delivered(found)
    assert ids_on(server) == [KeyframeId(1, number, 1) for number in range(1, 121)]


def test_a_slow_server_costs_one_query_its_time(server, tmp_path, monkeypatch):
    asked, search = [], MilvusStore.search

    def count(store, **options):
        asked.append(options)
        return search(store, **options)

    monkeypatch.setattr(MilvusStore, 'search', count)
    with robot(server, tmp_path, 1) as one, robot(server, tmp_path, 2) as two:
        one.add(new(1))
        delivered(one)
        assert two.search_shared(new(1).keyframe.global_descriptor, 1)
        server.running.clear()
        asked.clear()
        for _ in range(100):
            assert two.search_shared(new(1).keyframe.global_descriptor, 1) == []
        assert len(asked) == 1
        assert 'no answer in time' in two.shared_error
        server.running.set()
        until(lambda: bool(two.search_shared(new(1).keyframe.global_descriptor, 1)))
        until(lambda: not two.shared_error)


def test_poses_of_the_back_end_arrive(server, tmp_path):
    moved = MapPose('map', Pose.planar(5.0, 6.0, 0.5))
    with robot(server, tmp_path, 1) as one, robot(server, tmp_path, 2) as two:
        for number in range(1, 6):
            one.add(new(number))
        delivered(one)
        assert one.set_map_poses({KeyframeId(1, 3, 1): moved}) == 1

        def pose_there() -> MapPose | None:
            return two.search_shared(
                new(3).keyframe.global_descriptor, 1)[0].keyframe.map_pose

        until(lambda: pose_there() is not None)
        assert pose_there() == moved


def test_what_is_removed_is_removed_everywhere_and_what_is_evicted_is_not(server, tmp_path):
    with robot(server, tmp_path) as found:
        for number in range(1, 31):
            found.add(new(number, session=1))
        found.add(new(1, session=2))
        delivered(found)
        assert found.remove([KeyframeId(1, 2, 1), KeyframeId(1, 4, 1)]) == 2
        until(lambda: len(ids_on(server)) == 29)
        assert found.evict(OLDEST_SESSION, SessionId(2, 1)) == 28
        assert [keyframe.id for keyframe in found] == [KeyframeId(2, 1, 1)]
        delivered(found)
        # The others remember, and this robot finds there what it has forgotten.
        best = found.search_shared(new(9).keyframe.global_descriptor, 1)[0]
        assert best.keyframe.id == KeyframeId(1, 9, 1)
    assert len(ids_on(server)) == 29


def test_what_was_removed_while_the_server_was_away_takes_nothing_new_with_it(server, tmp_path):
    with robot(server, tmp_path) as found:
        for number in range(1, 4):
            found.add(new(number))
        delivered(found)
        server.cut()
        assert found.remove([keyframe.id for keyframe in found]) == 3
    with robot(server, tmp_path) as found:
        assert found.last_session_id(1) == 1  # of a session that is forgotten
        found.add(new(1))  # all the same, with its id
        server.open()
        delivered(found)
    assert ids_on(server) == [KeyframeId(1, 1, 1)]


def test_what_the_server_refuses_keeps_nothing_else_back(server, tmp_path):
    refused = make_keyframe(3, 1, 1, dim=DIM, local=(12_000, 64))  # 1.5 MB
    with robot(server, tmp_path) as found:
        for number in range(1, 9):
            found.add(refused if number == 3 else new(number))
        until(lambda: found.undelivered == 1)
        until(lambda: 'keyframe 1/1:3 has 1536000 bytes of local features' in found.shared_error)
        assert found.search_shared(new(1).keyframe.global_descriptor, 1) == []  # but asked
        found.add(new(9))
        until(lambda: len(ids_on(server)) == 8)
        assert found.remove([refused.keyframe.id]) == 1
        delivered(found)


def test_a_server_that_was_emptied_gets_everything_again(server, tmp_path):
    with robot(server, tmp_path) as found:
        for number in range(1, 4):
            found.add(new(number))
        delivered(found)
        with look(server) as store, store._collections._connection.asking('drop') as client:
            for name in store._collections.names:
                client.drop_collection(name)
        found.add(new(4))

        def is_back() -> bool:
            with suppress(UnreachableError):  # collections that are made anew are slow to open
                return len(ids_on(server)) == 4
            return False

        until(is_back)
        delivered(found)


def test_two_robots_of_one_disk_image_are_told(server, tmp_path):
    with robot(server, tmp_path) as found:
        found.add(new(1))
        delivered(found)
    clone = tmp_path / 'clone'
    clone.mkdir()
    (clone / 'own_1.vprmap').write_bytes((tmp_path / 'own_1.vprmap').read_bytes())
    with robot(server, tmp_path) as one, robot(server, clone) as two:
        one.add(new(1, session=2))
        delivered(one)
        late = new(5, session=2)
        two.add(replace(late, session=replace(late.session, started_ns=7)))
        until(lambda: 'session 1/2 there is not session 1/2 here' in two.shared_error)
    assert ids_on(server) == [KeyframeId(1, 1, 1), KeyframeId(2, 1, 1)]


def test_a_slow_link_brings_the_features_of_the_most_similar_ones(server, tmp_path):
    large = [make_keyframe(number, 1, 1, dim=DIM, local=(2000, 64)) for number in range(1, 21)]
    patient = robot(server, tmp_path, 2, **{'map.server_timeout': 1.0})
    with robot(server, tmp_path, 1) as one, patient as two:
        for each in large:  # 256 KB of features
            one.add(each)
        until(lambda: one.undelivered == 0)
        server.bytes_per_s = 4e6
        until(lambda: not two.shared_error)
        found = two.search_shared(large[6].keyframe.global_descriptor, 20)
        have = [two.local_features(each.keyframe.id) is not None for each in found]
        assert have[0]
        assert 1 <= sum(have) < 20
        assert have == sorted(have, reverse=True)
        assert not two.shared_error


def test_what_nobody_else_has_is_not_evicted(server, tmp_path):
    server.cut()
    with robot(server, tmp_path) as found:
        for number in range(1, 131):
            found.add(new(number))
        assert found.evict(DENSEST, SessionId(1, 1)) == 0
        assert len(found) == 130


def test_a_robot_that_lost_its_file_counts_on(server, tmp_path):
    with robot(server, tmp_path) as found:
        found.add(new(1, session=4))
        delivered(found)
    (tmp_path / 'own_1.vprmap').unlink()
    with robot(server, tmp_path) as found:
        assert len(found) == 0
        assert found.last_session_id(1) == 4


def test_two_robots_of_one_number_are_told(server, tmp_path):
    with robot(server, tmp_path, 1) as one:
        one.add(new(1))
        delivered(one)
        other_folder = tmp_path / 'other'
        other_folder.mkdir()
        with robot(server, other_folder, 1) as same:
            same.add(new(2))
            until(lambda: 'session 1/1 there is not session 1/1 here' in same.shared_error)
            assert same.undelivered == 1
            # Its own session is excluded by its number, which is the other's, too.
            assert same.search_shared(new(1).keyframe.global_descriptor, 1) == []
    assert ids_on(server) == [KeyframeId(1, 1, 1)]


def test_another_model_is_refused_at_once(server, tmp_path):
    with robot(server, tmp_path, 1) as one:
        one.add(new(1))
        delivered(one)
    with pytest.raises(MapError, match="its model_id is '.*', not 'other/1/x'"):
        open_map(settings_of(server, tmp_path, 2), 'other/1/x', DIM)
    # The refusal has let go of the file.
    MapFile(tmp_path / 'own_2.vprmap').close()


@pytest.mark.parametrize(('changed', 'words'), [
    ({'robot_id': 0}, 'set robot_id to a number from 1 on'),
    ({'map.read_only': True}, 'map.read_only is for files'),
    ({'map.path': 'milvus://'}, 'no address of a shared map'),
])
def test_settings_that_do_not_fit(server, tmp_path, changed, words):
    settings = settings_of(server, tmp_path)
    for name, value in changed.items():
        settings = make_settings({**settings.flat(), name: value})
    with pytest.raises(MapError, match=words):
        open_map(settings, MODEL, DIM)


def test_the_own_file_has_a_place_by_default(server, tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros'))
    settings = make_settings({**settings_of(server, tmp_path, 7).flat(), 'map.own_path': ''})
    with closing(open_map(settings, MODEL, DIM)):
        assert (tmp_path / 'ros/selavpr/robot_7.vprmap').exists()


WRITER = """
import sys
from contextlib import closing
from test_shared_map import MODEL, DIM, new, open_map
from selavpr_ros.settings import make_settings
settings = make_settings({
    'map.path': sys.argv[1], 'map.own_path': sys.argv[2], 'robot_id': 1})
with closing(open_map(settings, MODEL, DIM)) as found:
    number = len(found)
    while True:
        number += 1
        found.add(new(number))
        print(number, flush=True)
"""


def test_kill_9_loses_and_doubles_nothing(server, tmp_path):
    address, own = f'milvus://127.0.0.1:{server.port}', tmp_path / 'own_1.vprmap'
    last = 0
    for count in (5, 40, 90):
        # A fork would take the threads of gRPC with it.
        writer = subprocess.Popen(
            [sys.executable, '-c', WRITER, address, str(own)], stdout=subprocess.PIPE, text=True,
            env=importing(Path(__file__)))
        with writer:
            assert writer.stdout
            while int(next(writer.stdout)) < last + count:
                pass
            writer.kill()
        with MapFile(own, read_only=True) as file:
            last = len(file)
        assert last >= count
    with robot(server, tmp_path) as found:
        delivered(found)
    assert ids_on(server) == [KeyframeId(1, number, 1) for number in range(1, last + 1)]


def test_a_new_server_gets_everything(server, tmp_path):
    with robot(server, tmp_path) as found:
        for number in range(1, 6):
            found.add(new(number))
        delivered(found)
    settings = settings_of(server, tmp_path)
    elsewhere = make_settings({**settings.flat(), 'map.path': f'{settings.map.path}#hall'})
    with closing(open_map(elsewhere, MODEL, DIM)) as found:
        delivered(found)
    settings = replace(Address.parse(f'milvus://127.0.0.1:{server.target}'), name='hall')
    with closing(MilvusStore(settings, model_id=MODEL, dim=DIM, codec='float16')) as store:
        assert len(store) == 5
