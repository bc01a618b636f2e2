"""The whole method on small made-up places and on a real loop."""

from __future__ import annotations

import csv
import math

import cv2
import numpy as np
import pytest
import tiny_checkpoints

from selavpr_ros.calibration import Calibration, LogisticModel
from selavpr_ros.config import make_settings, replace_setting
from selavpr_ros.decision import ClosureDecision, Decision
from selavpr_ros.errors import DescriptorError, ImageError, StampError
from selavpr_ros.keyframe import Hint, KeyframeId
from selavpr_ros.keyframe_map import KeyframeMap
from selavpr_ros.models import OperatingPoint, load_model
from selavpr_ros.place_recognizer import STAGES, UNCALIBRATED_LOCAL_SCORE, PlaceRecognizer
from selavpr_ros.pose import Pose

SECOND = 1_000_000_000
QUICK = {'index.exclude_recent_keyframes': 3, 'index.exclude_recent_seconds': 0.0,
         'index.exclude_recent_distance': 0.0, 'keyframe.min_interval': 0.0,
         'keyframe.duplicate_similarity': 1.0}


@pytest.fixture(scope='module')
def model():
    return load_model('hog', image_size=(120, 160))


def _recognizer(model, **values) -> PlaceRecognizer:
    return PlaceRecognizer(model, make_settings({**QUICK, **values}))


def _place(number: int) -> np.ndarray:
    """An image of a place of its own: boxes and lines."""
    random = np.random.default_rng(number)
    image = np.full((120, 160, 3), 128, np.uint8)
    for _ in range(6):
        corners = random.integers(0, (160, 120), (4, 2))
        colours = random.integers(0, 256, (2, 3)).tolist()
        cv2.rectangle(image, corners[0].tolist(), corners[1].tolist(), colours[0], -1)
        cv2.line(image, corners[2].tolist(), corners[3].tolist(), colours[1], 3)
    return image


def _drive(recognizer: PlaceRecognizer, places, step_m: float = 1.0, poses: bool = True):
    return [
        recognizer.recognize(
            _place(place), (i + 1) * SECOND, Pose.planar(i * step_m, 0, 0) if poses else None)
        for i, place in enumerate(places)]


def test_two_laps_close_the_loop(model):
    recognizer = _recognizer(model)
    results = _drive(recognizer, [*range(8), *range(8)])
    assert [r.keyframe.id for r in results] == [KeyframeId(1, n) for n in range(1, 17)]
    for i in range(8, 16):
        best = results[i].candidates[0]
        assert best.match.keyframe.id == KeyframeId(1, i - 7)
        assert best.match.similarity == pytest.approx(1, abs=1e-5)
        assert best.match.local_score > 0.8  # flat patches are alike
    closures = [r.loop_closure for r in results]
    assert closures[:8] == [None] * 8
    assert closures[8] is None  # one query alone has no support
    assert [c.match.keyframe.id.keyframe_id for c in closures[10:]] == [3, 4, 5, 6, 7, 8]


def test_every_candidate_has_a_verdict_and_only_one_is_accepted(model):
    results = _drive(_recognizer(model), [*range(8), *range(8)])
    for result in results:
        accepted = [c for c in result.candidates if c.decision is Decision.ACCEPTED]
        assert accepted == ([result.loop_closure] if result.loop_closure else [])
        assert len(result.stage_ms) == len(STAGES)
        assert all(ms >= 0 for ms in result.stage_ms)


def test_first_image_has_no_candidates_and_becomes_a_keyframe(model):
    first, = _drive(_recognizer(model), [0])
    assert first.candidates == []
    assert first.loop_closure is None
    assert first.keyframe.id == KeyframeId(1, 1)


def test_keyframes_by_distance_rotation_and_time(model):
    recognizer = _recognizer(model, **{'keyframe.min_translation': 2.0,
                                       'keyframe.min_rotation': 0.5,
                                       'keyframe.min_interval': 1.5})
    poses = [(0.0, 0.0), (2.1, 0.0), (2.2, 0.0), (2.3, 0.6), (4.5, 0.6), (4.6, 0.6)]
    kept = [
        recognizer.recognize(_place(0), i * SECOND, Pose.planar(x, 0, yaw)).keyframe is not None
        for i, (x, yaw) in enumerate(poses)]
    # second 1: too soon; 2: far enough; 3: too soon; 4: far and turned
    assert kept == [True, False, True, False, True, False]


