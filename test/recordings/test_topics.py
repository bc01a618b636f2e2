from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from bags import (
    IMAGE_TOPIC,
    TYPES,
    compressed_message,
    header,
    image_message,
    odometry_message,
    pose_stamped_message,
    write_bag,
)

from selavpr_ros.errors import BagError
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.topics import choose_image_topic, choose_odometry_topic, choose_sources

RNG = np.random.default_rng(0)
DEPTH_MM = RNG.integers(500, 5000, (40, 60)).astype('<u2')
DEPTH_MM[:8] = 0
THERMAL = RNG.integers(7200, 8200, (40, 60)).astype('<u2')


def one_channel(values: np.ndarray, encoding: str) -> Any:
    """sensor_msgs/Image of (H, W) values."""
    height, width = values.shape
    return TYPES['sensor_msgs/msg/Image'](
        header(0), height, width, encoding, 0, values.itemsize * width,
        values.view(np.uint8).reshape(-1))


def compressed(values: np.ndarray, message_format: str) -> Any:
    data = cv2.imencode('.png', values)[1]
    return TYPES['sensor_msgs/msg/CompressedImage'](
        header(0), message_format, data.reshape(-1))


DEPTH = {
    '/camera/depth/image_rect_raw': one_channel(THERMAL, '16UC1'),
    '/camera/depth/mono': one_channel(THERMAL, 'mono16'),
    '/camera/depth/points': one_channel(DEPTH_MM.astype('<f4') / 1000, '32FC1'),
    '/oak/stereo/image_raw': one_channel(DEPTH_MM, '16UC1'),
    '/zed/registered': one_channel(DEPTH_MM.astype('<f4') / 1000, '32FC1'),
    '/camera/depth/image_raw/compressed': compressed(DEPTH_MM, '16UC1; png compressed '),
    '/camera/image/compressedDepth': compressed(DEPTH_MM, '16UC1; compressedDepth png'),
}


@pytest.fixture
def make_bag(tmp_path, images):
    """A bag with topics of these names: images, or poses where the name says odom or pose."""

    def make(*names: str) -> Bag:
        ns, image = images[0]
        kinds = {'compressed': compressed_message(ns, image), 'image': image_message(ns, image),
                 'odom': odometry_message(ns, Pose.planar(0, 0, 0)),
                 'pose': pose_stamped_message(ns, Pose.planar(0, 0, 0))}
        streams = {
            name: [(ns, next(message for kind, message in kinds.items() if kind in name))]
            for name in names
        }
        return Bag(write_bag(tmp_path / 'a.bag', streams))

    return make


def test_the_only_image_topic_is_taken(make_bag):
    with make_bag(IMAGE_TOPIC, '/odom') as bag:
        assert choose_image_topic(bag).name == IMAGE_TOPIC


def test_the_slash_in_front_may_be_left_out(make_bag):
    with make_bag(IMAGE_TOPIC, '/rear/image_raw') as bag:
        assert choose_image_topic(bag, 'rear/image_raw').name == '/rear/image_raw'


def test_several_image_topics_are_listed(make_bag):
    with make_bag('/a/image', '/a/image/compressed') as bag, pytest.raises(
            BagError, match=r'2 image topics, choose one with --topic: '
            r'/a/image \(sensor_msgs/msg/Image, 1 messages\); /a/image/compressed \('):
        choose_image_topic(bag)


@pytest.mark.parametrize('topic', DEPTH)
def test_depth_is_never_taken_as_the_camera(tmp_path, images, topic):
    ns, image = images[0]
    streams = {topic: [(ns, DEPTH[topic])]}
    with Bag(write_bag(tmp_path / 'depth.bag', streams)) as bag:
        with pytest.raises(BagError, match=r'no images of a camera: .*depth.*topics are: /'):
            choose_image_topic(bag)
        with pytest.raises(BagError, match=rf'{topic} of .* cannot be the camera: .*depth'):
            choose_image_topic(bag, topic)
    streams[IMAGE_TOPIC] = [(ns, image_message(ns, image))]
    with Bag(write_bag(tmp_path / 'both.bag', streams)) as bag:
        assert choose_image_topic(bag).name == IMAGE_TOPIC
        is_raw = DEPTH[topic].__msgtype__ == 'sensor_msgs/msg/Image'
        found = choose_sources(bag, depth=None).depth
        assert (found.name if found else None) == (topic if is_raw else None)


