"""~/debug_image over real DDS: who listens gets a picture, and nobody else pays for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from live import SECOND, place, raw_message, send_places, stamp_of, wait_until
from sensor_msgs.msg import CompressedImage, Image

from selavpr_ros.ros import debug_image
from selavpr_ros.ros.match_picture import GREEN, HEAD_HEIGHT

RAW, COMPRESSED = (Image, '/vpr/debug_image'), (CompressedImage, '/vpr/debug_image/compressed')
SIZE = (HEAD_HEIGHT + 240 + 2 * 44, 640)  # of a picture of images of 320 x 240
PANELS = np.s_[HEAD_HEIGHT : HEAD_HEIGHT + 240]


@pytest.fixture
def calls(monkeypatch):
    """Counts what is made, and makes it."""
    counted = dict.fromkeys(('draw', '_image_message', '_jpeg_message'), 0)

    def count(name):
        real = getattr(debug_image, name)

        def counting(*arguments):
            counted[name] += 1
            return real(*arguments)

        monkeypatch.setattr(debug_image, name, counting)

    for name in counted:
        count(name)
    return counted


def wait_for_listeners(node, topic, count):
    """Until the node's publisher knows them."""
    publisher = next(p for p in node.publishers if p.topic_name == topic)
    wait_until(lambda: publisher.get_subscription_count() == count,
               f'{count} listeners on {topic}')


def listen(listener, node, kind, topic):
    """What comes on a topic, and the subscription."""
    received = []
    subscription = listener.node.create_subscription(kind, topic, received.append, 10)
    wait_for_listeners(node, topic, 1)
    return received, subscription


def pixels(message):
    """(H, W, 3) of a raw message."""
    assert (message.encoding, message.step) == ('rgb8', 3 * message.width)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def is_green(picture):
    """Of the pixels, those of inliers."""
    return np.abs(picture.astype(int) - GREEN).max(axis=-1) < 30


def test_a_listener_sees_query_and_keyframe(listener, eager, calls):
    node = eager()
    received, _ = listen(listener, node, *RAW)
    send_places(listener, [1, 2, 3, 2])
    wait_until(lambda: len(received) == 4, 'four pictures')
    assert [stamp_of(message) for message in received] == [n * SECOND for n in range(1, 5)]
    assert {message.header.frame_id for message in received} == {'camera'}
    assert {pixels(message).shape for message in received} == {(*SIZE, 3)}
    assert calls == {'draw': 4, '_image_message': 4, '_jpeg_message': 0}

    first, last = pixels(received[0]), pixels(received[-1])
    assert np.array_equal(first[PANELS][:, :319], place(1)[:, :319])
    assert np.all(first[PANELS][0, 321:] == first[PANELS][0, 321])  # no candidates: one colour
    # The thumbnail of the same place, with lines of which many are inliers.
    between = np.abs(last[PANELS][:, :319].astype(int) - last[PANELS][:, 320:639])
    assert np.median(between) < 20
    assert is_green(last[PANELS]).sum() > 500
    assert is_green(last[:HEAD_HEIGHT]).sum() > 50  # ACCEPTED


def test_the_compressed_one_is_the_same_picture(listener, eager, calls):
    node = eager()
    received, _ = listen(listener, node, *RAW)
    compressed, _ = listen(listener, node, *COMPRESSED)
    send_places(listener, [1, 1])
    wait_until(lambda: len(received) == len(compressed) == 2, 'two pictures of both kinds')
    assert [stamp_of(message) for message in compressed] == [SECOND, 2 * SECOND]
    assert compressed[1].header.frame_id == 'camera'
    assert compressed[1].format == 'jpeg'
    decoded = cv2.imdecode(np.frombuffer(compressed[1].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (*SIZE, 3)
    assert np.abs(decoded[:, :, ::-1].astype(int) - pixels(received[1])).mean() < 8
    assert len(compressed[1].data) < len(received[1].data) / 4
    assert calls == {'draw': 2, '_image_message': 2, '_jpeg_message': 2}


def test_nothing_is_made_for_nobody(listener, eager, calls):
    node, shown = eager(), []
    worker = node._active.worker
    show = worker._show
    worker._show = lambda *given: (show(*given), shown.append(given))
    send_places(listener, [1, 2, 1])
    wait_until(lambda: len(shown) == 3, 'the worker to be done')  # later than its candidates
    assert set(calls.values()) == {0}

    received, subscription = listen(listener, node, *COMPRESSED)
    send_places(listener, [2], first_s=4)
    wait_until(lambda: received, 'a picture')
    assert calls == {'draw': 1, '_image_message': 0, '_jpeg_message': 1}

    listener.node.destroy_subscription(subscription)
    wait_for_listeners(node, COMPRESSED[1], 0)
    send_places(listener, [1, 2], first_s=5)
    assert calls['draw'] == 1


def test_it_can_be_turned_off_and_changed_while_it_runs(listener, eager, calls):
    node = eager(debug__image=False)
    received, _ = listen(listener, node, *RAW)
    send_places(listener, [1, 2])
    assert calls['draw'] == 0
    assert listener.set_parameter('debug.image', True).successful
    assert listener.set_parameter('debug.max_width', 640).successful
    assert listener.set_parameter('debug.lines', 0).successful
    large = place(1, 480, 640)
    listener.send('/image', raw_message(large, 3 * SECOND))
    # The picture of the second place may come after all: it is drawn after the answer.
    shown = wait_until(lambda: [p for p in received if stamp_of(p) == 3 * SECOND], 'a picture')
    picture = pixels(shown[0])
    assert picture.shape == (*SIZE, 3)
    small = cv2.resize(large, (320, 240), interpolation=cv2.INTER_AREA)
    assert np.array_equal(picture[PANELS][:, :319], small[:, :319])  # and no lines


def test_a_map_without_thumbnails_still_shows_the_evidence(listener, eager):
    node = eager(map__thumbnails=False)
    received, _ = listen(listener, node, *RAW)
    send_places(listener, [1, 1])
    wait_until(lambda: len(received) == 2, 'two pictures')
    panel = pixels(received[1])[PANELS][:, 321:]
    assert np.mean(panel == 70) > 0.3
    assert is_green(panel).sum() > 100


def test_an_error_in_drawing_loses_no_result(listener, eager, monkeypatch, capfd):
    def fail(*arguments):
        raise ZeroDivisionError('what a drawing may do')

    monkeypatch.setattr(debug_image, 'draw', fail)
    node = eager()
    received, _ = listen(listener, node, *RAW)
    send_places(listener, [1, 2, 1])
    assert [len(answer.matches) for answer in listener.candidates] == [0, 1, 2]
    wait_until(lambda: listener.counted('frames_processed') == 3, 'the status to follow')
    assert not received
    monkeypatch.undo()
    send_places(listener, [2], first_s=4)
    wait_until(lambda: received, 'a picture, once it can be drawn')
    told = capfd.readouterr().err
    assert told.count('no picture on ~/debug_image') == 1
    assert 'ZeroDivisionError: what a drawing may do' in told


def test_the_topics_come_and_go_with_the_configuration(listener, eager):
    node = eager()
    received, _ = listen(listener, node, *RAW)

    assert listener.transition('deactivate')
    assert listener.transition('cleanup')
    wait_until(lambda: not listener.node.count_publishers(RAW[1]), 'the topic to go')
    assert listener.transition('configure')
    assert listener.transition('activate')
    wait_for_listeners(node, RAW[1], 1)
    send_places(listener, [1])
    wait_until(lambda: received, 'a picture')
