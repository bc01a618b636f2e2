"""Stage 3: the map in memory, its search, and what it does with a store that fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from selavpr_ros.decision.unrelated import Unrelated
from selavpr_ros.errors import MapError
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.keyframe_map import UNRELATED_KEPT_EVERY, KeyframeMap
from selavpr_ros.maps.local_cache import LocalCache
from selavpr_ros.maps.local_codec import encode
from selavpr_ros.pose import Pose
from selavpr_ros.settings import MapSettings

SECOND = 1_000_000_000


def _unit_rows(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _keyframe(number: int, descriptor: np.ndarray, session: int = 1) -> NewKeyframe:
    """Keyframe n at n seconds, after n / 2 metres."""
    local = encode(torch.full((10, 4), number / 1000), 'float16')
    keyframe = Keyframe(
        KeyframeId(session, number), number * SECOND, descriptor,
        Pose.planar(number * 0.5, 0.0, 0.0), number * 0.5, has_local=True)
    return NewKeyframe(keyframe, Session(keyframe.id.session, started_ns=SECOND), local)


@pytest.fixture
def filled() -> KeyframeMap:
    keyframe_map = KeyframeMap()
    for number, row in enumerate(_unit_rows(100), start=1):
        keyframe_map.add(_keyframe(number, row))
    return keyframe_map


def test_search_equals_the_exhaustive_formula(filled):
    query = _unit_rows(1, seed=5)[0]
    similarities = _unit_rows(100) @ query
    found = filled.search(query, top_k=7)
    assert [r.keyframe.id.keyframe_id - 1 for r in found] == np.argsort(-similarities)[:7].tolist()
    assert [r.rank for r in found] == list(range(7))
    np.testing.assert_allclose(
        [r.similarity for r in found], np.sort(similarities)[::-1][:7], atol=1e-6)


def test_a_keyframe_finds_itself_first(filled):
    for keyframe in filled:
        best = filled.search(keyframe.global_descriptor, top_k=1)[0]
        assert best.keyframe is keyframe
        assert best.similarity == pytest.approx(1, abs=1e-6)


def test_empty_map_and_nothing_old_enough(filled):
    query = _unit_rows(1)[0]
    assert KeyframeMap().search(query, top_k=5) == []
    assert filled.search(query, top_k=5, among=range(0)) == []


@pytest.mark.parametrize('among', [range(1, 5), np.array([1, 2, 3, 4])])
def test_fewer_keyframes_than_asked(filled, among):
    found = filled.search(_unit_rows(1, seed=3)[0], top_k=20, among=among)
    assert sorted(r.keyframe.id.keyframe_id for r in found) == [2, 3, 4, 5]


@pytest.mark.parametrize(('keyframes', 'seconds', 'metres', 'expected'), [
    (0, 0.0, 0.0, 100),
    (20, 0.0, 0.0, 80),
    (0, 30.0, 0.0, 70),  # the query is at second 101: up to second 71 is 30 s or more ago
    (0, 0.0, 10.0, 80),  # and at 50.5 m: up to 40.5 m
    (20, 30.0, 10.0, 70),
    (200, 0.0, 0.0, 0),
])
def test_recent_keyframes_are_excluded(filled, keyframes, seconds, metres, expected):
    count = filled.first_recent(
        SessionId(1), 101 * SECOND, 50.5, keyframes, seconds, metres)
    assert count == expected


def test_other_sessions_are_never_recent(filled):
    filled.add(_keyframe(1, _unit_rows(1)[0], session=2))
    assert filled.first_recent(SessionId(2), 2 * SECOND, 1.0, 20, 30.0, 10.0) == 100
    assert filled.first_recent(SessionId(3), 0, 0.0, 20, 30.0, 10.0) == 101
    assert filled.session_start(SessionId(2)) == 100
    assert filled.session_start(SessionId(3)) == 101
    assert list(filled.sessions) == [SessionId(1), SessionId(2)]


def test_ids_stay_and_are_found(filled):
    assert filled[KeyframeId(1, 42)].stamp_ns == 42 * SECOND
    assert str(filled.newest.id) == '1:100'
    with pytest.raises(MapError, match='no keyframe 2:1 in a map of 100'):
        filled[KeyframeId(2, 1)]


def test_ids_must_grow_and_sessions_stay_together(filled):
    with pytest.raises(MapError, match='keyframe 1:100 cannot be added after 1:100'):
        filled.add(_keyframe(100, _unit_rows(1)[0]))
    filled.add(_keyframe(1, _unit_rows(1)[0], session=2))
    with pytest.raises(MapError, match='keyframe 1:101 cannot be added after 2:1'):
        filled.add(_keyframe(101, _unit_rows(1)[0]))
    assert len(filled) == 101


def test_another_model_is_refused(filled):
    with pytest.raises(MapError, match='length 16 in a map of 32: another model'):
        filled.add(_keyframe(101, _unit_rows(1, dim=16)[0]))
    assert len(filled) == 100


def test_bytes_are_counted(filled):
    per_keyframe = 32 * 4 + 32 * 2 + 10 * 4 * 2  # float32, its float16 in the index, local float16
    assert filled.nbytes == 100 * per_keyframe
    assert filled.keyframes_with_local == 100


def test_what_is_removed_is_gone_everywhere(filled):
    gone = [KeyframeId(1, 1), KeyframeId(1, 50), KeyframeId(9, 9)]
    assert filled.remove(gone) == 2
    assert filled.remove(gone) == 0
    assert len(filled) == 98
    assert KeyframeId(1, 50) not in filled
    for keyframe in filled:
        assert filled.search(keyframe.global_descriptor, 1)[0].keyframe is keyframe
        assert filled[keyframe.id] is keyframe
    assert filled.local_features(KeyframeId(1, 50)) is None
    assert filled.local_features(KeyframeId(1, 51)).data[0, 0] == np.float16(0.051)


def test_poses_of_the_back_end_move_keyframes(filled):
    poses = {KeyframeId(1, 3): MapPose('map', Pose.planar(7.0, 0.0, 0.0)),
             KeyframeId(4, 4): MapPose('map', Pose.planar(0.0, 0.0, 0.0))}
    assert filled.set_map_poses(poses) == 1
    assert filled[KeyframeId(1, 3)].place.translation_m[0] == 7.0
    assert filled[KeyframeId(1, 3)].pose.translation_m[0] == 1.5
    assert filled.near(np.array([7.0, 0.0, 0.0]), 0.6).tolist() == [2, 12, 13, 14]


def test_the_oldest_session_goes_first(filled):
    filled.add(_keyframe(1, _unit_rows(1)[0], session=2))
    assert filled.evict('reject_new', SessionId(2)) == 0
    assert filled.evict('oldest_session', SessionId(2)) == 100
    assert [str(k.id) for k in filled] == ['2:1']
    assert filled.evict('oldest_session', SessionId(2)) == 0
    assert filled.session_start(SessionId(2)) == 0


def test_room_is_made_only_in_a_full_map(filled):
    for limit, eviction, has_room, left in (
        (101, 'oldest_session', True, 100), (100, 'reject_new', False, 100),
        (100, 'oldest_session', True, 0),
    ):
        settings = MapSettings(max_keyframes=limit, eviction=eviction)
        assert filled.make_room(settings, SessionId(2)) is has_room
        assert len(filled) == left


def test_where_it_is_densest_keyframes_go_first():
    keyframe_map, rows = KeyframeMap(), _unit_rows(200)
    rows[10] = rows[9]
    rows[60] = rows[59]
    for number, row in enumerate(rows, start=1):
        keyframe_map.add(_keyframe(number, row))
    assert keyframe_map.evict('densest', SessionId(1)) == 2
    assert KeyframeId(1, 11) not in keyframe_map
    assert KeyframeId(1, 61) not in keyframe_map


def test_the_cache_keeps_what_was_used_last():
    features = {n: encode(torch.zeros(10, 4), 'float16') for n in range(4)}  # 80 bytes each
    cache = LocalCache(limit=240)
    for n in (0, 1, 2):
        cache.put(KeyframeId(1, n), features[n])
    assert cache.get(KeyframeId(1, 0)) is features[0]
    cache.put(KeyframeId(1, 3), features[3])
    assert cache.get(KeyframeId(1, 1)) is None
    assert cache.get(KeyframeId(1, 0)) is features[0]
    assert cache.nbytes == 240
    cache.put(KeyframeId(1, 0), features[0])
    assert cache.nbytes == 240
    cache.drop(KeyframeId(1, 0))
    cache.drop(KeyframeId(1, 0))
    assert cache.nbytes == 160


class _Disk:
    """A store that holds no more than what is known of unrelated images."""

    read_only, why = False, ''

    def __init__(self, text: str = '') -> None:
        self.text, self.kept = text, []

    def sessions(self):
        return []

    def keyframes(self):
        return iter(())

    def unrelated(self) -> str:
        return self.text

    def add(self, new):
        pass

    def keep_unrelated(self, text: str) -> None:
        if self.why:
            raise MapError(self.why)
        self.kept.append(text)

    def close(self):
        pass


LEARNED = Unrelated(level=0.03, queries=7.0)


def test_what_is_known_of_unrelated_images_comes_with_the_map():
    assert KeyframeMap().unrelated == KeyframeMap(_Disk()).unrelated == ''
    assert KeyframeMap(_Disk(LEARNED.to_json())).unrelated == LEARNED.to_json()


def test_what_is_known_of_unrelated_images_is_kept_now_and_then_and_at_the_end():
    disk = _Disk()
    keyframe_map = KeyframeMap(disk)
    for number, row in enumerate(_unit_rows(2 * UNRELATED_KEPT_EVERY - 1), start=1):
        keyframe_map.unrelated = replace(LEARNED, queries=float(number)).to_json()
        keyframe_map.add(_keyframe(number, row))
    keyframe_map.close()
    assert [Unrelated.from_json(text).queries for text in disk.kept] == [
        UNRELATED_KEPT_EVERY, 2 * UNRELATED_KEPT_EVERY - 1]


def test_nothing_is_kept_where_nothing_is_known_or_may_be_written():
    disk = _Disk()
    KeyframeMap(disk).close()
    read_only = _Disk(LEARNED.to_json())
    read_only.read_only = True
    KeyframeMap(read_only).close()
    assert disk.kept == read_only.kept == []


def test_a_store_that_cannot_keep_it_says_why():
    disk = _Disk(LEARNED.to_json())
    disk.why = 'the disk is full'
    keyframe_map = KeyframeMap(disk)
    keyframe_map.close()
    assert keyframe_map.store_error == 'the disk is full'


def test_a_map_without_a_file_cannot_be_saved(filled, tmp_path):
    with pytest.raises(MapError, match='in memory alone'):
        filled.save_to(tmp_path / 'map.vprmap')
    assert filled.thumbnail(KeyframeId(1, 1)) == b''
    assert (filled.codec, filled.why_closed, filled.unsaved) == (None, '', 0)
