"""CameraInfo and depth images over DDS."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from live import SECOND, raw_message, wait_until
from sensor_msgs.msg import CameraInfo, Image

from selavpr_msgs.msg import VprStatus
from selavpr_ros.ros.camera import CameraInbox
from selavpr_ros.ros.conversions import ns_to_stamp


def _depth(values: np.ndarray, encoding: str, stamp_ns: int = 0, **changes) -> Image:
    message = Image(height=values.shape[0], width=values.shape[1], encoding=encoding,
                    step=values.shape[1] * values.itemsize, **changes)
    message.data.frombytes(values.tobytes())
    message.header.stamp = ns_to_stamp(stamp_ns)
    return message


def test_depth_is_found_by_the_stamp_of_its_image():
    inbox = CameraInbox()
    assert inbox.depth_at(SECOND) is None
    for second in (1, 2):
        inbox.put_depth(_depth(np.full((1, 1), second, np.float32), '32FC1', second * SECOND))
    assert inbox.depth_at(2 * SECOND + 5_000_000).tolist() == [[2.0]]
    assert inbox.depth_at(SECOND + SECOND // 2) is None


def _place_from(depth_m: float) -> np.ndarray:
    """(240, 320, 3): a wall with a picture, 5 m away, or nearer."""
    wall = np.full((240, 320, 3), 128, np.uint8)
    random = np.random.default_rng(4)
    for _ in range(40):
        corner, colour = random.integers(0, (280, 200), 2), random.integers(0, 256, 3)
        cv2.rectangle(wall, corner.tolist(), (corner + random.integers(15, 60, 2)).tolist(),
                      colour.tolist(), -1)
    zoom = cv2.getRotationMatrix2D((160.0, 120.0), 0.0, 5.0 / depth_m)
    return cv2.warpAffine(wall, zoom, (320, 240), borderMode=cv2.BORDER_REFLECT)


def test_depth_tells_how_far_the_robot_is_from_the_keyframe(listener, eager):
    mount = [0.3, 0.0, 1.0, -0.5, 0.5, -0.5, 0.5]  # it looks ahead
    node = eager(verify__geometry='pnp', frames__base_to_camera=mount, gates__min_inlier_share=0.2)
    listener.wait_for_state(VprStatus.ACTIVE)
    info = CameraInfo(k=[250.0, 0.0, 160.0, 0.0, 250.0, 120.0, 0.0, 0.0, 1.0], width=320,
                      height=240, distortion_model='plumb_bob', d=[0.0] * 5)
    listener.insist(lambda: listener.send('/camera_info', info),
                    lambda: node._configured.camera.camera, 'the camera')
    for second, depth_m in ((1, 5.0), (2, 4.5)):
        depth = np.full((240, 320), depth_m, np.float32)
        listener.send('/depth', _depth(depth, '32FC1', second * SECOND))
        time.sleep(0.3)  # the depth of a camera comes with its image
        listener.send('/image', raw_message(_place_from(depth_m), second * SECOND))
        listener.wait_for_candidates(second)
    match, = listener.candidates[-1].matches
    assert match.has_relative_pose
    assert match.has_scale
    assert match.inliers >= 12
    at = match.match_t_query.pose.position
    assert (at.x, at.y, at.z) == pytest.approx((0.0, 0.0, 0.5), abs=0.25)  # ahead of the keyframe
    assert match.match_t_query.pose.orientation.w > 0.99
    assert match.match_t_query.covariance[14] > 0.0
    edge, = wait_until(lambda: listener.received['closures'], 'a loop closure')
    assert edge.has_transform
    ahead = edge.from_t_to.pose.position
    assert (ahead.x, ahead.y, ahead.z) == pytest.approx((at.z, -at.x, -at.y), abs=0.2)
    keyframe = listener.received['keyframes'][0]
    assert keyframe.base_to_camera.translation.z == 1.0
    assert keyframe.base_to_camera.rotation.w == 0.5
