from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bags import (
    COMPRESSED_TOPIC,
    IMAGE_TOPIC,
    cut_short,
    damage_middle,
    image_message,
    odometry_message,
    pose_message,
    pose_stamped_message,
    write_bag,
    write_image_bag,
    write_split_bag,
)

from selavpr_ros.errors import BagError
from selavpr_ros.images.decoding import decode
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag, Topic, pose_of

STORAGES = ('sqlite3', 'mcap')


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('compressed', [False, True])
def test_images_come_as_they_were_written(tmp_path, images, storage, compressed):
    path = write_image_bag(tmp_path / 'a', images, compressed=compressed, storage=storage)
    with Bag(path) as bag:
        (topic,) = bag.image_topics()
        read = list(bag.images(topic.name))
    assert topic.name == (COMPRESSED_TOPIC if compressed else IMAGE_TOPIC)
    assert topic.count == len(images)
    assert [stamp_ns for stamp_ns, _ in read] == [stamp_ns for stamp_ns, _ in images]
    for (_, message), (_, image) in zip(read, images, strict=True):
        np.testing.assert_array_equal(decode(message), image)


def test_topics_are_listed_with_type_and_count(tmp_path, images, true_poses):
    with Bag(write_image_bag(tmp_path / 'a', images, odometry=true_poses)) as bag:
        assert bag.topics() == [
            Topic(IMAGE_TOPIC, 'sensor_msgs/msg/Image', 24),
            Topic('/odom', 'nav_msgs/msg/Odometry', 93),
        ]
        assert str(bag.pose_topics()[0]) == '/odom (nav_msgs/msg/Odometry, 93 messages)'


def test_poses_come_as_they_were_written(tmp_path, true_poses):
    streams = {
        '/odom': [(ns, odometry_message(ns, pose)) for ns, pose in true_poses],
        '/pose': [(ns, pose_stamped_message(ns, pose)) for ns, pose in true_poses],
    }
    with Bag(write_bag(tmp_path / 'a', streams)) as bag:
        for topic in streams:
            poses = bag.poses(topic)
            assert [ns for ns, _ in poses] == [ns for ns, _ in true_poses]
            assert poses[50][1].distance_to(true_poses[50][1]) == 0
            assert poses[50][1].angle_to(true_poses[50][1]) < 1e-9


def test_a_pose_is_found_at_any_depth():
    message = odometry_message(0, Pose.planar(1.0, 2.0, 0.5))
    assert pose_of(message).yaw_rad == pytest.approx(0.5)
    assert pose_of(message.pose).yaw_rad == pytest.approx(0.5)


def test_an_invalid_pose_is_left_out_and_counted(tmp_path):
    broken = odometry_message(5, Pose.planar(0, 0, 0))
    broken.pose.pose.position = type(broken.pose.pose.position)(math.nan, 0.0, 0.0)
    good = odometry_message(7, Pose.planar(1, 0, 0))
    with Bag(write_bag(tmp_path / 'a', {'/odom': [(5, broken), (7, good)]})) as bag:
        assert [ns for ns, _ in bag.poses('/odom')] == [7]
        assert bag.skipped == {'bad odometry pose': 1}


def test_a_message_that_nobody_can_read_is_left_out_and_counted(tmp_path, images):
    sent = [(ns, image_message(ns, image)) for ns, image in images[:3]]
    sent[1] = (sent[1][0], b'\x00\x01\x00\x00 no image')
    with Bag(write_bag(tmp_path / 'a', {IMAGE_TOPIC: sent})) as bag:
        assert [ns for ns, _ in bag.images(IMAGE_TOPIC)] == [sent[0][0], sent[2][0]]
        assert bag.skipped == {'unreadable message': 1}


def test_a_bag_without_type_definitions(tmp_path, images):
    """ROS 2 Humble stores none in sqlite3."""
    path = write_image_bag(tmp_path / 'a', images)
    with sqlite3.connect(path / 'a.db3') as database:
        database.execute('DROP TABLE message_definitions')
        database.execute('UPDATE schema SET schema_version = 3')
    with Bag(path) as bag:
        assert len(list(bag.images(IMAGE_TOPIC))) == len(images)


@pytest.mark.parametrize('storage', STORAGES)
def test_a_recording_that_crashed_has_no_metadata(tmp_path, images, storage):
    path = write_image_bag(tmp_path / 'a', images, storage=storage)
    (path / 'metadata.yaml').unlink()
    with Bag(path) as bag:
        assert len(list(bag.images(IMAGE_TOPIC))) == len(images)


@pytest.mark.parametrize('storage', STORAGES)
def test_a_single_file_is_a_bag_too(tmp_path, images, storage):
    path = write_image_bag(tmp_path / 'a', images, storage=storage)
    (file,) = (file for file in path.iterdir() if file.suffix != '.yaml')
    with Bag(file) as bag:
        assert len(list(bag.images(IMAGE_TOPIC))) == len(images)


