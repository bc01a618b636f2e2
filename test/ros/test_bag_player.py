import numpy as np
import pytest
import rclpy
from bags import IMAGE_TOPIC, cut_short, write_image_bag
from live import SECOND, Spinner, place, stamp_of, wait_until
from rclpy.qos import QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from selavpr_ros.errors import BagError
from selavpr_ros.pose import Pose
from selavpr_ros.ros.bag_player import play


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """Five images 0.1 s apart, and odometry."""
    stamps_ns = [SECOND + number * SECOND // 10 for number in range(5)]
    return write_image_bag(
        tmp_path_factory.mktemp('bags') / 'drive.bag',
        [(ns, place(number)) for number, ns in enumerate(stamps_ns)],
        odometry=[(ns, Pose.planar(0.0, 0.0, 0.0)) for ns in stamps_ns])


@pytest.fixture
def ear():
    """A node that spins, and what it heard on /image and /clock."""
    spinner = Spinner(lambda context: rclpy.create_node('ear', context=context))
    spinner.images, spinner.clocks = [], []
    spinner.node.create_subscription(Image, '/image', spinner.images.append, QoSProfile(depth=50))
    spinner.node.create_subscription(Clock, '/clock', spinner.clocks.append, QoSProfile(depth=99))
    yield spinner
    spinner.close()


def test_the_messages_arrive_as_they_were_recorded(bag, ear):
    progress, paced = [], []
    count = play(
        bag, ear.node, topics=[IMAGE_TOPIC], rate=0.0, remap={IMAGE_TOPIC: '/image'},
        on_progress=lambda *numbers: progress.append(numbers),
        pace=lambda *what: paced.append(what))
    assert count == 5
    wait_until(lambda: len(ear.images) == 5, 'all images')
    for number, image in enumerate(ear.images):
        assert stamp_of(image) == SECOND + number * SECOND // 10
        assert np.array_equal(np.frombuffer(image.data, np.uint8), place(number).ravel())
    assert progress == [(number, 5) for number in range(1, 6)]
    assert paced[1] == (IMAGE_TOPIC, SECOND + SECOND // 10)


def test_the_recordings_time_is_told_and_kept(bag, ear):
    stopped_at = []
    play(bag, ear.node, rate=4.0, clock=True, remap={IMAGE_TOPIC: '/image'},
         pace=lambda topic, ns: stopped_at.append(ns))
    wait_until(lambda: ear.clocks and ear.clocks[-1].clock.nanosec > 390_000_000, 'the end')
    times_ns = [message.clock.sec * SECOND + message.clock.nanosec for message in ear.clocks]
    assert times_ns == sorted(times_ns)
    assert times_ns[0] >= SECOND
    assert len(times_ns) > 5
    assert stopped_at == sorted(stopped_at)


@pytest.mark.parametrize(('topics', 'words'), [
    (['/other'], 'no topic /other in .*; there are /camera/image_raw, /odom'),
    (['/odom'], 'no subscriber to any of /odom'),
])
def test_errors_name_the_topics(bag, ear, topics, words):
    with pytest.raises(BagError, match=words):
        play(bag, ear.node, topics=topics, timeout_s=0.2)


def test_what_is_no_bag(ear, tmp_path):
    with pytest.raises(BagError, match='does not exist'):
        play(tmp_path / 'nothing', ear.node)
    with pytest.raises(BagError, match='is no rosbag2'):
        play(tmp_path, ear.node)


def test_a_bag_that_ends_too_early_is_played_up_to_there(ear, tmp_path):
    images = [(SECOND + number * SECOND // 10, place(number)) for number in range(10)]
    bag = write_image_bag(tmp_path / 'a', images, storage='mcap')
    (bag / 'metadata.yaml').unlink()
    cut_short(bag / 'a.mcap', 0.7)
    count = play(bag, ear.node, rate=0.0, remap={IMAGE_TOPIC: '/image'})
    assert 4 <= count <= 7
    wait_until(lambda: len(ear.images) == count, 'all images')


def test_a_type_that_is_not_installed_is_named(ear, tmp_path):
    with Writer(tmp_path / 'b', version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(
            '/x', 'my_msgs/msg/Thing', msgdef='uint8 a\n', rihs01='RIHS01_' + 64 * '0')
        writer.write(connection, 1, b'\x00\x01\x00\x00\x07')
    with pytest.raises(BagError, match='type my_msgs/msg/Thing are not installed'):
        play(tmp_path / 'b', ear.node)
