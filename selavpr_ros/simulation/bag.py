"""Writes a simulated drive as a rosbag2 folder."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from selavpr_ros.errors import BagError
from selavpr_ros.files import appearing
from selavpr_ros.simulation.camera import Camera
from selavpr_ros.simulation.robot import NANOSECONDS, Frame, Trajectory

STORAGES = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}
BAG_VERSION: Literal[8] = 8  # the newest that ROS 2 Humble reads too
JPEG_QUALITY = 90

IMAGE_TOPIC = '/camera/image_raw'
COMPRESSED_TOPIC = '/camera/image_raw/compressed'
CAMERA_INFO_TOPIC = '/camera/camera_info'
ODOMETRY_TOPIC = '/odom'
TRUTH_TOPIC = '/ground_truth/odom'
CAMERA_FRAME = 'camera_optical_frame'

_STORE = get_typestore(Stores.ROS2_HUMBLE)
_TYPES: dict[str, Any] = _STORE.types
Message = Any


def header(stamp_ns: int, frame_id: str) -> Message:
    """std_msgs/Header."""
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    stamp = _TYPES['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
    return _TYPES['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)


def image_message(frame: Frame) -> Message:
    """sensor_msgs/Image, rgb8."""
    height, width = frame.image.shape[:2]
    return _TYPES['sensor_msgs/msg/Image'](
        header=header(frame.stamp_ns, CAMERA_FRAME),
        height=height,
        width=width,
        encoding='rgb8',
        is_bigendian=0,
        step=3 * width,
        data=frame.image.reshape(-1),
    )


def compressed_message(frame: Frame) -> Message:
    """sensor_msgs/CompressedImage, JPEG."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode('.jpg', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), quality)
    return _TYPES['sensor_msgs/msg/CompressedImage'](
        header=header(frame.stamp_ns, CAMERA_FRAME), format='rgb8; jpeg compressed bgr8', data=data
    )


def camera_info_message(camera: Camera, stamp_ns: int) -> Message:
    """sensor_msgs/CameraInfo of an ideal pinhole camera."""
    (cx, cy), focal = camera.centre_px, camera.focal_px
    return _TYPES['sensor_msgs/msg/CameraInfo'](
        header=header(stamp_ns, CAMERA_FRAME),
        height=camera.height,
        width=camera.width,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1.0]),
        r=np.eye(3).ravel(),
        p=np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1.0, 0]),
        binning_x=0,
        binning_y=0,
        roi=_TYPES['sensor_msgs/msg/RegionOfInterest'](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )


def odometry_message(
    stamp_ns: int, frame_id: str, pose: np.ndarray, twist: np.ndarray, deviation: float
) -> Message:
    """nav_msgs/Odometry of base_link: pose and twist (3,), standard deviation in m and rad."""
    x, y, yaw = pose.tolist()
    ahead, aside, turn = twist.tolist()
    vector, covariance = _TYPES['geometry_msgs/msg/Vector3'], np.eye(6).ravel() * deviation**2
    return _TYPES['nav_msgs/msg/Odometry'](
        header=header(stamp_ns, frame_id),
        child_frame_id='base_link',
        pose=_TYPES['geometry_msgs/msg/PoseWithCovariance'](
            pose=_TYPES['geometry_msgs/msg/Pose'](
                position=_TYPES['geometry_msgs/msg/Point'](x=x, y=y, z=0.0),
                orientation=_TYPES['geometry_msgs/msg/Quaternion'](
                    x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2)
                ),
            ),
            covariance=covariance,
        ),
        twist=_TYPES['geometry_msgs/msg/TwistWithCovariance'](
            twist=_TYPES['geometry_msgs/msg/Twist'](
                linear=vector(x=ahead, y=aside, z=0.0), angular=vector(x=0.0, y=0.0, z=turn)
            ),
            covariance=covariance,
        ),
    )


