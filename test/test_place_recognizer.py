"""The whole method on small made-up places and on a real loop."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny_checkpoints
import torch

from selavpr_ros.decision import place_filter
from selavpr_ros.decision.closures import ClosureDecision
from selavpr_ros.decision.gates import Decision
from selavpr_ros.decision.unrelated import USUAL_SIMILARITY, Unrelated
from selavpr_ros.errors import DescriptorError, ImageError, StampError
from selavpr_ros.maps.keyframe import Hint, KeyframeId
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.matching.query import Context
from selavpr_ros.models import load_model
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.place_recognizer import STAGES, PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.settings import make_settings, replace_setting

SECOND = 1_000_000_000
QUICK = {'index.exclude_recent_keyframes': 3, 'index.exclude_recent_seconds': 0.0,
         'index.exclude_recent_distance': 0.0, 'keyframe.min_interval': 0.0,
         'keyframe.max_overlap': 1.0}
LAP = 12
TWO_LAPS = [*range(LAP), *range(LAP)]
# With these a robot is sure at once: the shortest drives test what becomes of closures.
SURE_AT_ONCE = {'ENTER': 0.9, 'LEAST_PLACES': 1}


@pytest.fixture(scope='module')
def model():
    return load_model('hog', image_size=(120, 160))


@pytest.fixture
def sure_at_once(monkeypatch):
    """One view is enough for a closure, which it never is otherwise."""
    for name, value in SURE_AT_ONCE.items():
        monkeypatch.setattr(place_filter, name, value)


def _recognizer(model, **values) -> PlaceRecognizer:
    return PlaceRecognizer(model, make_settings({**QUICK, **values}))


def _place(number: int, noise: int = 0) -> np.ndarray:
    """An image of a place of its own: boxes and lines; and other noise each time."""
    random = np.random.default_rng(number)
    image = np.full((120, 160, 3), 128, np.uint8)
    for _ in range(6):
        corners = random.integers(0, (160, 120), (4, 2))
        colours = random.integers(0, 256, (2, 3)).tolist()
        cv2.rectangle(image, corners[0].tolist(), corners[1].tolist(), colours[0], -1)
        cv2.line(image, corners[2].tolist(), corners[3].tolist(), colours[1], 3)
    if noise:
        grain = np.random.default_rng(noise).integers(-3, 4, image.shape)
        image = np.clip(image.astype(int) + grain, 0, 255).astype(np.uint8)
    return image


def _at(place: int) -> Pose:
    """Twelve places on a circle, 20 m from one to the next; all others far away from it."""
    if place >= LAP:
        return Pose.planar(1000.0 + 20.0 * place, 0.0, 0.0)
    radius_m, angle = 20.0 * LAP / (2 * np.pi), 2 * np.pi * place / LAP
    return Pose.planar(radius_m * np.cos(angle), radius_m * np.sin(angle), angle + np.pi / 2)


def _drive(recognizer: PlaceRecognizer, places, poses: bool = True, start_s: int = 1):
    return [
        recognizer.recognize(_place(place), (start_s + i) * SECOND, _at(place) if poses else None)
        for i, place in enumerate(places)]


def _closed(results) -> list[tuple[int, int]]:
    """Seconds after the first image of all closed queries, and the keyframes that they show."""
    start_ns = results[0].query.stamp_ns
    return [((closure.query.stamp_ns - start_ns) // SECOND,
             closure.candidate.match.keyframe.id.keyframe_id)
            for result in results for closure in result.loop_closures]


@pytest.mark.parametrize('poses', [True, False])
def test_two_laps_close_the_loop(model, poses):
    recognizer = _recognizer(model)
    results = _drive(recognizer, TWO_LAPS, poses)
    assert [r.keyframe.id for r in results] == [KeyframeId(1, n) for n in range(1, 25)]
    for i in range(LAP, 2 * LAP):
        best = results[i].candidates[0]
        assert best.match.keyframe.id == KeyframeId(1, i - LAP + 1)
        assert best.match.similarity == pytest.approx(1, abs=1e-5)
        assert best.match.overlap > 0.8  # flat patches are alike
        assert best.likelihood_ratio > 10.0
    closed = _closed(results)
    assert len(closed) >= 8
    for second, keyframe in closed:
        assert second - keyframe + 1 == LAP
    assert [r.loop_closure for r in results[:LAP + 2]] == [None] * (LAP + 2)  # not yet sure
    probabilities = [r.candidates[0].probability for r in results[LAP:LAP + 5]]
    assert probabilities == sorted(probabilities)


def test_a_single_view_closes_nothing(model):
    results = _drive(_recognizer(model), [*range(LAP), 3, *range(20, 30)])
    assert results[LAP].candidates[0].match.keyframe.id == KeyframeId(1, 4)
    assert results[LAP].candidates[0].match.overlap > 0.8
    assert _closed(results) == []


@pytest.mark.parametrize('look_back', [0, 2, 20])
def test_earlier_views_are_closed_once_each_when_the_robot_is_sure(model, look_back):
    recognizer = _recognizer(model, **{'gates.look_back': look_back})
    results = _drive(recognizer, TWO_LAPS)
    sure = next(i for i, result in enumerate(results) if result.loop_closure)
    seconds = [second for second, _ in _closed(results)]
    assert len(seconds) == len(set(seconds))
    earlier = [closure for result in results for closure in result.earlier]
    if not look_back:
        assert earlier == []
        return
    assert results[sure].earlier
    for result in results:
        assert result.loop_closures[:len(result.earlier)] == result.earlier
        stamps_ns = [closure.query.stamp_ns for closure in result.earlier]
        assert stamps_ns == sorted(stamps_ns)
        assert all(0 < result.query.stamp_ns - ns <= look_back * SECOND for ns in stamps_ns)
    kept = {result.query.stamp_ns: result.keyframe.id for result in results}
    for closure in earlier:
        assert closure.keyframe_id == kept[closure.query.stamp_ns]
        assert closure.candidate.decision is Decision.ACCEPTED
        assert closure.candidate.probability >= recognizer.settings.gates.min_probability
        assert closure.candidate.match.geometry.count > 0


def test_every_candidate_has_a_verdict_and_only_one_is_accepted(model):
    results = _drive(_recognizer(model), TWO_LAPS)
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


@pytest.mark.parametrize('verify', [True, False])
def test_keyframes_by_what_views_have_in_common_without_odometry(model, verify):
    """By local features; a system without any goes by similarity."""
    recognizer = _recognizer(model, **{'keyframe.max_overlap': 0.3, 'verify.enabled': verify})
    results = _drive(recognizer, [0, 0, 1, 1, 0], poses=False)
    assert [r.keyframe is not None for r in results] == [True, False, True, False, True]


@pytest.mark.parametrize('unknown', [{0}, {3}, {0, 1, 2}, {5, 9}])
def test_a_query_without_a_pose_never_stands_in_the_way_of_the_next_one_that_has_one(
        model, unknown):
    """In a scene so dim that all images look alike: only poses tell that the robot moves."""
    recognizer = _recognizer(model, **{'keyframe.max_overlap': 0.3,
                                       'index.exclude_recent_keyframes': 20})
    results = [
        recognizer.recognize(
            _place(0), (i + 1) * SECOND, None if i in unknown else Pose.planar(2.0 * i, 0, 0))
        for i in range(12)]
    kept = {i for i, result in enumerate(results) if result.keyframe}
    assert kept == {*range(12)} - unknown | ({0} & unknown)


def test_a_robot_that_stands_without_odometry_at_times_makes_no_keyframes(model):
    recognizer = _recognizer(model, **{'keyframe.max_overlap': 0.3})
    for i in range(12):
        recognizer.recognize(_place(0), (i + 1) * SECOND, Pose.planar(0, 0, 0) if i % 2 else None)
    assert len(recognizer.keyframe_map) == 2  # the first one has no pose


def test_odometry_that_starts_again_begins_a_session_and_loses_no_loop_closure(model):
    """Two laps; on the second one the odometry is 500 m off."""
    recognizer = _recognizer(model)
    poses = [_at(place) for place in TWO_LAPS]
    poses[LAP:] = [Pose(pose.translation_m - [500.0, 0, 0], pose.rotation) for pose in poses[LAP:]]
    results = [recognizer.recognize(_place(place), (i + 1) * SECOND, pose)
               for i, (place, pose) in enumerate(zip(TWO_LAPS, poses, strict=True))]
    assert [r.query.session.session_id for r in results] == [1] * (LAP + 1) + [2] * (LAP - 1)
    assert [r.odometry_jump is not None for r in results[LAP - 1:LAP + 3]] == [
        False, True, True, False]
    assert results[LAP].query.pose is None
    assert len(_closed(results)) >= 8


class Told(VprModel):
    """A network that gives the descriptors it was told, one after the other."""

    family, name = 'told', 'told'
    local: torch.Tensor | None = None

    def __init__(self, descriptors: np.ndarray, local: torch.Tensor | None = None) -> None:
        super().__init__()
        self.image_size = (120, 160)
        self.register_buffer('descriptors', torch.from_numpy(descriptors.astype(np.float32)))
        self.given, self.local = 0, local

    @property
    def max_local_features(self) -> int:
        return 0 if self.local is None else self.local.shape[1]

    def local_positions(self) -> np.ndarray | None:
        return None if self.local is None else load_model(
            'hog', image_size=self.image_size).local_positions()

    def forward(self, images: torch.Tensor) -> Descriptors:
        found = torch.nn.functional.normalize(self.descriptors[[self.given]])
        local = None if self.local is None else self.local[[self.given % len(self.local)]]
        self.given += 1
        return Descriptors(found, local)


def _alike(count: int, similarity: float) -> np.ndarray:
    """Descriptors each two of which have one cosine."""
    return np.hstack([np.full((count, 1), math.sqrt(similarity)),
                      math.sqrt(1.0 - similarity) * np.eye(count)])


def test_keyframes_of_a_network_to_which_all_images_look_alike():
    recognizer = _recognizer(Told(_alike(30, 0.956)), **{'keyframe.max_overlap': 0.3})
    results = _drive(recognizer, range(30), poses=False)
    assert sum(result.keyframe is not None for result in results) >= 25
    recognizer = _recognizer(Told(_alike(30, 0.999)), **{'keyframe.max_overlap': 0.3})
    _drive(recognizer, range(30), poses=False)
    assert len(recognizer.keyframe_map) == 1  # a robot that stands


@pytest.mark.parametrize('poses', [True, False])
@pytest.mark.parametrize('verify', [True, False])
@pytest.mark.parametrize('kind', ['same', 'random'])
def test_descriptors_that_say_nothing_close_nothing(kind, verify, poses):
    """Two laps; what is the same for all images, or chance, tells no place from another."""
    random, count = np.random.default_rng(3), 2 * 60
    features = load_model('hog', image_size=(120, 160)).max_local_features
    some = 1 if kind == 'same' else count
    descriptors = np.repeat(random.normal(size=(some, 64)), count // some, axis=0)
    local = torch.nn.functional.normalize(
        torch.from_numpy(random.normal(size=(some, features, 32)).astype(np.float32)), dim=2)
    recognizer = _recognizer(Told(descriptors, local if verify else None))
    image, closed = _place(0), 0
    for i in range(count):
        angle = 2 * np.pi * i / 60
        pose = Pose.planar(200 * np.cos(angle), 200 * np.sin(angle), angle)
        result = recognizer.recognize(image, (i + 1) * SECOND, pose if poses else None)
        closed += len(result.loop_closures)
    assert closed == 0


@pytest.mark.parametrize('poses', [True, False])
def test_a_robot_that_stands_gathers_no_evidence(model, poses):
    """One keyframe, and a place that was seen before gets no more probable by looking on."""
    recognizer = _recognizer(model, **{'keyframe.max_overlap': 0.3})
    _drive(recognizer, range(LAP), poses)
    results = [recognizer.recognize(_place(4, noise=i + 1), (LAP + 11 + i) * SECOND,
                                    _at(4) if poses else None) for i in range(30)]
    assert len(recognizer.keyframe_map) == LAP + 1
    assert _closed(results) == []
    assert all(r.candidates[0].match.keyframe.id == KeyframeId(1, 5) for r in results)
    probabilities = [result.candidates[0].probability for result in results]
    assert max(probabilities) < 0.5
    assert max(probabilities) == pytest.approx(min(probabilities), abs=0.02)


def test_a_jump_of_odometry_closes_nothing(model):
    """A hundred metres in half a second, and then other places."""
    recognizer = _recognizer(model)
    results = _drive(recognizer, range(LAP))
    for i in range(20):
        pose = Pose.planar(100.0 + _at(0).translation_m[0] + i, 0.0, 0.0)
        results.append(recognizer.recognize(
            _place(40 + i), (LAP + 1) * SECOND + i * SECOND // 2, pose))
    assert _closed(results) == []


def test_a_jump_of_odometry_in_the_second_lap_makes_no_false_closure(model):
    recognizer = _recognizer(model)
    results = []
    for i, place in enumerate(TWO_LAPS):
        x_m, y_m, _ = _at(place).translation_m
        pose = Pose.planar(x_m + (100.0 if i >= 15 else 0.0), y_m, _at(place).yaw_rad)
        results.append(recognizer.recognize(_place(place), (i + 1) * SECOND, pose))
    for second, keyframe in _closed(results):
        assert second - keyframe + 1 == LAP


def test_a_jump_of_odometry_is_no_way_travelled(model):
    """How far odometry may have drifted follows from what the robot drove."""
    recognizer = _recognizer(model)
    way_m = [recognizer.recognize(_place(i), (i + 1) * SECOND, Pose.planar(x_m, 0.0, 0.0))
             .query.travelled_m for i, x_m in enumerate((0.0, 2.0, 502.0, 504.0, 4.0, 7.0))]
    # Two poses after each jump say that the odometry started again: a session, and a new way.
    assert way_m == pytest.approx([0.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    assert recognizer.session.session_id == 3


@pytest.mark.parametrize('jump_s', [-1000, 1000])
def test_stamps_that_jump_close_nothing(model, jump_s):
    recognizer = _recognizer(model)
    results = _drive(recognizer, range(LAP), start_s=2000)
    for i in range(20):
        stamp_ns = (2000 + LAP + jump_s + i) * SECOND
        try:
            results.append(recognizer.recognize(_place(40 + i), stamp_ns, _at(40 + i)))
        except StampError:
            assert (i, jump_s) == (0, -1000)
    assert recognizer.session.session_id == (2 if jump_s < 0 else 1)
    assert _closed(results) == []


def test_what_was_learned_of_unrelated_images_stays_with_the_map(model):
    recognizer = _recognizer(model)
    first = recognizer.unrelated
    assert first.queries == 0
    _drive(recognizer, range(50))
    learned = recognizer.unrelated
    assert recognizer.keyframe_map.unrelated == learned.to_json()
    assert learned.queries > 10
    assert learned.level != first.level
    again = PlaceRecognizer(model, recognizer.settings, recognizer.keyframe_map)
    assert again.unrelated == learned
    recognizer.adopt(KeyframeMap())
    assert recognizer.unrelated == first


@pytest.mark.parametrize('text', ['no json', '{}', Unrelated().to_json()[:-9],
                                  Unrelated().to_json().replace('0.05', 'NaN')])
def test_what_a_damaged_map_tells_of_them_is_learned_again(model, text):
    keyframe_map = KeyframeMap()
    keyframe_map.unrelated = text
    recognizer = PlaceRecognizer(model, _recognizer(model).settings, keyframe_map)
    assert recognizer.unrelated == _recognizer(model).unrelated


def test_the_level_before_anything_is_learned_is_that_of_the_score(model):
    levels = [_recognizer(each, **settings).unrelated.level for each, settings in (
        (model, {}), (tiny_checkpoints.make('fol'), {}), (model, {'verify.enabled': False}))]
    assert levels == sorted(levels)
    assert len(set(levels)) == 3


def test_another_map_is_adopted_by_the_settings_of_now(model):
    recognizer = _recognizer(model)
    recognizer.settings = replace_setting(recognizer.settings, 'verify.enabled', False)
    recognizer.adopt(KeyframeMap())
    assert recognizer.unrelated.level == USUAL_SIMILARITY


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
    results = _drive(recognizer, TWO_LAPS)
    kept = recognizer.keyframe_map.local_features(results[0].keyframe.id)
    assert kept.codec == codec
    assert results[-1].loop_closure.match.keyframe.id.keyframe_id == LAP
    assert results[-1].loop_closure.match.local_score > 0.8  # flat patches are alike


def test_without_local_features_similarity_decides():
    """Places that have little in common, and each one seen again looks nearly the same."""
    random, count = np.random.default_rng(1), 50
    places = random.normal(size=(count, 256))
    told = np.vstack([places, places + 0.3 * random.normal(size=places.shape)])
    recognizer, results = _recognizer(Told(told)), []
    for i in range(2 * count):
        angle = 2 * np.pi * i / count
        results.append(recognizer.recognize(_place(0), (i + 1) * SECOND, Pose.planar(
            160 * np.cos(angle), 160 * np.sin(angle), angle)))
    best = results[-1].candidates[0].match
    assert not results[-1].keyframe.has_local
    assert (best.local_matches, best.keyframe.id.keyframe_id) == (0, count)
    assert math.isnan(best.local_score)
    assert not results[-1].reranked
    closed = _closed(results)
    assert len(closed) >= 20
    for second, keyframe in closed:
        assert second - keyframe + 1 == count


def test_what_is_in_the_map_already_is_not_stored_again(model):
    results = _drive(_recognizer(model, **{'keyframe.max_overlap': 0.3}), TWO_LAPS)
    sure = next(i for i, result in enumerate(results) if result.loop_closure)
    assert LAP < sure < 2 * LAP - 4
    assert all(result.keyframe for result in results[:sure])
    for result in results[sure:]:
        assert (result.keyframe is None) == (result.loop_closure is not None)
    assert all(r.keyframe for r in _drive(_recognizer(model), TWO_LAPS))


def test_what_is_not_stored_again_makes_no_older_keyframe_recent(model):
    recognizer = _recognizer(model, **{'keyframe.max_overlap': 0.3})
    _drive(recognizer, TWO_LAPS)
    stored = len(recognizer.keyframe_map)
    assert LAP < stored < 2 * LAP
    results = _drive(recognizer, range(4), start_s=30)
    assert all(result.loop_closure for result in results)
    assert [result.searched for result in results] == [stored] * 4
    # Standing still is no view, and known all the same.
    again = [recognizer.recognize(_place(3, noise=i + 1), (50 + i) * SECOND, _at(3))
             for i in range(5)]
    assert _closed(again) == []
    assert all(r.candidates[0].decision is Decision.REJECT_STATIONARY for r in again)
    assert len(recognizer.keyframe_map) == stored
    recognizer.recognize(_place(50), 160 * SECOND, _at(50))
    after = recognizer.recognize(_place(51), 161 * SECOND, _at(51))
    assert (len(recognizer.keyframe_map), after.searched) == (stored + 2, stored)


def test_a_robot_that_stands_does_not_meet_itself(model):
    """Every query is a view, but none is as far from the last keyframe as keyframes are."""
    recognizer = PlaceRecognizer(model, make_settings(
        {'gates.min_motion': 0.0, 'index.exclude_recent_seconds': 5.0}))
    for i in range(40):
        result = recognizer.recognize(_place(1), (i + 1) * SECOND, Pose.planar(0.0, 0.0, 0.0))
        assert result.searched == 0
    assert len(recognizer.keyframe_map) == 1


def _creep(recognizer, places, start_s: int):
    """A metre before each place, a tenth at a time."""
    results = []
    for place in places:
        x_m, y_m, _ = _at(place).translation_m
        for tenth in range(10):
            pose = Pose.planar(x_m + tenth / 10 - 1.0, y_m, _at(place).yaw_rad)
            results.append(recognizer.recognize(
                _place(place), (start_s + len(results)) * SECOND, pose))
    return results


def test_a_slow_robot_stores_no_copies(model):
    """A lower gate, as its leaps from place to place make it less sure than a drive does."""
    recognizer = _recognizer(model, **{
        'keyframe.max_overlap': 0.3, 'keyframe.min_translation': 0.3,
        'gates.min_probability': 0.9})
    _drive(recognizer, [*range(LAP), *range(8)])
    stored = len(recognizer.keyframe_map)
    results = _creep(recognizer, range(8, LAP), 30)
    assert len(recognizer.keyframe_map) == stored
    decisions = [result.candidates[0].decision for result in results]
    # Every half metre is a view.
    assert decisions.count(Decision.ACCEPTED) == 2 * 4
    assert decisions.count(Decision.REJECT_STATIONARY) == 8 * 4


def test_what_hardly_moved_is_linked_to_the_place_that_it_shows(model, monkeypatch):
    linked = {}
    monkeypatch.setattr(ClosureDecision, 'remember',
                        lambda self, keyframe, place: linked.setdefault(keyframe, place))
    recognizer = _recognizer(model, **{'keyframe.min_translation': 0.3})  # copies are stored
    _drive(recognizer, [*range(LAP), *range(8)])
    stationary = [
        result for result in _creep(recognizer, range(8, LAP), 30)
        if result.keyframe and result.candidates[0].decision is Decision.REJECT_STATIONARY]
    assert len(stationary) >= 4
    for result in stationary:
        assert linked[result.keyframe.id] == result.candidates[0].match.keyframe.id


def test_the_end_of_the_lap_before_a_time_jump_closes_too(model):
    recognizer = _recognizer(model, **{'keyframe.max_overlap': 0.3})
    _drive(recognizer, range(LAP))
    with pytest.raises(StampError):
        recognizer.recognize(_place(0), 2)
    results = [recognizer.recognize(_place(n), 3 + n * SECOND, _at(n)) for n in range(LAP)]
    assert recognizer.session.session_id == 2
    assert results[0].searched == LAP - 3
    assert results[-1].loop_closure is not None
    assert results[-1].loop_closure.match.keyframe.id == KeyframeId(1, LAP)


def test_localization_keeps_nothing(model):
    recognizer = _recognizer(model)
    _drive(recognizer, range(LAP))
    recognizer.settings = replace_setting(recognizer.settings, 'map.mode', 'localization')
    recognizer.start_session()
    results = _drive(recognizer, range(LAP))
    assert len(recognizer.keyframe_map) == LAP
    assert results[-1].keyframe is None
    assert results[-1].loop_closure.match.keyframe.id == KeyframeId(1, LAP)
    assert all(closure.keyframe_id is None for r in results for closure in r.loop_closures)
    found = results[-1].relocalization
    assert (found.hypotheses, found.best) == (1, results[-1].loop_closure)
    assert found.frames_used >= 2
    assert found.pose.distance_to(_at(LAP - 1)) < 1.0
    for result in results:
        assert (result.relocalization is None) == (result.loop_closure is None)


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
    near = Context(hint=Hint(np.array([30.0, 0.0, 0.0]), 11.0))
    result = recognizer.recognize(_place(7), 9 * SECOND, context=near)
    assert sorted(c.match.keyframe.id.keyframe_id for c in result.candidates) == [3, 4, 5]


def test_candidates_are_published_before_the_keyframe_is_written(model, monkeypatch):
    recognizer, steps = _recognizer(model), []
    add = recognizer.keyframe_map.add
    monkeypatch.setattr(
        recognizer.keyframe_map, 'add', lambda new: (steps.append('written'), add(new)))
    published = []

    def publish(found):
        steps.append('published')
        published.append(found)

    result = recognizer.recognize(_place(1), SECOND, publish=publish)
    assert steps == ['published', 'written']
    assert published[0].keyframe is result.keyframe
    assert published[0].stage_ms == result.stage_ms[:-1]


def test_a_keyframe_is_kept_although_publishing_it_fails(model):
    recognizer = _recognizer(model)

    def fail(_):
        raise RuntimeError('no publisher')

    with pytest.raises(RuntimeError, match='no publisher'):
        recognizer.recognize(_place(1), SECOND, publish=fail)
    assert [str(keyframe.id) for keyframe in recognizer.keyframe_map] == ['1:1']
    assert recognizer.recognize(_place(2), 2 * SECOND).keyframe.id == KeyframeId(1, 2)


def test_settings_change_between_two_images_and_never_inside_one(model, monkeypatch):
    recognizer = _recognizer(model)
    _drive(recognizer, range(8))
    changed = make_settings({**QUICK, 'index.top_k': 1, 'map.mode': 'localization'})
    describe = model.forward

    def change_meanwhile(tensor):
        recognizer.settings = changed
        return describe(tensor)

    monkeypatch.setattr(model, 'forward', change_meanwhile)
    now = recognizer.recognize(_place(20), 9 * SECOND)
    assert (len(now.candidates) > 1, now.keyframe is not None) == (True, True)
    assert recognizer.in_force.map.mode == 'mapping'
    then = recognizer.recognize(_place(21), 10 * SECOND)
    assert (len(then.candidates), then.keyframe) == (1, None)


def test_a_full_map_forgets_nothing_for_what_it_does_not_learn(model):
    recognizer = _recognizer(model, **{
        'map.max_keyframes': 5, 'map.eviction': 'oldest_session'})
    _drive(recognizer, range(5))
    recognizer.start_session()
    recognizer.settings = replace_setting(recognizer.settings, 'map.mode', 'localization')
    assert not any(result.keyframe for result in _drive(recognizer, range(10, 13)))
    assert len(recognizer.keyframe_map) == 5


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
    recognizer = _recognizer(model)
    assert _closed(_drive(recognizer, TWO_LAPS))
    recognizer.adopt(KeyframeMap())
    first, second = _drive(recognizer, [20, 21])
    assert (first.candidates, first.keyframe.id) == ([], KeyframeId(1, 1))
    # Two laps that were never closed: nothing has shown that they are one row of places.
    accepting = recognizer.settings
    recognizer.settings = replace_setting(accepting, 'gates.min_probability', 1.0)
    assert _closed(_drive(recognizer, TWO_LAPS, poses=False, start_s=10)) == []
    recognizer.settings = accepting
    recognizer.restart_relocalization()
    result, = _drive(recognizer, [3], poses=False, start_s=60)
    assert {c.match.keyframe.id.keyframe_id for c in result.candidates[:2]} == {6, 18}
    assert result.loop_closure is None


def test_verification_can_be_switched_while_running(model):
    recognizer = _recognizer(model, **{'verify.enabled': False})
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
    assert recognizer.session.session_id == 1


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
    _drive(recognizer, [20, 21, 22, 23, 24, 25, 26, 27])
    with pytest.raises(StampError):
        recognizer.recognize(_place(0), SECOND)
    result = recognizer.recognize(_place(0), 2 * SECOND)
    assert recognizer.session.session_id == 2
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


@pytest.mark.parametrize(('settings', 'reason'), [
    ({}, ''), ({'verify.enabled': False}, 'verify.enabled is off'),
    ({'map.local_codec': 'none'}, 'map.local_codec is none')])
def test_why_candidates_are_not_reranked(model, settings, reason):
    recognizer = _recognizer(model, **settings)
    assert recognizer.why_not_reranked == reason
    assert recognizer.recognize(_place(0), SECOND).reranked == (not reason)


@pytest.mark.parametrize('family', ['cricavpr', 'salad', 'dinov2_gem'])
def test_systems_without_local_features(family):
    recognizer = _recognizer(tiny_checkpoints.make(family))
    assert recognizer.why_not_reranked == f'{family} has no local features'
    last = _drive(recognizer, [*range(5), 0])[-1]
    assert not last.reranked
    best = last.candidates[0].match
    assert best.keyframe.id == KeyframeId(1, 1)
    assert best.score == pytest.approx(1.0 + best.similarity)
    similarities = [c.match.similarity for c in last.candidates]
    assert similarities == sorted(similarities, reverse=True)


@pytest.mark.parametrize('family', ['selavpr', 'fol'])
def test_systems_with_local_features_close_loops(family):
    places = [*range(LAP), *range(20, 50), *range(LAP)]
    results = _drive(_recognizer(tiny_checkpoints.make(family)), places)
    closed = _closed(results)
    assert len(closed) >= LAP // 2
    assert all(places[second] == keyframe - 1 for second, keyframe in closed)
    assert results[-1].reranked
    best = next(r.loop_closure.match for r in reversed(results) if r.loop_closure)
    assert 0.9 < best.local_score <= 1.0
    assert math.isnan(best.overlap) == (family == 'fol')


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


def test_real_corridor_is_recognised(shared):
    folder = shared / 'data' / 'rtabmap_loop'
    with (folder / 'loops.csv').open() as file:
        same_place = {(int(a), int(b)) for a, b in list(csv.reader(file))[1:]}
    recognizer = PlaceRecognizer(load_model('hog'), make_settings(
        {'keyframe.max_overlap': 1.0, 'index.exclude_recent_seconds': 0.0}))
    hits, closures = 0, []
    for number in range(1, 85):
        image = cv2.cvtColor(cv2.imread(str(folder / 'images' / f'{number:03d}.jpg')),
                             cv2.COLOR_BGR2RGB)
        result = recognizer.recognize(image, number * SECOND)
        if result.candidates:
            best = result.candidates[0].match.keyframe.id.keyframe_id
            hits += (number, best) in same_place
        closures += [(closure.query.stamp_ns // SECOND,
                      closure.candidate.match.keyframe.id.keyframe_id)
                     for closure in result.loop_closures]
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
        assert result.loop_closures == []
    assert compared > 40


@pytest.mark.usefixtures('sure_at_once')
def test_a_puzzle_of_a_place_is_not_the_place():
    large = load_model('hog', image_size=(480, 640))
    views = [cv2.resize(_place(number), (640, 480)) for number in range(6)]
    for geometry, verdict in (('none', Decision.ACCEPTED),
                              ('fundamental', Decision.REJECT_GEOMETRY)):
        recognizer = _recognizer(large, **{
            'gates.min_probability': 0.5, 'verify.geometry': geometry})
        recognizer._decision._weighing.unrelated = replace(recognizer.unrelated, queries=100.0)
        for number, view in enumerate(views):
            recognizer.recognize(view, (number + 1) * SECOND)
        best = recognizer.recognize(_scrambled(views[2], 6, 8), 60 * SECOND).candidates[0]
        assert best.match.keyframe.id.keyframe_id == 3
        assert best.decision is verdict
        assert (best.match.geometry is None) == (geometry == 'none')


def test_only_the_best_of_a_sure_place_is_looked_at(model):
    for result in _drive(_recognizer(model), TWO_LAPS):
        looked = [c for c in result.candidates if c.match.geometry]
        assert looked == ([result.loop_closure] if result.loop_closure else [])


@pytest.mark.parametrize(('settings', 'reason'), [
    ({'verify.geometry': 'none'}, 'verify.geometry is none'),
    ({'verify.enabled': False}, 'verify.enabled is off'), ({}, '')])
def test_why_matches_do_not_have_to_fit_a_movement(model, settings, reason):
    assert _recognizer(model, **settings).why_not_verified == reason
