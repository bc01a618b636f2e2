"""The node's topics, parameters and manners, over real DDS."""

from __future__ import annotations

import itertools
import math
import threading

import cv2
import numpy as np
import pytest
import tiny_checkpoints
from live import (
    EAGER,
    SECOND,
    compressed_message,
    place,
    raw_message,
    send_places,
    stamp_of,
    wait_until,
)
from visualization_msgs.msg import Marker

from selavpr_msgs.msg import PlaceMatch, PlaceMatchArray, VprStatus
from selavpr_ros.decision.unrelated import USUAL_OVERLAP


def test_every_query_is_answered_and_a_revisit_is_a_loop_closure(listener, eager):
    node = eager(robot_id=7)
    send_places(listener, [1, 2, 3, 2])
    first, _, third, last = listener.candidates
    assert len(first.matches) == 0
    assert first.outcome == PlaceMatchArray.NONE
    assert [m.decision for m in third.matches] == [PlaceMatch.REJECT_NEW_PLACE] * 2

    assert (stamp_of(last), last.header.frame_id) == (4 * SECOND, 'camera')
    assert (last.query.robot_id, last.query.session_id, last.query.keyframe_id) == (7, 1, 4)
    assert last.outcome == PlaceMatchArray.LOOP
    assert last.model_id == node.recognizer.model.model_id
    assert all(ms >= 0.0 for ms in last.stage_ms)
    assert sum(last.stage_ms) > 0.0
    best = last.matches[0]
    assert (best.match.keyframe_id, best.match.stamp.sec) == (2, 2)
    assert best.decision == PlaceMatch.ACCEPTED
    assert best.similarity == pytest.approx(1.0, abs=1e-3)
    assert best.local_matches > 900
    assert best.local_score > 0.9
    assert best.overlap > 0.9
    assert best.likelihood_ratio > 10.0
    assert 0.5 < best.probability <= 1.0
    assert math.isnan(best.odometry_ratio)  # no odometry
    assert best.inliers == best.local_matches  # it is the same image
    assert best.reprojection_rmse < 0.01
    assert not best.has_relative_pose  # no camera_info
    assert not best.has_map_pose
    assert best.similarity >= last.matches[1].similarity

    edge = wait_until(lambda: listener.received['closures'], 'a loop closure')[0]
    assert (edge.keyframe_from.keyframe_id, edge.keyframe_to.keyframe_id) == (2, 4)
    assert (edge.inter_session, edge.inter_robot, edge.has_transform) == (False, False, False)
    assert edge.probability == best.probability
    assert [k.id.keyframe_id for k in listener.received['keyframes']] == [1, 2, 3, 4]
    assert not listener.received['keyframes'][0].has_pose

    wait_until(lambda: listener.counted('keyframes_with_local') == 4, 'the status to follow')
    assert listener.counted('frames_received') == listener.counted('frames_processed') == 4
    assert listener.status.keyframes == 4
    assert listener.status.map_bytes_ram > 4 * 999 * 128 * 2
    assert listener.status.latency_p95_ms >= listener.status.latency_p50_ms > 0.0
    assert listener.status.seconds_since_accept >= 0.0
    matching = listener.wait_for_diagnostic('Matching', 'ACCEPTED: 1')
    assert matching.message == '4 queries, 1 loop closures'
    listener.wait_for_diagnostic('Matching', 'REJECT_NEW_PLACE: the robot was probably')


def test_later_views_make_earlier_queries_sure(listener, start_node):
    start_node(**EAGER)
    lap = list(range(1, 9))
    send_places(listener, [*lap, *lap])
    answers = {stamp_of(answer): answer for answer in listener.candidates}
    at_once = {stamp for stamp, answer in answers.items() if any(
        match.decision == PlaceMatch.ACCEPTED for match in answer.matches)}
    closures = wait_until(lambda: {
        stamp_of(edge) for edge in listener.received['closures']} > at_once and list(
            listener.received['closures']), f'more loop closures than {at_once}')
    stamps = [stamp_of(edge) for edge in closures]
    assert len(set(stamps)) == len(stamps)  # once each
    assert set(stamps) <= {second * SECOND for second in range(9, 17)}
    for edge in closures:
        query = answers[stamp_of(edge)].query
        assert edge.header.frame_id == 'camera'
        assert edge.keyframe_to == query
        assert query.keyframe_id == stamp_of(edge) // SECOND
        assert edge.keyframe_from.keyframe_id == query.keyframe_id - len(lap)
        assert edge.keyframe_from.stamp.sec == edge.header.stamp.sec - len(lap)
        assert 0.5 <= edge.probability <= 1.0


