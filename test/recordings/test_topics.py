from __future__ import annotations

import pytest
from bags import (
    IMAGE_TOPIC,
    compressed_message,
    image_message,
    odometry_message,
    pose_stamped_message,
    write_bag,
)

from selavpr_ros.errors import BagError
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.topics import choose_image_topic, choose_odometry_topic, choose_sources


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
