"""Whatever comes in, the node says what is wrong with it and goes on."""

from __future__ import annotations

import time

import cv2
from live import SECOND, compressed_message, place, raw_message, wait_until
from sensor_msgs.msg import CompressedImage, Image

SETTINGS = {
    'query.max_rate': 60.0, 'status.period': 0.1, 'pose_source': 'none',
    'qos.image_reliability': 'reliable'}


def test_bad_raw_images_are_counted_and_named(listener, start_node):
    start_node(**SETTINGS)
    wrong_step = raw_message(place(1), 2 * SECOND)
    wrong_step.step = 10
    short = raw_message(place(1), 3 * SECOND)
    short.data = short.data[:1000]
    bad = [
        (Image(encoding='rgb8'), 'empty image'),
        (wrong_step, 'step is 10 bytes'),
        (short, 'image data has 1000 bytes'),
        (raw_message(place(1), 4 * SECOND, 'my_camera_12p'), "unknown encoding 'my_camera_12p'"),
    ]
    for count, (message, words) in enumerate(bad, start=1):
        message.header.stamp.sec = count
        listener.send('/image', message)
        listener.wait_for_diagnostic('Input', f'bad image: last: {words}')
        listener.wait_for_diagnostic('Input', f'bad image: count: {count}')
    listener.send('/image', raw_message(place(1), 10 * SECOND))
    listener.wait_for_candidates(1)


def test_depth_is_named_and_a_thermal_camera_is_answered(listener, start_node):
    start_node(**SETTINGS)
    values = 7200 + 4 * place(1)[..., 0].astype('<u2')
    depth = values.copy()
    depth[:20] = 0
    listener.send('/image', raw_message(depth, SECOND, '16UC1'))
    listener.wait_for_diagnostic('Input', 'bad image: last: the 16UC1 image is depth')
    listener.send('/image', raw_message(depth.astype('<f4'), 2 * SECOND, '32FC1'))
    listener.wait_for_diagnostic('Input', "bad image: last: unknown encoding '32FC1'")
    listener.send('/image', raw_message(values, 3 * SECOND, '16UC1'))
    listener.wait_for_candidates(1)


def test_a_topic_named_depth_is_not_the_camera(listener, start_process):
    parameters = {**SETTINGS, 'model.weights': 'hog'}
    start_process('-r', 'image:=/camera/depth/image_raw', *(
        word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')))
    values = 1200 + 4 * place(1)[..., 0].astype('<u2')
    depth = raw_message(values, SECOND, '16UC1')
    listener.insist(
        lambda: listener.send('/camera/depth/image_raw', depth),
        lambda: any('/camera/depth/image_raw is depth (16UC1)' in value
                    for value in listener.values('Input')), 'depth to be named')


def test_bad_compressed_images_are_counted_and_named(listener, start_node):
    start_node(**SETTINGS, image_transport='compressed')
    jpeg = cv2.imencode('.jpg', place(1))[1].tobytes()
    bad = [(jpeg[:len(jpeg) // 2], 'truncated JPEG'), (b'', 'empty compressed image'),
           (b'no picture', '10 bytes that start with')]
    for count, (data, words) in enumerate(bad, start=1):
        listener.send('/image/compressed', compressed_message(data, count * SECOND))
        listener.wait_for_diagnostic('Input', f'bad image: last: {words}')
    listener.send('/image/compressed', compressed_message(jpeg, 10 * SECOND))
    listener.wait_for_candidates(1)


def test_stamps_that_run_backwards_are_named_and_a_jump_starts_a_session(listener, start_node):
    start_node(**SETTINGS)
    for stamp_ns in (100 * SECOND, 101 * SECOND):
        listener.send('/image', raw_message(place(1), stamp_ns))
        wait_until(lambda ns=stamp_ns: listener.candidates and
                   listener.candidates[-1].header.stamp.sec == ns // SECOND, 'an answer')
    listener.send('/image', raw_message(place(1), 100 * SECOND + SECOND // 2))
    listener.wait_for_diagnostic('Input', 'stamp out of order: count: 1')
    for stamp_ns in (50 * SECOND, 51 * SECOND):  # one alone may be a slip of the driver
        listener.send('/image', raw_message(place(1), stamp_ns))
        listener.wait_for_diagnostic('Input', 'stamp out of order: count: 2')
    answer = listener.wait_for_candidates(3)
    assert (answer.query.session_id, answer.query.keyframe_id) == (2, 1)
    listener.wait_for_diagnostic('Time', 'session: 2')


def test_poses_that_are_none_are_counted_and_named(listener, start_node):
    start_node(**{**SETTINGS, 'pose_source': 'odom', 'pose_timeout': 0.05})
    for words, x_m, w in (('translation', float('nan'), 1.0), ('rotation', 0.0, 0.0)):
        listener.insist(
            lambda x_m=x_m, w=w: listener.send_odometry(SECOND, x_m, x=0.0, y=0.0, z=0.0, w=w),
            lambda words=words: any(value.startswith(f'bad odometry pose: last: {words}')
                                    for value in listener.values('Input')),
            f'a bad {words} to be named')
    listener.send('/image', raw_message(place(1), SECOND))
    listener.wait_for_candidates(1)


def test_an_old_image_is_dropped_by_name_and_a_recorded_one_is_not(listener, start_node):
    start_node(**SETTINGS, **{'image.max_age': 0.5})
    old_ns = time.time_ns() - 10 * SECOND
    listener.send('/image', raw_message(place(1), old_ns))
    listener.wait_for_diagnostic('Time', 'more than image.max_age = 0.5')
    assert listener.candidates == []
    listener.send('/image', raw_message(place(1), 1000 * SECOND))
    assert listener.wait_for_candidates(1).age.sec > 1000
    listener.wait_for_diagnostic('Time', 'needs use_sim_time')


def test_a_clock_that_nobody_publishes_is_named(listener, start_node):
    start_node(**SETTINGS, use_sim_time=True)
    # The node's timer follows that clock, too: what it told at its start is all there is.
    listener.wait_for_diagnostic('Time', '/clock has no publisher')


def test_another_type_on_the_topic_is_named(listener, start_node):
    start_node(**SETTINGS)
    listener.node.create_publisher(CompressedImage, '/image', 10)
    listener.wait_for_diagnostic('Input', '/image carries sensor_msgs/msg/CompressedImage')


def test_an_error_of_the_program_is_told_once_and_survived(listener, start_node):
    node = start_node(**SETTINGS)
    recognize = node.recognizer.recognize

    def broken(image, stamp_ns, *rest, **options):
        if stamp_ns < 3 * SECOND:
            raise ZeroDivisionError('a bug')
        return recognize(image, stamp_ns, *rest, **options)

    node.recognizer.recognize = broken
    for count in (1, 2):
        listener.send('/image', raw_message(place(1), count * SECOND))
        listener.wait_for_diagnostic('Input', f'internal error: count: {count}')
    listener.wait_for_diagnostic('Model', 'internal error: ZeroDivisionError: a bug')
    listener.send('/image', raw_message(place(1), 3 * SECOND))
    listener.wait_for_candidates(1)
