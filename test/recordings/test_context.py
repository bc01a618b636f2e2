"""What replay knows beside the images: calibration, depth, the odometry's frame."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from bags import (
    COMPRESSED_TOPIC,
    IMAGE_TOPIC,
    TYPES,
    header,
    image_message,
    odometry_message,
    write_bag,
)

from selavpr_ros.errors import BagError
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.context import RecordedContext
from selavpr_ros.recordings.topics import NONE, choose_sources
from selavpr_ros.settings import make_settings

SECOND = 1_000_000_000
PIXELS = np.zeros((4, 6, 3), np.uint8)
INFO, DEPTH = '/camera/camera_info', '/camera/aligned_depth_to_color/image_raw'


def info_message(focal_px: float = 30.0, model: str = 'plumb_bob'):
    roi = TYPES['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    matrix = np.array([focal_px, 0.0, 3.0, 0.0, focal_px, 2.0, 0.0, 0.0, 1.0])
    return TYPES['sensor_msgs/msg/CameraInfo'](
        header(SECOND), 4, 6, model, np.zeros(5), matrix, np.eye(3).ravel(), np.zeros(12),
        0, 0, roi)


def depth_message(stamp_ns: int, depth_m: float, encoding: str = '32FC1'):
    values = np.full((4, 6), depth_m, np.float32)
    return TYPES['sensor_msgs/msg/Image'](
        header(stamp_ns), 4, 6, encoding, 0, 24, values.view(np.uint8).reshape(-1))


def images(*seconds: int):
    return [(s * SECOND, image_message(s * SECOND, PIXELS)) for s in seconds]


def context_of(path, changes=None, **asked):
    """Context of the images at 1, 2 and 3 s."""
    with Bag(path) as bag:
        sources = choose_sources(bag, IMAGE_TOPIC, **asked)
        context = RecordedContext(bag, sources, make_settings(changes or {}))
        return [context.at(s * SECOND) for s in (1, 2, 3)]


def test_the_camera_beside_the_images(tmp_path):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1, 2, 3), INFO: [(SECOND, info_message(30.0))],
        '/other/camera_info': [(SECOND, info_message(7.0))]})
    first, *_ = context_of(path)
    assert first.camera.focal_px == 30.0
    assert first.camera.size == (4, 6)
    assert first.depth_m is None
    other, *_ = context_of(path, camera_info='/other/camera_info')
    assert other.camera.focal_px == 7.0
    assert context_of(path, camera_info=NONE)[0].camera is None


def test_compressed_images_have_the_same_camera(tmp_path):
    path = write_bag(tmp_path / 'a.bag', {
        COMPRESSED_TOPIC: images(1), INFO: [(SECOND, info_message())],
        '/other/camera_info': [(SECOND, info_message())]})
    with Bag(path) as bag:
        assert choose_sources(bag).camera_info.name == INFO


def test_the_only_camera_wherever_it_is(tmp_path):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1), '/somewhere/info': [(SECOND, info_message())]})
    assert context_of(path)[0].camera


def test_a_camera_that_is_asked_for_has_to_be_there(tmp_path):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1), INFO: [(SECOND, info_message())]})
    with pytest.raises(BagError, match='has no camera_info topic /no; it has: /camera'):
        context_of(path, camera_info='/no')
    with pytest.raises(BagError, match='has no topic with raw images /no; it has: /camera'):
        context_of(path, depth='/no')


@pytest.mark.parametrize('changes', [{'verify.geometry': 'none'}, {'image.rotate_deg': 90}])
def test_a_camera_that_the_node_would_not_use(tmp_path, changes):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1), INFO: [(SECOND, info_message())]})
    assert context_of(path, changes)[0].camera is None


def test_a_lens_that_is_not_known_is_told(tmp_path, caplog):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1), INFO: [(SECOND, info_message(model='mirror'))]})
    with caplog.at_level(logging.WARNING):
        assert context_of(path)[0].camera is None
    assert f"{INFO} is not used: it has the distortion model 'mirror'" in caplog.text


def test_messages_that_are_empty_at_first_are_passed_over(tmp_path, caplog):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1), INFO: [
            (SECOND, info_message(0.0)), (2 * SECOND, info_message(np.nan)),
            (3 * SECOND, info_message(5.0))]})
    assert context_of(path)[0].camera.focal_px == 5.0
    assert caplog.text == ''
    path = write_bag(tmp_path / 'b.bag', {
        IMAGE_TOPIC: images(1), INFO: [(SECOND, info_message(np.nan))]})
    assert context_of(path)[0].camera is None
    assert f'{INFO} is not used: K is [nan' in caplog.text


def test_rectified_images_go_by_p(tmp_path):
    raw = info_message(5.0)
    raw.p[:] = [7.0, 0.0, 3.0, 0.0, 0.0, 7.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    path = write_bag(tmp_path / 'a.bag', {
        '/camera/image_rect': images(1), INFO: [(SECOND, raw)]})
    with Bag(path) as bag:
        context = RecordedContext(bag, choose_sources(bag), make_settings({}))
    assert context.at(SECOND).camera.focal_px == 7.0


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_depth_is_that_of_the_image_with_its_stamp(tmp_path, storage):
    sent = [(s * SECOND + 5_000_000, depth_message(s * SECOND + 5_000_000, float(s)))
            for s in (1, 3)]
    path = write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: images(1, 2, 3), DEPTH: sent}, storage)
    first, second, third = context_of(path, depth=None)
    assert first.depth_m.tolist() == np.full((4, 6), 1.0).tolist()
    assert second.depth_m is None
    assert third.depth_m[0, 0] == 3.0
    assert context_of(path, depth=NONE)[0].depth_m is None


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_depth_is_read_along_with_the_images(tmp_path, storage):
    """Two streams of one bag, each farther than a chunk of its file."""
    stamps_ns = [(1 + number) * SECOND // 10 for number in range(200)]
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: [(ns, image_message(ns, noise)) for ns in stamps_ns],
        DEPTH: [(ns, depth_message(ns, ns * 1e-9)) for ns in stamps_ns]}, storage)
    with Bag(path) as bag:
        context = RecordedContext(
            bag, choose_sources(bag, IMAGE_TOPIC, depth=None), make_settings({}))
        found = [(ns, float(context.at(ns).depth_m[0, 0])) for ns, _ in bag.images(IMAGE_TOPIC)]
    assert [ns for ns, _ in found] == stamps_ns
    assert [depth_m for _, depth_m in found] == pytest.approx([ns * 1e-9 for ns in stamps_ns])


def test_two_depth_topics_are_a_choice(tmp_path):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1), DEPTH: [(SECOND, depth_message(SECOND, 1.0))],
        '/left/depth': [(SECOND, depth_message(SECOND, 2.0))]})
    with pytest.raises(BagError, match='has 2 depth topics, choose one with --depth-topic'):
        context_of(path, depth=None)
    assert context_of(path, depth='/left/depth')[0].depth_m[0, 0] == 2.0


def test_depth_that_cannot_be_decoded_is_told_once_and_left_out(tmp_path, caplog):
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: images(1, 2), DEPTH: [
            (s * SECOND, depth_message(s * SECOND, 1.0, 'rgb8')) for s in (1, 2)]})
    assert context_of(path, depth=None)[0].depth_m is None
    assert caplog.text == ''
    assert [context.depth_m for context in context_of(path, depth=DEPTH)] == [None] * 3
    assert caplog.text.count("depth is not used: depth has the encoding 'rgb8'") == 1


def test_the_frame_of_the_odometry(tmp_path):
    odometry = [(SECOND, odometry_message(SECOND, Pose.planar(0.0, 0.0, 0.0)))]
    odometry[0][1].header.frame_id = 'wheels'
    path = write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: images(1), '/odom': odometry})
    assert context_of(path)[0].pose_frame == 'wheels'
    assert context_of(path, odometry=NONE)[0].pose_frame == 'odom'
