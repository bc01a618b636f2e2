"""CameraInfo and depth images as cameras send them."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from selavpr_ros.errors import ImageError
from selavpr_ros.images.camera import camera_from_info, depth_in_metres

K = [400.0, 0.0, 320.0, 0.0, 410.0, 240.0, 0.0, 0.0, 1.0]


def _info(**values) -> CameraInfo:
    return CameraInfo(**{'k': K, 'd': [0.1] * 5, 'distortion_model': 'plumb_bob', 'width': 640,
                         'height': 480, **values})


def _depth(values: np.ndarray, encoding: str, **changes) -> Image:
    message = Image(height=values.shape[0], width=values.shape[1], encoding=encoding,
                    step=values.shape[1] * values.itemsize, **changes)
    message.data.frombytes(values.tobytes())
    return message


def test_a_pinhole_camera():
    camera = camera_from_info(_info())
    assert camera.matrix.tolist() == [K[:3], K[3:6], K[6:]]
    assert (camera.size, camera.is_fisheye, camera.focal_px) == ((480, 640), False, 405.0)
    assert len(camera.distortion) == 5


@pytest.mark.parametrize(('given', 'kept'), [([], [0.0] * 4), ([1.0, 2.0, 3.0, 4.0, 5.0],
                                                            [1.0, 2.0, 3.0, 4.0])])
def test_a_fisheye_has_four_numbers(given, kept):
    camera = camera_from_info(_info(distortion_model='equidistant', d=given))
    assert camera.is_fisheye
    assert camera.distortion.tolist() == kept


def test_a_camera_that_nobody_calibrated_is_none():
    assert camera_from_info(_info(k=[0.0] * 9)) is None


def test_an_unknown_lens_is_refused():
    with pytest.raises(ImageError, match="the distortion model 'mirror': rectify the images"):
        camera_from_info(_info(distortion_model='mirror'))


def test_depth_in_metres_and_in_millimetres():
    metres = np.array([[1.5, np.nan], [0.0, 20.0]], np.float32)
    assert np.array_equal(depth_in_metres(_depth(metres, '32FC1')), metres, equal_nan=True)
    millimetres = _depth(np.array([[1500, 0]], np.uint16), '16UC1')
    assert depth_in_metres(millimetres) == pytest.approx(np.array([[1.5, 0.0]]))
    big = _depth(np.array([[1500]], '>u2'), '16UC1', is_bigendian=1)
    assert depth_in_metres(big) == pytest.approx(np.array([[1.5]]))


def test_padded_rows():
    message = _depth(np.array([[1000, 2000, 9, 9], [3000, 4000, 9, 9]], np.uint16), '16UC1')
    message.width = 2
    assert depth_in_metres(message) == pytest.approx(np.array([[1.0, 2.0], [3.0, 4.0]]))


def test_what_is_no_depth_is_refused():
    with pytest.raises(ImageError, match="depth has the encoding 'rgb8', not 32FC1 or 16UC1"):
        depth_in_metres(_depth(np.zeros((2, 2), np.uint16), 'rgb8'))
    short = _depth(np.zeros((2, 2), np.uint16), '16UC1')
    short.height = 3
    with pytest.raises(ImageError, match='depth of 2x3 pixels has 8 bytes in rows of 4'):
        depth_in_metres(short)