def test_keyframes_by_similarity_without_odometry(model):
    recognizer = _recognizer(model)
    results = _drive(recognizer, [0, 0, 1, 1, 0], poses=False)
    assert [r.keyframe is not None for r in results] == [True, False, True, False, True]


def test_a_full_map_takes_no_more(model):
    recognizer = _recognizer(model, **{'map.max_keyframes': 3})
    results = _drive(recognizer, range(5))
    assert [r.keyframe is not None for r in results] == [True] * 3 + [False] * 2
    assert len(recognizer.keyframe_map) == 3


def test_travelled_distance_is_along_the_way(model):
    recognizer = _recognizer(model)
    for i, x_m in enumerate((0.0, 3.0, 1.0)):
        result = recognizer.recognize(_place(i), i * SECOND, Pose.planar(x_m, 0, 0))
    assert result.query.travelled_m == pytest.approx(5.0)
    result = recognizer.recognize(_place(9), 3 * SECOND, None)
    assert result.query.travelled_m == pytest.approx(5.0)


@pytest.mark.parametrize('codec', ['float16', 'int8', 'binary'])
def test_local_features_are_kept_and_compared_in_every_codec(model, codec):
    recognizer = _recognizer(model, **{'map.local_codec': codec})
    results = _drive(recognizer, [*range(5), *range(5)])
    kept = recognizer.keyframe_map.local_features(results[0].keyframe.id)
    assert kept.codec == codec
    assert results[-1].loop_closure.match.keyframe.id.keyframe_id == 5
    assert results[-1].loop_closure.match.local_score > 0.9


def test_without_local_features_similarity_decides(model):
    recognizer = _recognizer(
        model, **{'map.local_codec': 'none', 'gates.min_similarity': 0.9})
    results = _drive(recognizer, [*range(5), *range(5)])
    assert not results[0].keyframe.has_local
    assert results[-1].candidates[0].match.local_matches == 0
    assert results[-1].loop_closure is not None


def test_what_is_in_the_map_already_is_not_stored_again(model):
    stored = _drive(
        _recognizer(model, **{'keyframe.duplicate_similarity': 0.98}), [*range(5), *range(5)])
    kept = [r.keyframe is not None for r in stored]
    assert kept == [True] * 7 + [False] * 3  # two without support, then recognised
    assert stored[8].loop_closure.match.similarity > 0.98
    assert all(r.keyframe for r in _drive(_recognizer(model), [*range(5), *range(5)]))


def test_what_is_not_stored_again_makes_no_older_keyframe_recent(model):
    recognizer = _recognizer(
        model, **{'keyframe.duplicate_similarity': 0.98, 'gates.odometry_check': False})
    results = _drive(recognizer, [*range(8), *range(8), *range(8)])
    assert len(recognizer.keyframe_map) == 10
    assert all(result.loop_closure for result in results[10:])
    assert results[10].searched == 10 - 3
    assert results[13].searched == 10
    # Standing still is no view, and known all the same.
    again = [recognizer.recognize(_place(7), (40 + i) * SECOND, results[-1].query.pose)
             for i in range(5)]
    assert [result.loop_closure for result in again] == [None] * 5
    recognizer.recognize(_place(50), 50 * SECOND, Pose.planar(24, 0, 0))
    after = recognizer.recognize(_place(51), 51 * SECOND, Pose.planar(25, 0, 0))
    assert (len(recognizer.keyframe_map), after.searched) == (12, 10)


def test_a_robot_that_stands_does_not_meet_itself(model):
    """Every query is a view, but none is as far from the last keyframe as keyframes are."""
    recognizer = PlaceRecognizer(model, make_settings(
        {'gates.min_motion_between': 0.0, 'index.exclude_recent_seconds': 5.0}))
    for i in range(40):
        result = recognizer.recognize(_place(1), (i + 1) * SECOND, Pose.planar(0.0, 0.0, 0.0))
        assert result.searched == 0
    assert len(recognizer.keyframe_map) == 1


