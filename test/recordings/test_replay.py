from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from bags import IMAGE_TOPIC, image_message, write_image_bag

from selavpr_ros.evaluation.closure_metrics import summarise
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import Run
from selavpr_ros.recordings.replay import replay


def _messages(images):
    return [(ns, image_message(ns, image)) for ns, image in images]


def _replay(messages, recognizer, poses=()) -> Run:
    run = Run()
    yielded = [query.stamp_ns for query in replay(messages, recognizer, run, PoseTrack(poses))]
    assert yielded == [query.stamp_ns for query in run.queries]
    return run


def test_it_finds_what_the_recognizer_finds(images, true_poses, make_recognizer):
    """Image by image the same as calling `recognize` by hand."""
    run = _replay(_messages(images), make_recognizer(), true_poses)
    recognizer, track = make_recognizer(), PoseTrack(true_poses)
    recognitions = [recognizer.recognize(image, ns, track.at(ns)) for ns, image in images]
    final = {earlier.query.stamp_ns: earlier.candidates
             for recognition in recognitions for earlier in recognition.earlier}
    assert len(final) >= 3
    for recognition, query in zip(recognitions, run.queries, strict=True):
        assert query.stamp_ns == recognition.query.stamp_ns
        assert query.keyframe_id == recognition.keyframe.id
        assert query.pose == recognition.query.pose
        np.testing.assert_array_equal(
            query.global_descriptor, recognition.query.global_descriptor)
        assert [(c.match_id, c.similarity, c.local_matches, c.overlap, c.decision, c.probability)
                for c in query.candidates] == [
            (c.match.keyframe.id, c.match.similarity, c.match.local_matches, c.match.overlap,
             c.decision, c.probability)
            for c in final.get(query.stamp_ns, recognition.candidates)]


def test_the_second_lap_closes_loops(images, true_poses, make_recognizer):
    run = _replay(_messages(images), make_recognizer(), true_poses)
    closures = [query for query in run.queries if query.closure]
    assert len(closures) >= 9
    for query in closures:
        assert query.stamp_ns - query.closure.match_stamp_ns == 12_000_000_000
    assert run.model_id.startswith('hog/')
    assert (run.images, len(run.keyframes)) == (24, 24)
    assert run.map_nbytes > 0
    assert summarise(run).latency_ms['total'].p50 > 0


def test_searched_is_what_the_search_could_return(images, true_poses, make_recognizer):
    """With a top_k above the size of the map every searched keyframe is a candidate."""
    for poses in ((), true_poses):
        run = _replay(_messages(images), make_recognizer(), poses)
        searched = [query.searched for query in run.queries]
        assert searched == [len(query.candidates) for query in run.queries]
        assert searched[0] == 0
        assert searched[-1] == 20


def test_the_rate_decides_which_images_are_queries(images, make_recognizer):
    run = _replay(_messages(images), make_recognizer(query__max_rate=0.5))
    assert run.images == 24
    assert [q.stamp_ns for q in run.queries] == [stamp_ns for stamp_ns, _ in images[::2]]


def test_without_odometry_and_outside_it_there_is_no_pose(images, true_poses, make_recognizer):
    run = _replay(_messages(images), make_recognizer())
    assert all(query.pose is None for query in run.queries)
    run = _replay(_messages(images), make_recognizer(), true_poses[20:])
    assert [query.pose is None for query in run.queries] == [i < 5 for i in range(24)]
    assert run.keyframes[0].pose is None
    assert run.keyframes[-1].pose == true_poses[-1][1]


def test_bad_images_are_counted_and_do_not_end_the_run(images, make_recognizer):
    messages = _messages(images[:6])
    messages[1][1].encoding = 'strange'
    messages[2][1].data = messages[2][1].data[:-1]
    messages[3] = (messages[3][0], SimpleNamespace(format='jpeg', data=b'\xff\xd8\xff'))
    late = copy.copy(messages[0])
    run = _replay([*messages[:5], (messages[4][0] - 1000, late[1]), messages[5]],
                  make_recognizer())
    assert run.images == 7
    assert run.skipped == {'bad image': 3, 'stamp out of order': 1}
    assert [q.stamp_ns for q in run.queries] == [messages[i][0] for i in (0, 4, 5)]


def test_a_recording_that_starts_again_is_a_new_session(images, make_recognizer):
    run = _replay(_messages(images[:4] + images[:4]), make_recognizer())
    # The first one back could be a single wrong stamp; the second one proves the jump.
    assert [str(keyframe.id) for keyframe in run.keyframes] == [
        '1:1', '1:2', '1:3', '1:4', '2:1', '2:2', '2:3']
    # What was the newest before the jump stays too recent until it is no longer the newest.
    assert [query.searched for query in run.queries] == [0, 0, 0, 0, 1, 2, 3]


def test_images_are_turned_as_the_settings_say(images, make_recognizer):
    turned = [(ns, np.ascontiguousarray(np.rot90(image, 2))) for ns, image in images]
    plain = _replay(_messages(images), make_recognizer())
    back = _replay(_messages(turned), make_recognizer(image__rotate_deg=180))
    for one, other in zip(plain.queries, back.queries, strict=True):
        np.testing.assert_array_equal(one.global_descriptor, other.global_descriptor)


def test_no_images(make_recognizer):
    assert _replay([], make_recognizer()).queries == []


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
@pytest.mark.parametrize('compressed', [False, True])
def test_every_kind_of_bag_gives_the_same(
    tmp_path, images, true_poses, make_recognizer, storage, compressed
):
    path = write_image_bag(tmp_path / 'a', images, compressed=compressed, storage=storage,
                           odometry=true_poses)
    with Bag(path) as bag:
        (topic,) = bag.image_topics()
        run = _replay(bag.images(topic.name), make_recognizer(), bag.poses('/odom'))
    direct = _replay(_messages(images), make_recognizer(), true_poses)
    # As text, in which NaN is equal to NaN.
    told, expected = ([repr(q.candidates) for q in each.queries] for each in (run, direct))
    assert told == expected
    assert IMAGE_TOPIC in topic.name