def test_the_status_tells_what_unrelated_images_score(listener, eager):
    node = eager()
    before = listener.wait_for_state(VprStatus.ACTIVE)
    assert before.unrelated_queries == 0.0
    assert before.unrelated_score == pytest.approx(USUAL_OVERLAP)
    send_places(listener, range(1, 25))  # elsewhere is more than ten keyframes away
    wait_until(lambda: listener.counted('frames_processed') == 24, 'the status to follow')
    known, status = node.recognizer.unrelated, listener.status
    assert status.unrelated_queries == known.queries > 0.0
    assert status.unrelated_score == pytest.approx(known.level)
    assert status.unrelated_score != before.unrelated_score
    assert status.unrelated_deviation == pytest.approx(math.sqrt(known.within.mean))
    listener.wait_for_diagnostic(
        'Matching', f'queries that unrelated images were learned from: {round(known.queries)}')


def test_odometry_gives_keyframes_their_poses_and_the_map_its_picture(listener, eager):
    eager(pose_source='odom', pose_timeout=5.0, gates__min_motion=0.0)

    def received():
        return [v for v in listener.values('Input') if v.startswith('odometry received')]

    listener.insist(
        lambda: listener.send_odometry(0, 0.0),
        lambda: received() and received() != ['odometry received: 0'],
        'odometry to get through')
    for step in range(21):  # 2 m/s
        listener.send_odometry(SECOND + step * SECOND // 5, 0.4 * step)
    for count, number in enumerate([1, 2, 3, 1]):
        stamp_ns = SECOND + count * SECOND + SECOND // 20  # between two odometry messages
        listener.send('/image', raw_message(place(number), stamp_ns))
        listener.wait_for_candidates(count + 1)
    keyframe = wait_until(lambda: listener.received['keyframes'][1:], 'keyframes')[0]
    assert keyframe.has_pose
    assert keyframe.pose_frame == 'odom'
    assert keyframe.pose.pose.position.x == pytest.approx(2.1)
    assert np.diag(np.reshape(keyframe.pose.covariance, (6, 6))) == pytest.approx([0.01] * 6)
    best = listener.candidates[-1].matches[0]
    assert best.has_map_pose
    assert 0.0 <= best.odometry_ratio < 1.0
    assert best.map_pose.header.frame_id == 'odom'
    assert best.map_pose.pose.position.x == pytest.approx(0.1)

    def picture():
        newest = listener.received['markers'][-1].markers if listener.received['markers'] else []
        return {m.ns: m for m in newest if m.action == Marker.ADD}

    wait_until(lambda: 'loop_closures' in picture(), 'a closure among the markers')
    ways = {name: [p.x for p in marker.points] for name, marker in picture().items()}
    assert ways['keyframes'] == pytest.approx([0.1, 2.1, 4.1, 6.1])
    assert ways['loop_closures'] == pytest.approx([6.1, 0.1])
    assert ways['rejected'][:2] == pytest.approx([2.1, 0.1])
    assert len(ways['rejected']) == 4
    assert picture()['loop_closures'].color.g > 0.5
    assert picture()['rejected'].color.r > 0.5
    assert {m.header.frame_id for m in picture().values()} == {'odom'}


def test_images_without_odometry_are_answered_too(listener, eager):
    eager(pose_source='odom', pose_timeout=0.05)
    send_places(listener, [1, 2, 3, 4, 5])
    listener.wait_for_diagnostic('Input', 'images without pose: 5')
    listener.wait_for_diagnostic('Input', '/odom has no publisher')
    listener.wait_for_diagnostic('Input', 'images without a pose: last: no odometry has come')


def padded(message):
    """The same image with 10 bytes of padding behind every row."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    message.data = type(message.data)('B', np.pad(rows, ((0, 0), (0, 10))).tobytes())
    message.step += 10
    return message


def yuyv(image):
    """(H,W,2) uint8 with a mean chroma for every two pixels."""
    y, u, v = (cv2.cvtColor(image, cv2.COLOR_RGB2YUV)[..., i] for i in range(3))
    luma = 16 + y.astype(float) * 219 / 255  # limited range
    return np.stack([luma, np.where(np.arange(y.shape[1]) % 2, v, u)], -1).astype(np.uint8)


def as_sent(image, stamp_ns):
    """The image in the encodings that cameras send."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    alpha = np.full_like(grey, 255)
    bayer = np.where(np.add.outer(np.arange(240), np.arange(320)) % 2, image[..., 1], np.where(
        np.arange(240)[:, None] % 2, image[..., 2], image[..., 0]))
    sixteen = grey.astype(np.uint16) * 257
    return {
        'rgb8': raw_message(image, stamp_ns),
        'padded': padded(raw_message(image, stamp_ns)),
        'bgr8': raw_message(image[..., ::-1], stamp_ns, 'bgr8'),
        'bgra8': raw_message(np.dstack([image[..., ::-1], alpha]), stamp_ns, 'bgra8'),
        'mono8': raw_message(grey, stamp_ns, 'mono8'),
        '8UC1': raw_message(grey, stamp_ns, '8UC1'),
        'mono16': raw_message(sixteen.astype('<u2'), stamp_ns, 'mono16'),
        'mono16, big end first': raw_message(sixteen.astype('>u2'), stamp_ns, 'mono16'),
        'bayer_rggb8': raw_message(bayer.astype(np.uint8), stamp_ns, 'bayer_rggb8'),
        'yuv422_yuy2': raw_message(yuyv(image), stamp_ns, 'yuv422_yuy2'),
    }


def test_every_raw_encoding_shows_the_same_place(listener, eager):
    eager(keyframe__max_overlap=0.0)  # the first image stays the only keyframe
    image = place(1)
    names = list(as_sent(image, 0))
    listener.send('/image', raw_message(image, SECOND))
    listener.wait_for_candidates(1)
    for count, name in enumerate(names, start=2):
        listener.send('/image', as_sent(image, count * SECOND)[name])
        best = listener.wait_for_candidates(count).matches[0]
        assert best.match.keyframe_id == 1, name
        assert best.similarity > 0.97, name


def test_compressed_images_come_on_their_own_topic(listener, eager):
    eager(image_transport='compressed')
    picture = cv2.cvtColor(place(1), cv2.COLOR_RGB2BGR)
    for count, kind in enumerate(['png', 'jpg'], start=1):
        data = cv2.imencode(f'.{kind}', picture)[1].tobytes()
        message = compressed_message(data, count * SECOND, kind)
        listener.send('/image/compressed', message)
        listener.wait_for_candidates(count)
    assert listener.candidates[-1].matches[0].similarity > 0.97
    listener.wait_for_diagnostic('Input', '/image/compressed (sensor_msgs/msg/CompressedImage, 1')


def test_rotation_and_mask_are_applied(listener, eager, tmp_path):
    mask = np.full((320, 240), 255, np.uint8)
    mask[:100] = 0
    cv2.imwrite(str(tmp_path / 'mask.png'), mask)
    node = eager(image__rotate_deg=90, image__mask=str(tmp_path / 'mask.png'))
    seen = []
    recognize = node.recognizer.recognize

    def watch(image, *rest, **options):
        seen.append(image)
        return recognize(image, *rest, **options)

    node.recognizer.recognize = watch
    send_places(listener, [1])
    expected = np.rot90(place(1), -1).copy()
    expected[:100] = 0
    assert np.array_equal(seen[0], expected)


def test_a_result_has_the_covariance_of_the_odometry_that_it_was_made_with(listener, eager):
    """Odometry goes on while the worker publishes."""
    node = eager(pose_source='odom', pose_timeout=5.0)
    recognize, inbox = node.recognizer.recognize, node._configured.odometry
    listener.insist(lambda: listener.send_odometry(SECOND - SECOND // 10, 0.0),
                    lambda: inbox.received, 'odometry to get through')
    listener.insist(lambda: listener.send_odometry(SECOND + SECOND // 10, 0.1),
                    lambda: inbox.wait_for(SECOND, 0.0), 'odometry past the image')

    def change_at_once(*arguments, publish):
        def change(found):
            inbox.covariance = np.diag([9.0] * 6).ravel()
            publish(found)

        return recognize(*arguments, publish=change)

    node.recognizer.recognize = change_at_once
    send_places(listener, [1])
    keyframe = wait_until(lambda: listener.received['keyframes'], 'a keyframe')[0]
    assert keyframe.has_pose
    assert keyframe.pose.covariance[0] == pytest.approx(0.01)


def test_a_slow_model_drops_images_and_never_queues_them(listener, eager):
    node = eager()
    recognize, entered, go_on = node.recognizer.recognize, threading.Event(), threading.Event()

    def slow(*arguments, **options):
        entered.set()
        assert go_on.wait(60.0)
        return recognize(*arguments, **options)

    node.recognizer.recognize = slow
    try:
        for count in range(1, 7):
            listener.send('/image', raw_message(place(count), count * SECOND))
            wait_until(lambda count=count: listener.counted('frames_received') == count,
                       f'image {count} to arrive')
            assert entered.wait(60.0)
    finally:
        go_on.set()
    listener.wait_for_candidates(2)
    assert [stamp_of(answer) for answer in listener.candidates] == [SECOND, 6 * SECOND]
    wait_until(lambda: listener.counted('frames_processed') == 2, 'the status to follow')
    assert listener.status.frames_dropped == 4
    listener.wait_for_diagnostic('Input', 'images dropped: 4')


def test_images_that_come_too_often_are_not_due(listener, eager):
    eager(query__max_rate=1.0)
    for count, stamp_ns in enumerate((SECOND, SECOND + SECOND // 2, 2 * SECOND), start=1):
        listener.send('/image', raw_message(place(1), stamp_ns))
        wait_until(lambda count=count: listener.counted('frames_received') == count,
                   f'image {count} to arrive')
    listener.wait_for_candidates(2)
    assert [stamp_of(answer) for answer in listener.candidates] == [SECOND, 2 * SECOND]
    listener.wait_for_diagnostic('Input', 'images not due: 1')
    assert listener.status.frames_dropped == 0


def test_best_effort_is_the_default_and_works(listener, eager):
    eager(qos__image_reliability='best_effort')
    seconds = itertools.count(1)
    listener.insist(
        lambda: listener.send('/image', raw_message(place(1), next(seconds) * SECOND)),
        lambda: listener.candidates, 'an answer')
    listener.wait_for_diagnostic('Input', 'image publishers: sensor_msgs/msg/Image reliable')


def test_live_parameters_change_a_running_node(listener, eager):
    node = eager()
    send_places(listener, [1, 2, 3, 1])
    assert listener.candidates[-1].outcome == PlaceMatchArray.LOOP
    assert listener.set_parameter('gates.min_probability', 1.0).successful
    assert listener.set_parameter('index.top_k', 1).successful
    assert node.recognizer.settings.gates.min_probability == 1.0
    send_places(listener, [1], first_s=5)
    assert len(listener.candidates[-1].matches) == 1
    assert listener.candidates[-1].matches[0].decision == PlaceMatch.REJECT_UNSURE


@pytest.mark.parametrize(('name', 'value', 'words'), [
    ('index.top_k', 0, 'index.top_k'),
    ('gates.min_probability', 0.4, 'gates.min_probability'),
    ('keyframe.max_overlap', 1.5, 'keyframe.max_overlap'),
    ('gates.min_similarity', 0.5, 'undeclared parameter'),  # those of before are unknown
    ('gates.temporal_min', 3, 'undeclared parameter'),
    ('keyframe.max_similarity', 0.95, 'undeclared parameter'),
    ('relocalization.min_consistent', 3, 'undeclared parameter'),
    ('gates.min_probability', 'high', "gates.min_probability = 'high' should be like 0.99"),
    ('model.weights', '/other.pth', 'model.weights can be set only while'),
])
def test_wrong_changes_are_refused_with_a_sentence(listener, eager, name, value, words):
    node = eager()
    before = node.recognizer.settings
    result = listener.set_parameter(name, value)
    assert not result.successful
    assert words in result.reason
    assert node.recognizer.settings == before


def test_a_pause_keeps_the_map_and_a_cleanup_does_not(listener, eager):
    eager()
    send_places(listener, [1, 2])
    assert listener.transition('deactivate')
    assert listener.transition('activate')
    send_places(listener, [1], first_s=5)
    assert listener.candidates[-1].outcome == PlaceMatchArray.LOOP
    for label in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert listener.transition(label)
    send_places(listener, [1])
    assert len(listener.candidates[-1].matches) == 0


@pytest.mark.parametrize('family', sorted(tiny_checkpoints.SIZES))
def test_every_system_runs_from_its_published_file(listener, eager, tmp_path, family):
    path = tiny_checkpoints.write(tmp_path / f'{family}.pth', tiny_checkpoints.make(family))
    size = list(tiny_checkpoints.IMAGE_SIZES[family])
    eager(model__weights=str(path), model__input_size=size, verify__geometry='none')
    send_places(listener, [1, 2, 3, 2])
    last = listener.candidates[-1]
    assert last.model_id.startswith(f'{family}/')
    assert last.matches[0].match.keyframe_id == 2
    has_local = family in ('selavpr', 'fol')
    assert last.reranked == has_local
    assert math.isnan(last.matches[0].local_score) == (not has_local)
    assert listener.status.why_not_reranked == (
        '' if has_local else f'{family} has no local features')