@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_a_thermal_camera_is_a_camera(tmp_path, encoding):
    streams = {'/thermal/image_raw': [(1, one_channel(THERMAL, encoding))],
               '/camera/depth/image_raw': [(1, one_channel(DEPTH_MM, '16UC1'))]}
    with Bag(write_bag(tmp_path / 'a.bag', streams)) as bag:
        assert choose_image_topic(bag).name == '/thermal/image_raw'


def test_holes_are_no_depth_if_the_user_names_the_encoding(tmp_path):
    streams = {'/thermal/image_rect': [(1, one_channel(DEPTH_MM, '16UC1'))]}
    with Bag(write_bag(tmp_path / 'a.bag', streams)) as bag:
        with pytest.raises(BagError, match='or set image.encoding_override to mono16'):
            choose_sources(bag)
        assert choose_sources(bag, encoding='mono16').images.name == '/thermal/image_rect'


def test_the_colour_images_of_a_depth_camera_are_the_camera(tmp_path, images):
    ns, image = images[0]
    streams = {'/depth_camera/image_raw': [(ns, image_message(ns, image))],
               '/depth_camera/depth': [(ns, one_channel(DEPTH_MM, '16UC1'))]}
    with Bag(write_bag(tmp_path / 'a.bag', streams)) as bag:
        sources = choose_sources(bag, depth=None)
    assert sources.images.name == '/depth_camera/image_raw'
    assert sources.depth.name == '/depth_camera/depth'


def test_looking_for_depth_counts_no_message(tmp_path, images):
    ns, image = images[0]
    unreadable_first = [(ns + 1, image_message(ns, image)), (ns, b'\x00\x01')]
    with Bag(write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: unreadable_first})) as bag:
        assert choose_image_topic(bag).name == IMAGE_TOPIC
        assert not bag.skipped
        assert len(list(bag.images(IMAGE_TOPIC))) == 1
        assert sum(bag.skipped.values()) == 1


def test_a_topic_that_is_not_there_gets_the_list(make_bag):
    with make_bag('/a/image', '/odom') as bag, pytest.raises(
            BagError, match=r'no image topic /b; it has: '
            r'/a/image \(sensor_msgs/msg/Image, 1 messages\)$'):
        choose_image_topic(bag, '/b')


def test_no_images_at_all(make_bag):
    with make_bag('/odom') as bag, pytest.raises(
            BagError, match=r'holds no images; its topics are: /odom \(nav_msgs'):
        choose_image_topic(bag)


@pytest.mark.parametrize(('names', 'chosen'), [
    ((), None),
    (['/pose'], None),
    (['/wheels/odometry'], '/wheels/odometry'),
    (['/wheels/odometry', '/robot/odom'], '/robot/odom'),
    (['/ground_truth/odom'], None),
    (['/ground_truth/odom', '/vio/odometry'], '/vio/odometry'),
])
def test_choice_of_odometry(make_bag, names, chosen):
    with make_bag('/image', *names) as bag:
        sources = choose_sources(bag)
        assert (sources.odometry.name if sources.odometry else None) == chosen


def test_ambiguous_odometry_is_asked_for(make_bag):
    with make_bag('/image', '/a/odometry', '/b/odometry') as bag:
        with pytest.raises(BagError, match='2 odometry topics, choose one with --odom-topic'):
            choose_odometry_topic(bag)
        assert choose_odometry_topic(bag, 'none') is None
        assert choose_odometry_topic(bag, '/b/odometry').name == '/b/odometry'
        with pytest.raises(BagError, match='no topic with poses /c; it has: .*/a/odometry'):
            choose_odometry_topic(bag, '/c')


def test_choice_of_ground_truth(make_bag):
    with make_bag('/image', '/ground_truth/odom', '/odom', '/true_pose') as bag:
        assert choose_sources(bag).truth.name == '/ground_truth/odom'
        assert choose_sources(bag, truth='none', odometry='odom').truth is None
        assert choose_sources(bag, truth='/true_pose', odometry='odom').truth.name == '/true_pose'
        assert choose_sources(bag, truth='none').odometry.name == '/odom'
        with pytest.raises(BagError, match='no topic with poses truth.tum'):
            choose_sources(bag, truth='truth.tum')