def test_a_folder_named_like_a_ros_1_bag(tmp_path, images):
    with Bag(write_image_bag(tmp_path / 'drive.bag', images)) as bag:
        assert bag.name == 'drive'
        assert len(list(bag.images(IMAGE_TOPIC))) == len(images)


def test_a_bag_without_messages(tmp_path):
    with Bag(write_bag(tmp_path / 'a', {})) as bag:
        assert bag.topics() == []
        assert list(bag.images('/camera')) == []
        assert bag.poses('/odom') == []


def _open(path: Path) -> None:
    with Bag(path):
        pass


def test_a_path_that_is_no_bag(tmp_path):
    with pytest.raises(BagError, match='nothing.bag does not exist'):
        _open(tmp_path / 'nothing.bag')
    with pytest.raises(BagError, match=r'is no rosbag2: it holds no file \*.db3 or \*.mcap'):
        _open(tmp_path)
    (tmp_path / 'ros1.bag').write_bytes(b'#ROSBAG V2.0\n')
    with pytest.raises(BagError, match=r'bag of ROS 1: convert it with rosbags-convert'):
        _open(tmp_path / 'ros1.bag')
    (tmp_path / 'photo.jpg').write_bytes(b'\xff\xd8')
    with pytest.raises(BagError, match=r'photo.jpg cannot be read as a rosbag2'):
        _open(tmp_path / 'photo.jpg')


def test_a_driver_that_sets_no_stamps(tmp_path, images):
    """The times of recording take their place, for images and poses alike."""
    streams = {
        IMAGE_TOPIC: [(ns, image_message(0, image)) for ns, image in images[:3]],
        '/odom': [(ns, odometry_message(0, Pose.planar(i, 0, 0)))
                  for i, (ns, _) in enumerate(images[:3])]}
    with Bag(write_bag(tmp_path / 'a', streams)) as bag:
        assert [ns for ns, _ in bag.images(IMAGE_TOPIC)] == [ns for ns, _ in images[:3]]
        assert [ns for ns, _ in bag.poses('/odom')] == [ns for ns, _ in images[:3]]
        assert bag.faults == [
            f'{topic}: the header stamps are 0, the driver sets no stamps; the times of recording '
            'are taken for them' for topic in streams]


def test_a_simulation_may_begin_at_0(tmp_path, images):
    sent = [(ns, image_message(i * 10**9, image)) for i, (ns, image) in enumerate(images[:3])]
    with Bag(write_bag(tmp_path / 'a', {IMAGE_TOPIC: sent})) as bag:
        assert [ns for ns, _ in bag.images(IMAGE_TOPIC)] == [0, 10**9, 2 * 10**9]
        assert bag.faults == []


@pytest.mark.parametrize('storage', STORAGES)
def test_two_topics_are_read_at_once(tmp_path, images, true_poses, storage):
    """Also by a reader that goes through the file and has one place in it."""
    path = write_image_bag(tmp_path / 'a', images, odometry=true_poses, storage=storage)
    file = path / f'a.{"mcap" if storage == "mcap" else "db3"}'
    cut_short(file, 0.95)
    with Bag(file) as bag:
        both = list(zip(bag.stamped(IMAGE_TOPIC), bag.stamped('/odom'), strict=False))
        assert len(both) >= 20
        assert [ns for (ns, _), _ in both] == [ns for ns, _ in images[:len(both)]]
        assert [ns for _, (ns, _) in both] == [ns for ns, _ in true_poses[:len(both)]]


def test_messages_that_the_bag_lists_and_does_not_have(tmp_path, images):
    path = write_image_bag(tmp_path / 'a', images)
    with closing(sqlite3.connect(path / 'a.db3')) as database, database:
        database.execute('DELETE FROM messages WHERE id > 10')
    with Bag(path) as bag:
        assert bag.image_topics()[0].count == 24
        assert len(list(bag.images(IMAGE_TOPIC))) == 10
        assert bag.faults == [
            f'{path} lists 24 messages of {IMAGE_TOPIC}, of which 14 are missing']
        assert bag.skipped == {'missing message': 14}


def test_damage_in_one_file_keeps_the_others(tmp_path, images, true_poses):
    path = write_split_bag(tmp_path / 'a', [images[:12], images[12:]])
    damage_middle(path / 'a_0.db3')
    with Bag(path) as bag:
        read: list[int] = []
        with pytest.raises(BagError, match=r'a_0.db3 is damaged after \d+ messages of .*; '
                           r'`sqlite3 a_0.db3 .recover | sqlite3 whole.db3` repairs'):
            read.extend(ns for ns, _ in bag.images(IMAGE_TOPIC))
    assert read[-12:] == [ns for ns, _ in images[12:]]
    assert 12 < len(read) < 24


def test_the_pose_message_helper_keeps_the_order_of_ros():
    assert pose_message(Pose.planar(0, 0, math.pi)).orientation.z == pytest.approx(1)