def twists(poses: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
    """(T, 3) speed ahead, speed aside and turn rate in the robot's own frame."""
    rates = np.gradient(poses, (stamps_ns - stamps_ns[0]) / NANOSECONDS, axis=0)
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    return np.column_stack(
        [
            cos * rates[:, 0] + sin * rates[:, 1],
            cos * rates[:, 1] - sin * rates[:, 0],
            rates[:, 2],
        ]
    )


def messages(
    camera: Camera, trajectory: Trajectory, frames: Iterable[Frame], *, compressed: bool = False
) -> Iterator[tuple[str, int, Message]]:
    """Topic, stamp and message of the whole drive, in the order of time."""
    encode = compressed_message if compressed else image_message
    topic = COMPRESSED_TOPIC if compressed else IMAGE_TOPIC
    images = (
        message
        for frame in frames
        for message in (
            (topic, frame.stamp_ns, encode(frame)),
            (CAMERA_INFO_TOPIC, frame.stamp_ns, camera_info_message(camera, frame.stamp_ns)),
        )
    )
    yield from heapq.merge(odometry_messages(trajectory), images, key=lambda item: item[1])


def odometry_messages(trajectory: Trajectory) -> Iterator[tuple[str, int, Message]]:
    """Odometry and ground truth, alternating."""
    streams = [
        (ODOMETRY_TOPIC, 'odom', trajectory.odometry_poses, 0.05),
        (TRUTH_TOPIC, 'map', trajectory.true_poses, 0.001),
    ]
    speeds = [twists(poses, trajectory.stamps_ns) for _, _, poses, _ in streams]
    for row, stamp_ns in enumerate(trajectory.stamps_ns.tolist()):
        for (topic, frame_id, poses, deviation), speed in zip(streams, speeds, strict=True):
            yield (
                topic,
                stamp_ns,
                odometry_message(stamp_ns, frame_id, poses[row], speed[row], deviation),
            )


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raises BagError if something is at `path`, except a bag that may be overwritten."""
    if path.exists() and not overwrite:
        raise BagError(f'{path} exists already: choose another name or pass --overwrite')
    if path.exists() and not (path / 'metadata.yaml').is_file():
        raise BagError(f'{path} is not a rosbag2 folder, so it is not overwritten')


@contextmanager
def _finished_or_gone(path: Path, overwrite: bool) -> Iterator[Path]:
    """A path to write the bag to; the bag gets its final name only on success."""
    check_target(path, overwrite=overwrite)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = stack.enter_context(appearing(path))
        except OSError as error:
            raise BagError(f'cannot write to {path.parent}: {error.strerror}') from error
        yield unfinished  # the storage file is named after its folder


def write_bag(
    path: Path,
    camera: Camera,
    trajectory: Trajectory,
    frames: Iterable[Frame],
    *,
    storage: str = 'sqlite3',
    compressed: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes images, camera info, odometry and ground truth to the rosbag2 folder `path`.

    Raises BagError when `path` exists (see `overwrite`) or the storage is unknown. If the frames
    fail or the user interrupts, nothing is left behind.
    """
    if storage not in STORAGES:
        raise BagError(f'unknown storage {storage!r}: choose one of {", ".join(STORAGES)}')
    with (
        _finished_or_gone(path, overwrite) as unfinished,
        Writer(unfinished, version=BAG_VERSION, storage_plugin=STORAGES[storage]) as writer,
    ):
        put = _connect(writer)
        for message in messages(camera, trajectory, frames, compressed=compressed):
            put(*message)


def _connect(writer: Writer) -> Callable[[str, int, Message], None]:
    """A function that writes one message, and announces a topic before its first message."""
    connections: dict[str, Any] = {}

    def put(topic: str, stamp_ns: int, message: Message) -> None:
        name = message.__msgtype__
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, name, typestore=_STORE)
        writer.write(connections[topic], stamp_ns, _STORE.serialize_cdr(message, name))

    return put
