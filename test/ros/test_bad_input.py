"""Whatever comes in, the node says what is wrong with it and goes on."""

from __future__ import annotations

import time

import cv2
import pytest
from live import SECOND, compressed_message, place, raw_message, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

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


def test_another_type_than_odometry_is_named_with_what_to_do(listener, start_node):
    from geometry_msgs.msg import PoseStamped

    start_node(**{**SETTINGS, 'pose_source': 'odom'})
    listener.node.create_publisher(PoseStamped, '/odom', 10)
    listener.node.create_publisher(Image, '/camera_info', 10)
    listener.node.create_publisher(Image, '/image', 10)
    told = listener.wait_for_diagnostic(
        'Input', '/odom carries geometry_msgs/msg/PoseStamped, but nav_msgs/msg/Odometry is '
        'subscribed: remap odom to a topic of nav_msgs/msg/Odometry')
    assert 'image_transport' not in told.message


K = [250.0, 0.0, 160.0, 0.0, 250.0, 120.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(('changes', 'words'), [
    ({'k': [float('nan'), *K[1:]]}, 'camera_info is not used: last: K is [nan'),
    ({'width': 640}, 'camera_info is not used: last: it is for images of 640x240 pixels, but the '
                     'images have 320x240'),
    ({'k': [0.0] * 9}, 'camera_info: not used: K is zero: the camera is not calibrated'),
    ({'d': [0.0, 0.1, 0.0]}, 'camera_info: used')])
def test_a_calibration_is_told_and_left_out_where_it_cannot_be_used(
        listener, eager, changes, words):
    eager(gates__min_inlier_share=0.2)
    info = CameraInfo(**{'k': K, 'width': 320, 'height': 240, 'distortion_model': 'plumb_bob',
                         'd': [0.0] * 5, **changes})
    count = 0

    def send():
        nonlocal count
        count += 1
        listener.send('/camera_info', info)
        listener.send('/image', raw_message(place(1), count * SECOND))
        listener.wait_for_candidates(count)

    listener.insist(
        send, lambda: any(words in value for value in listener.values('Input')), words)
    for _ in range(3):
        send()
    listener.wait_for_diagnostic('Model', 'cpu')  # no internal error
    wait_until(lambda: listener.received['closures'], 'a loop closure all the same')


def test_images_without_stamps_are_named(listener, start_node):
    start_node(**SETTINGS)
    for _ in range(2):
        listener.send('/image', raw_message(place(1), 0))
    listener.wait_for_diagnostic('Input', 'the image stamps are 0: the driver sets no stamps')
    listener.wait_for_diagnostic('Time', 'image stamps are 0: the driver sets no stamps')


def test_odometry_by_another_clock_is_told_with_both_times(listener, start_node):
    start_node(**{**SETTINGS, 'pose_source': 'odom', 'pose_timeout': 0.0})
    listener.insist(
        lambda: listener.send_odometry(5 * SECOND, 0.0),
        lambda: any(value.startswith('odometry received: ') and not value.endswith(': 0')
                    for value in listener.values('Input')), 'odometry to get through')
    for count in range(1, 6):
        listener.send('/image', raw_message(place(1), (10**9 + count) * SECOND))
        listener.wait_for_candidates(count)
    listener.wait_for_diagnostic(
        'Input', 'the images are from 1000000001.000 to 1000000005.000 s, the odometry from 5.000')


def test_slow_odometry_that_starts_again_is_told_and_begins_a_session(listener, start_node):
    """One message a second; from the fifth on it counts from zero again."""
    start_node(**{**SETTINGS, 'pose_source': 'odom', 'pose_timeout': 5.0})
    listener.insist(
        lambda: listener.send_odometry(0, 160.0),
        lambda: any(value.startswith('odometry received: ') and not value.endswith(': 0')
                    for value in listener.values('Input')), 'odometry to get through')
    for second, x_m in enumerate((160.0, 160.5, 161.0, 161.5, 0.0, 0.5, 1.0), start=1):
        listener.send_odometry(second * SECOND, x_m)
    for count, stamp_s in enumerate((2.5, 3.5, 5.5, 6.5), start=1):
        listener.send('/image', raw_message(place(count), round(stamp_s * SECOND)))
        listener.wait_for_candidates(count)
    told = listener.wait_for_diagnostic('Input', 'odometry jump: count: 2')
    assert 'the odometry jumped by 161 m in 2.0 s, which no robot can' in told.message
    listener.wait_for_diagnostic('Input', 'images without pose: 0')
    listener.wait_for_diagnostic('Time', 'session: 2')


def test_two_nodes_of_one_name_are_told(listener, start_node):
    start_node(**SETTINGS)
    second = start_node(**SETTINGS)
    listener.wait_for_diagnostic('Model', '2 nodes are called /vpr')
    assert second.get_name() == 'vpr'


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
