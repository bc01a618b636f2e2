from __future__ import annotations

import numpy as np

from selavpr_ros.images.camera import Camera
from selavpr_ros.matching.query import Context

CAMERA = Camera(np.array([[300.0, 0.0, 160.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]]),
                np.zeros(5), size=(240, 320))


def test_a_camera_is_scaled_to_the_images():
    context = Context(camera=CAMERA).for_images_of((480, 640))
    assert context.camera.matrix[0, 0] == 600.0
    assert context.calibration_error is None


def test_a_camera_of_other_images_is_left_out_with_the_reason():
    context = Context(pose_frame='odom', camera=CAMERA).for_images_of((320, 240))
    assert context.camera is None
    assert 'the images have 240x320' in str(context.calibration_error)
    assert context.pose_frame == 'odom'


def test_without_a_camera_nothing_is_wrong():
    assert Context().for_images_of((480, 640)) == Context()
