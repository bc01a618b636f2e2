"""Small rosbag2 folders for tests: images, odometry and whatever else a test needs to go wrong."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from selavpr_ros.pose import Pose

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES: dict[str, Any] = STORE.types
IMAGE_TOPIC = '/camera/image_raw'
COMPRESSED_TOPIC = '/camera/image_raw/compressed'
StampedPose = tuple[int, Pose]
INFORMATION = 'rosbag2_bagfile_information'


def header(stamp_ns: int, frame_id: str = 'camera') -> Any:
    stamp = TYPES['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    return TYPES['std_msgs/msg/Header'](stamp, frame_id)


def image_message(stamp_ns: int, image: np.ndarray) -> Any:
    """sensor_msgs/Image from (H, W, 3) uint8 RGB."""
    height, width = image.shape[:2]
    return TYPES['sensor_msgs/msg/Image'](
        header(stamp_ns), height, width, 'rgb8', 0, 3 * width, image.reshape(-1))


def compressed_message(stamp_ns: int, image: np.ndarray) -> Any:
    """sensor_msgs/CompressedImage, PNG: the same pixels as the raw one."""
    _, data = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return TYPES['sensor_msgs/msg/CompressedImage'](header(stamp_ns), 'png', data.reshape(-1))


def pose_message(pose: Pose) -> Any:
    position = TYPES['geometry_msgs/msg/Point'](*pose.translation_m.tolist())
    return TYPES['geometry_msgs/msg/Pose'](
        position, TYPES['geometry_msgs/msg/Quaternion'](*pose.rotation.tolist()))


def odometry_message(stamp_ns: int, pose: Pose) -> Any:
    """nav_msgs/Odometry."""
    vector = TYPES['geometry_msgs/msg/Vector3']
    twist = TYPES['geometry_msgs/msg/Twist'](vector(0.0, 0.0, 0.0), vector(0.0, 0.0, 0.0))
    return TYPES['nav_msgs/msg/Odometry'](
        header(stamp_ns, 'odom'), 'base_link',
        TYPES['geometry_msgs/msg/PoseWithCovariance'](pose_message(pose), np.zeros(36)),
        TYPES['geometry_msgs/msg/TwistWithCovariance'](twist, np.zeros(36)))


def pose_stamped_message(stamp_ns: int, pose: Pose) -> Any:
    """geometry_msgs/PoseStamped."""
    return TYPES['geometry_msgs/msg/PoseStamped'](header(stamp_ns, 'map'), pose_message(pose))


def write_bag(
    path: Path, streams: dict[str, list[tuple[int, Any]]], storage: str = 'sqlite3'
) -> Path:
    """Write stamped messages by topic; a topic's type is that of its first message.

    `bytes` in place of a message are written as they are: a message that nobody can read.
    """
    with Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {
            topic: writer.add_connection(topic, stamped[0][1].__msgtype__, typestore=STORE)
            for topic, stamped in streams.items()
        }
        tagged = [[(ns, topic, message) for ns, message in stamped]
                  for topic, stamped in streams.items()]
        for stamp_ns, topic, message in heapq.merge(*tagged, key=lambda item: item[0]):
            if not isinstance(message, bytes):
                message = STORE.serialize_cdr(message, message.__msgtype__)
            writer.write(connections[topic], stamp_ns, message)
    return path


def write_image_bag(
    path: Path, images: Iterable[tuple[int, np.ndarray]], *, compressed: bool = False,
    odometry: Iterable[StampedPose] = (), truth: Iterable[StampedPose] = (),
    storage: str = 'sqlite3',
) -> Path:
    """Write (H, W, 3) uint8 RGB images with stamps in ns, and poses on /odom, /ground_truth/odom.

    Args:
        storage: 'sqlite3' or 'mcap'.
    """
    encode = compressed_message if compressed else image_message
    streams = {
        COMPRESSED_TOPIC if compressed else IMAGE_TOPIC:
            [(ns, encode(ns, image)) for ns, image in images],
        '/odom': [(ns, odometry_message(ns, pose)) for ns, pose in odometry],
        '/ground_truth/odom': [(ns, odometry_message(ns, pose)) for ns, pose in truth],
    }
    return write_bag(path, {topic: sent for topic, sent in streams.items() if sent}, storage)


def damage_middle(file: Path) -> None:
    """Zeros where messages were."""
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(data[:middle] + bytes(60_000) + data[middle + 60_000:])


def cut_short(file: Path, kept: float) -> None:
    """A file that ends where a crash or a full disk ended it."""
    data = file.read_bytes()
    file.write_bytes(data[:int(kept * len(data))])


def write_split_bag(
    path: Path, parts: Iterable[Iterable[tuple[int, np.ndarray]]], storage: str = 'sqlite3'
) -> Path:
    """Write images into several files, as `ros2 bag record --max-bag-duration` names them."""
    path.mkdir()
    infos = []
    for number, images in enumerate(parts):
        part = write_image_bag(path / f'part_{number}', images, storage=storage)
        infos.append(yaml.safe_load((part / 'metadata.yaml').read_text())[INFORMATION])
        (file,) = part.glob('*.[dm]*[3p]')
        file.rename(path / f'{path.name}_{number}{file.suffix}')
        shutil.rmtree(part)
    whole = infos[0]
    whole['relative_file_paths'] = sorted(
        file.name for file in path.iterdir())
    for topics in zip(*(info['topics_with_message_count'] for info in infos), strict=True):
        topics[0]['message_count'] = sum(topic['message_count'] for topic in topics)
    (path / 'metadata.yaml').write_text(yaml.safe_dump({INFORMATION: whole}))
    return path
