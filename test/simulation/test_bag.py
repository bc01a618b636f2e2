import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from selavpr_ros.errors import BagError
from selavpr_ros.simulation import DriveSettings, drive, take_images, write_bag
from selavpr_ros.simulation.bag import (
    CAMERA_INFO_TOPIC,
    COMPRESSED_TOPIC,
    IMAGE_TOPIC,
    ODOMETRY_TOPIC,
    TRUTH_TOPIC,
)


@pytest.fixture(scope='module')
def short_drive(town):
    return drive(town.route, DriveSettings(speed_m_per_s=30.0, image_rate_hz=3.0), seed=0)


@pytest.fixture(scope='module')
def frames(town, small_camera, short_drive):
    return list(take_images(town, small_camera, short_drive))


def read(path):
    """Per topic the messages in bag order, and all bag stamps."""
    topics, stamps_ns = {}, []
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Reader(path) as reader:
        for connection, stamp_ns, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            topics.setdefault(connection.topic, []).append(message)
            stamps_ns.append(stamp_ns)
    return topics, stamps_ns


def header_ns(message):
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
@pytest.mark.parametrize('compressed', [False, True])
def test_bag_read_back(tmp_path, small_camera, short_drive, frames, storage, compressed):
    path = tmp_path / 'town.bag'
    write_bag(path, small_camera, short_drive, frames, storage=storage, compressed=compressed)

    topics, stamps_ns = read(path)

    image_topic = COMPRESSED_TOPIC if compressed else IMAGE_TOPIC
    steps = len(short_drive.stamps_ns)
    assert {topic: len(found) for topic, found in topics.items()} == {
        image_topic: len(frames),
        CAMERA_INFO_TOPIC: len(frames),
        ODOMETRY_TOPIC: steps,
        TRUTH_TOPIC: steps,
    }
    assert stamps_ns == sorted(stamps_ns)
    for found in topics.values():
        assert (np.diff([header_ns(message) for message in found]) > 0).all()
    assert storage in (path / 'metadata.yaml').read_text()


def test_raw_images_are_the_frames(tmp_path, small_camera, short_drive, frames):
    write_bag(tmp_path / 'raw', small_camera, short_drive, frames)

    message = read(tmp_path / 'raw')[0][IMAGE_TOPIC][4]

    assert (message.encoding, message.step) == ('rgb8', 3 * small_camera.width)
    assert message.header.frame_id == 'camera_optical_frame'
    assert header_ns(message) == frames[4].stamp_ns
    pixels = message.data.reshape(message.height, message.width, 3)
    np.testing.assert_array_equal(pixels, frames[4].image)


def test_compressed_images_decode_to_the_frames(tmp_path, small_camera, short_drive, frames):
    write_bag(tmp_path / 'jpeg', small_camera, short_drive, frames, compressed=True)

    message = read(tmp_path / 'jpeg')[0][COMPRESSED_TOPIC][4]

    decoded = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]
    assert 'jpeg' in message.format
    assert np.abs(decoded.astype(int) - frames[4].image).mean() < 8


def test_poses_and_camera_info(tmp_path, small_camera, short_drive, frames):
    write_bag(tmp_path / 'bag', small_camera, short_drive, frames)

    topics, _ = read(tmp_path / 'bag')

    truth, odometry = topics[TRUTH_TOPIC][50], topics[ODOMETRY_TOPIC][0]
    assert (truth.header.frame_id, truth.child_frame_id) == ('map', 'base_link')
    assert odometry.header.frame_id == 'odom'
    pose = truth.pose.pose
    yaw = 2 * np.arctan2(pose.orientation.z, pose.orientation.w)
    assert (pose.position.x, pose.position.y) == pytest.approx(
        tuple(short_drive.true_poses[50, :2].tolist())
    )
    assert np.cos(yaw - short_drive.true_poses[50, 2]) == pytest.approx(1.0)
    assert truth.twist.twist.linear.x == pytest.approx(30.0, rel=0.2)
    assert odometry.pose.pose.position.x == 0.0
    info = topics[CAMERA_INFO_TOPIC][0]
    assert info.k[0] == pytest.approx(small_camera.focal_px)
    assert (info.k[2], info.k[5]) == small_camera.centre_px


def test_an_existing_bag_is_kept_unless_overwriting(tmp_path, small_camera, short_drive, frames):
    path = tmp_path / 'town.bag'
    write_bag(path, small_camera, short_drive, frames[:2])
    before = (path / 'metadata.yaml').read_bytes()

    with pytest.raises(BagError, match='town.bag exists already.*--overwrite'):
        write_bag(path, small_camera, short_drive, frames)
    assert (path / 'metadata.yaml').read_bytes() == before

    write_bag(path, small_camera, short_drive, frames, overwrite=True)
    assert len(read(path)[0][IMAGE_TOPIC]) == len(frames)
    assert [entry.name for entry in tmp_path.iterdir()] == ['town.bag']


def test_overwriting_never_touches_what_is_no_bag(tmp_path, small_camera, short_drive, frames):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'holiday.jpg').touch()

    with pytest.raises(BagError, match='not a rosbag2 folder'):
        write_bag(tmp_path / 'photos', small_camera, short_drive, frames, overwrite=True)

    assert (tmp_path / 'photos' / 'holiday.jpg').exists()


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_an_interrupted_run_leaves_nothing(tmp_path, small_camera, short_drive, frames, storage):
    def interrupted():
        yield from frames[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bag(tmp_path / 'b', small_camera, short_drive, interrupted(), storage=storage)

    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_overwrite_keeps_the_old_bag(tmp_path, small_camera, short_drive, frames):
    def interrupted():
        raise KeyboardInterrupt
        yield

    path = tmp_path / 'town.bag'
    write_bag(path, small_camera, short_drive, frames)
    with pytest.raises(KeyboardInterrupt):
        write_bag(path, small_camera, short_drive, interrupted(), overwrite=True)

    assert len(read(path)[0][IMAGE_TOPIC]) == len(frames)


def test_unknown_storage(tmp_path, small_camera, short_drive):
    with pytest.raises(BagError, match="unknown storage 'hdf5': choose one of sqlite3, mcap"):
        write_bag(tmp_path / 'bag', small_camera, short_drive, [], storage='hdf5')


def test_a_folder_that_cannot_be_made_is_named(tmp_path, small_camera, short_drive):
    (tmp_path / 'file').touch()

    with pytest.raises(BagError, match='cannot write to .*file'):
        write_bag(tmp_path / 'file' / 'town.bag', small_camera, short_drive, [])