def _creep(recognizer, places, start_m: float, start_s: int = 20):
    """A metre for each place, a tenth at a time."""
    return [
        recognizer.recognize(
            _place(places[i // 10]), (start_s + i) * SECOND, Pose.planar(start_m + i / 10, 0, 0))
        for i in range(10 * len(places))]


def test_a_slow_robot_stores_no_copies(model):
    recognizer = _recognizer(
        model, **{'keyframe.duplicate_similarity': 0.98, 'keyframe.min_translation': 0.3})
    _drive(recognizer, [*range(8), *range(2)])
    results = _creep(recognizer, range(2, 8), 10.0)
    assert len(recognizer.keyframe_map) == 10
    decisions = [result.candidates[0].decision for result in results]
    assert decisions.count(Decision.ACCEPTED) == 12
    assert decisions.count(Decision.REJECT_STATIONARY) == 48


def test_what_hardly_moved_is_linked_to_the_place_that_it_shows(model, monkeypatch):
    linked = {}
    monkeypatch.setattr(ClosureDecision, 'remember',
                        lambda self, keyframe, place: linked.setdefault(keyframe, place))
    recognizer = _recognizer(model, **{'keyframe.min_translation': 0.3})  # copies are stored
    _drive(recognizer, [*range(8), *range(2)])
    stationary = [
        result for result in _creep(recognizer, range(2, 8), 10.0)
        if result.keyframe and result.candidates[0].decision is Decision.REJECT_STATIONARY]
    assert len(stationary) > 5
    for result in stationary:
        assert linked[result.keyframe.id] == result.candidates[0].match.keyframe.id


def test_the_end_of_the_lap_before_a_time_jump_closes_too(model):
    recognizer = _recognizer(model, **{'keyframe.duplicate_similarity': 0.98})
    _drive(recognizer, [*range(8)])
    with pytest.raises(StampError):
        recognizer.recognize(_place(0), 2)
    results = [recognizer.recognize(_place(n), 3 + n * SECOND, Pose.planar(n, 0, 0))
               for n in range(8)]
    assert recognizer.session_id == 2
    assert results[0].searched == 8 - 3
    assert results[-1].loop_closure is not None
    assert results[-1].loop_closure.match.keyframe.id == KeyframeId(1, 8)


def test_localization_keeps_nothing(model):
    recognizer = _recognizer(model)
    _drive(recognizer, range(6))
    recognizer.settings = replace_setting(recognizer.settings, 'map.mode', 'localization')
    recognizer.start_session()
    results = _drive(recognizer, range(6))
    assert len(recognizer.keyframe_map) == 6
    assert results[-1].keyframe is None
    assert results[-1].loop_closure.match.keyframe.id.session_id == 1
    assert results[-1].relocalization.success


@pytest.mark.parametrize(('wanted', 'sessions'), [
    ('all', {1, 2}), ('intra', {2}), ('inter', {1})])
def test_candidates_of_this_or_of_other_sessions(model, wanted, sessions):
    recognizer = _recognizer(model, **{'index.session_filter': wanted})
    _drive(recognizer, range(5))
    recognizer.start_session()
    results = _drive(recognizer, [*range(5), *range(5)])
    found = {c.match.keyframe.id.session_id for c in results[-1].candidates}
    assert found == sessions


def test_a_hint_leaves_only_what_is_near(model):
    recognizer = _recognizer(model)
    for i in range(8):
        recognizer.recognize(_place(i), i * SECOND, Pose.planar(10.0 * i, 0.0, 0.0))
    recognizer.start_session()
    recognizer.hint = Hint(np.array([30.0, 0.0, 0.0]), 11.0)
    result = recognizer.recognize(_place(7), 9 * SECOND)
    assert sorted(c.match.keyframe.id.keyframe_id for c in result.candidates) == [3, 4, 5]


def test_robots_count_their_own_sessions(model):
    recognizer = _recognizer(model, **{'robot_id': 7})
    _drive(recognizer, range(3))
    assert str(recognizer.keyframe_map.newest.id) == '7/1:3'
    assert recognizer.start_session('evening') == 2


def test_a_full_map_forgets_its_oldest_session(model):
    recognizer = _recognizer(model, **{
        'map.max_keyframes': 5, 'map.eviction': 'oldest_session'})
    _drive(recognizer, range(5))
    recognizer.start_session()
    results = _drive(recognizer, range(10, 13))
    assert all(result.keyframe for result in results)
    assert [str(k.id) for k in recognizer.keyframe_map] == ['2:1', '2:2', '2:3']


def test_what_was_closed_in_one_map_says_nothing_about_another(model):
    recognizer = _recognizer(model, **{'gates.odometry_check': False, 'gates.temporal_reach': 2})
    _drive(recognizer, [*range(8), *range(8)], step_m=20.0)
    recognizer.adopt(KeyframeMap())
    # Two rows of the same places, and nothing has shown that they are one row.
    accepting = recognizer.settings
    recognizer.settings = replace_setting(accepting, 'gates.min_local_matches', 10**6)
    _drive(recognizer, [*range(8), *range(8)], step_m=20.0)
    recognizer.settings = accepting
    stamp_ns, pose = 30 * SECOND, Pose.planar(0, 0, 0)
    result = recognizer.recognize(_place(3), stamp_ns, pose)
    assert [c.match.keyframe.id.keyframe_id for c in result.candidates[:2]] in ([4, 12], [12, 4])
    assert result.candidates[0].decision is Decision.REJECT_AMBIGUOUS


def test_verification_can_be_switched_while_running(model):
    recognizer = _recognizer(model, **{'verify.enabled': False, 'gates.min_similarity': 0.9})
    _drive(recognizer, range(5))
    recognizer.settings = make_settings({**QUICK, 'verify.enabled': True})
    result = recognizer.recognize(_place(0), 10 * SECOND)
    assert result.candidates[0].match.local_matches > 0


def test_queries_are_due_by_stamp_and_motion(model):
    recognizer = _recognizer(model, **{'query.max_rate': 2.0, 'query.min_translation': 1.0})
    at = Pose.planar
    assert recognizer.is_due(SECOND, at(0, 0, 0))
    recognizer.recognize(_place(0), SECOND, at(0, 0, 0))
    assert not recognizer.is_due(SECOND + SECOND // 10, at(5, 0, 0))
    assert not recognizer.is_due(2 * SECOND, at(0.5, 0, 0))
    assert recognizer.is_due(2 * SECOND, at(1.5, 0, 0))
    assert recognizer.is_due(2 * SECOND, None)


def test_stamp_slightly_back_is_refused_and_nothing_lost(model):
    recognizer = _recognizer(model)
    _drive(recognizer, range(3))
    with pytest.raises(StampError, match=r'0\.500 s before the last one'):
        recognizer.recognize(_place(3), 3 * SECOND - SECOND // 2)
    assert len(recognizer.keyframe_map) == 3
    assert recognizer.session_id == 1


def test_recording_that_starts_again_begins_a_session(model):
    recognizer = _recognizer(model)
    _drive(recognizer, range(8))
    with pytest.raises(StampError, match='7.000 s before the last one'):
        recognizer.recognize(_place(0), SECOND)
    result = recognizer.recognize(_place(1), 2 * SECOND)
    assert result.keyframe.id == KeyframeId(2, 1)
    assert result.candidates[0].match.keyframe.id == KeyframeId(1, 2)


def test_one_wrong_stamp_changes_nothing(model):
    recognizer = _recognizer(model)
    _drive(recognizer, range(8))
    with pytest.raises(StampError):
        recognizer.recognize(_place(8), 0)
    assert recognizer.recognize(_place(8), 9 * SECOND).keyframe.id == KeyframeId(1, 9)


def test_newest_keyframes_stay_excluded_when_only_the_clock_jumped(model):
    recognizer = _recognizer(model)
    _drive(recognizer, [20, 21, 22, 23, 24, 0, 0, 0], step_m=5.0)
    with pytest.raises(StampError):
        recognizer.recognize(_place(0), SECOND)
    result = recognizer.recognize(_place(0), 2 * SECOND)
    assert recognizer.session_id == 2
    assert result.searched == 5
    explicit = PlaceRecognizer(model, make_settings(QUICK), recognizer.keyframe_map)
    assert explicit.recognize(_place(0), 3 * SECOND).searched == len(recognizer.keyframe_map) - 1


def test_odometry_that_stops_does_not_exclude_for_ever(model):
    recognizer = _recognizer(model, **{'index.exclude_recent_distance': 10.0})
    for i in range(20):
        pose = Pose.planar(i, 0, 0) if i < 5 else None
        result = recognizer.recognize(_place(i), (i + 1) * SECOND, pose)
    assert result.searched == 16


def test_odometry_with_holes_still_measures_the_way(model):
    recognizer = _recognizer(model)
    for i in range(9):
        pose = Pose.planar(i, 0, 0) if i % 2 == 0 else None
        result = recognizer.recognize(_place(i), (i + 1) * SECOND, pose)
    assert result.query.travelled_m == pytest.approx(8.0)


def test_parked_robot_closes_nothing(model):
    for pose in (Pose.planar(100, 0, 0), None):
        recognizer = _recognizer(model)
        _drive(recognizer, range(8))
        for i in range(10):
            result = recognizer.recognize(_place(3), (20 + i) * SECOND, pose)
            assert result.candidates[0].match.keyframe.id == KeyframeId(1, 4)
            assert result.loop_closure is None


def test_similarity_alone_needs_an_explicit_gate(model):
    recognizer = _recognizer(model, **{'verify.enabled': False, 'gates.temporal_min': 1})
    last = _drive(recognizer, [*range(5), 0])[-1]
    assert last.candidates[0].decision is Decision.REJECT_UNCALIBRATED
    assert (last.loop_closure, last.reranked) == (None, False)
    assert math.isnan(last.candidates[0].match.local_score)
    recognizer.settings = make_settings(
        {**QUICK, 'verify.enabled': False, 'gates.temporal_min': 1, 'gates.min_similarity': 0.9})
    assert recognizer.recognize(_place(1), 50 * SECOND).loop_closure is not None


@pytest.mark.parametrize(('settings', 'reason'), [
    ({}, ''), ({'verify.enabled': False}, 'verify.enabled is off'),
    ({'map.local_codec': 'none'}, 'map.local_codec is none')])
def test_why_candidates_are_not_reranked(model, settings, reason):
    recognizer = _recognizer(model, **settings)
    assert recognizer.why_not_reranked == reason
    assert recognizer.recognize(_place(0), SECOND).reranked == (not reason)


@pytest.mark.parametrize('family', ['cricavpr', 'salad', 'dinov2_gem'])
def test_systems_without_local_features(family):
    recognizer = _recognizer(tiny_checkpoints.make(family), **{'gates.temporal_min': 1})
    assert recognizer.why_not_reranked == f'{family} has no local features'
    last = _drive(recognizer, [*range(5), 0])[-1]
    assert not last.reranked
    assert last.candidates[0].match.keyframe.id == KeyframeId(1, 1)
    assert last.candidates[0].decision is Decision.REJECT_UNCALIBRATED
    similarities = [c.match.similarity for c in last.candidates]
    assert similarities == sorted(similarities, reverse=True)


@pytest.mark.parametrize('family', ['selavpr', 'fol'])
def test_systems_with_local_features_close_loops(family):
    recognizer = _recognizer(tiny_checkpoints.make(family), **{'gates.temporal_min': 1})
    last = _drive(recognizer, [*range(5), 0])[-1]
    assert last.reranked
    assert last.loop_closure.match.keyframe.id == KeyframeId(1, 1)
    assert 0.9 < last.loop_closure.match.local_score <= 1.0


def test_matches_count_only_above_the_similarity_of_the_system():
    model = tiny_checkpoints.make('fol')
    counts = []
    for model.match_similarity in (0.7, 0.999):
        last = _drive(_recognizer(model), [*range(5), 7])[-1]
        counts.append(sum(c.match.local_matches for c in last.candidates))
    assert counts[0] > counts[1]


def test_black_image_is_refused_and_not_kept(model):
    recognizer = _recognizer(model)
    with pytest.raises(DescriptorError, match='length 0 instead of 1: a uniform image'):
        recognizer.recognize(np.zeros((120, 160, 3), np.uint8), SECOND)
    assert len(recognizer.keyframe_map) == 0


def test_bad_image_leaves_everything_as_it_was(model):
    recognizer = _recognizer(model)
    with pytest.raises(ImageError):
        recognizer.recognize(np.zeros((0, 0, 3), np.uint8), SECOND)
    assert _drive(recognizer, [0])[0].keyframe.id == KeyframeId(1, 1)


def test_gates_come_from_the_settings_then_the_model_then_caution(model):
    assert _recognizer(model).thresholds.min_local_score == pytest.approx(1 / 3)
    explicit = _recognizer(model, **{'gates.min_local_matches': 20, 'gates.min_similarity': 0.7})
    assert explicit.thresholds.min_local_score == pytest.approx(20 / model.max_local_features)
    assert explicit.thresholds.min_similarity == 0.7
    unmeasured = load_model('hog', image_size=(120, 160))
    unmeasured.operating_point = None
    assert _recognizer(unmeasured).thresholds.min_local_score == UNCALIBRATED_LOCAL_SCORE
    unmeasured.operating_point = OperatingPoint(0.8, 0.4, 'a test')
    assert _recognizer(unmeasured).thresholds.min_similarity == 0.8


def test_real_corridor_is_recognised(shared):
    folder = shared / 'data' / 'rtabmap_loop'
    with (folder / 'loops.csv').open() as file:
        same_place = {(int(a), int(b)) for a, b in list(csv.reader(file))[1:]}
    recognizer = PlaceRecognizer(load_model('hog'), make_settings(
        {'keyframe.max_similarity': 1.0, 'index.exclude_recent_seconds': 0.0}))
    hits, closures = 0, []
    for number in range(1, 85):
        image = cv2.cvtColor(cv2.imread(str(folder / 'images' / f'{number:03d}.jpg')),
                             cv2.COLOR_BGR2RGB)
        result = recognizer.recognize(image, number * SECOND)
        if result.candidates:
            best = result.candidates[0].match.keyframe.id.keyframe_id
            hits += (number, best) in same_place
        if result.loop_closure:
            closures.append((number, result.loop_closure.match.keyframe.id.keyframe_id))
    queries = len({a for a, _ in same_place})
    true = sum(pair in same_place for pair in closures)
    print(f'recall@1 {hits}/{queries}, closures {true} true of {len(closures)}')
    assert hits / queries >= 0.93
    assert len(closures) >= 25
    assert true == len(closures)


def _scrambled(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The same place as a puzzle: its parts, each in another one's place."""
    parts = [part for row in np.split(image, rows) for part in np.split(row, columns, axis=1)]
    order = np.random.default_rng(5).permutation(len(parts)).reshape(rows, columns)
    return np.vstack([np.hstack([parts[i] for i in row]) for row in order])


def test_a_walk_that_never_comes_back_closes_nothing(shared):
    recognizer = PlaceRecognizer(load_model('embedded'))
    compared = 0
    for number in range(0, 200, 2):
        path = shared / 'data' / 'gardenspoint' / 'day_left' / f'Image{number:03d}.jpg'
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        result = recognizer.recognize(image, (number + 1) * SECOND)
        compared += bool(result.candidates)
        assert result.loop_closure is None
    assert compared > 40


def test_a_puzzle_of_a_place_is_not_the_place():
    large = load_model('hog', image_size=(480, 640))
    views = [cv2.resize(_place(number), (640, 480)) for number in range(6)]
    for geometry, verdict in (('none', Decision.ACCEPTED),
                              ('fundamental', Decision.REJECT_GEOMETRY)):
        recognizer = _recognizer(large, **{
            'gates.min_local_matches': 300, 'gates.min_similarity': -0.9,
            'gates.temporal_min': 1, 'verify.geometry': geometry})
        for number, view in enumerate(views):
            recognizer.recognize(view, (number + 1) * SECOND)
        best = recognizer.recognize(_scrambled(views[2], 6, 8), 60 * SECOND).candidates[0]
        assert best.match.keyframe.id.keyframe_id == 3
        assert best.decision is verdict
        assert (best.match.geometry is None) == (geometry == 'none')


def test_only_the_best_that_may_pass_are_looked_at(model):
    recognizer = _recognizer(model, **{'gates.min_local_matches': 0, 'gates.min_similarity': -0.9})
    candidates = _drive(recognizer, [*range(8), 3])[-1].candidates
    assert [c.match.geometry is not None for c in candidates] == [True] * 3 + [False] * (
        len(candidates) - 3)
    best = candidates[0].match.local_matches
    recognizer.settings = replace_setting(
        recognizer.settings, 'gates.min_local_matches', int(0.9 * best))
    looked = [c for c in recognizer.recognize(_place(3), 90 * SECOND).candidates
              if c.match.geometry]
    assert 1 <= len(looked) <= 2  # this place was seen twice


@pytest.mark.parametrize(('settings', 'reason'), [
    ({'verify.geometry': 'none'}, 'verify.geometry is none'),
    ({'verify.enabled': False}, 'verify.enabled is off'), ({}, '')])
def test_why_matches_do_not_have_to_fit_a_movement(model, settings, reason):
    assert _recognizer(model, **settings).why_not_verified == reason


def test_a_calibration_gives_every_candidate_a_probability(model, tmp_path):
    path = tmp_path / 'site.json'
    scores = [LogisticModel({'local_score': 10.0}, -5.0)]
    Calibration(model.model_id, 'float16', scores, 0.2, 'by hand').save(path)
    recognizer = _recognizer(model, **{'gates.calibration': str(path)})
    assert recognizer.why_uncalibrated == ''
    candidates = _drive(recognizer, [*range(8), 3])[-1].candidates
    for match in (c.match for c in candidates):
        assert match.probability == pytest.approx(
            1 / (1 + math.exp(5.0 - 10.0 * match.local_score)))
    bare = _recognizer(model, **{'gates.calibration': 'none'})
    assert bare.why_uncalibrated == 'gates.calibration is none'
    assert math.isnan(_drive(bare, [*range(8), 3])[-1].candidates[0].match.probability)
