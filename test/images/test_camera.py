"""CameraInfo and depth images as cameras send them."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest

from selavpr_ros.errors import CalibrationError, ImageError, UncalibratedError
from selavpr_ros.images.camera import camera_from_info, depth_in_metres, is_rectified

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


@pytest.mark.parametrize(('model', 'given', 'kept'), [
    ('equidistant', [], [0.0] * 4),
    ('fisheye', [0.1, 0.01, 0.0, 0.0, 0.0], [0.1, 0.01, 0.0, 0.0]),
    ('plumb_bob', [], [0.0] * 4),
    ('plumb_bob', [-0.2, 0.1, 0.001], [-0.2, 0.1, 0.001, 0.0]),
    ('plumb_bob', [-0.2, 0.1, 0.0, 0.0, 0.02, 0.0, 0.0, 0.0], [-0.2, 0.1, 0.0, 0.0, 0.02]),
    ('plumb_bob', [0.1, 0.1, 0.0, 0.0, 0.01, 0.2], [0.1, 0.1, 0.0, 0.0, 0.01, 0.2, 0.0, 0.0]),
    ('rational_polynomial', [0.1] + [0.0] * 19, [0.1, 0.0, 0.0, 0.0]),
    ('Plumb_Bob', [-0.2, 0.1, 0.0, 0.0, 0.0], [-0.2, 0.1, 0.0, 0.0])])
def test_d_has_a_length_that_its_model_has(model, given, kept):
    camera = camera_from_info(_info(distortion_model=model, d=given))
    assert camera.is_fisheye == (model in ('equidistant', 'fisheye'))
    assert camera.distortion.tolist() == kept
    assert np.isfinite(camera.undistort(np.array([[0.0, 0.0], [640.0, 480.0]]))).all()


@pytest.mark.parametrize(('changes', 'words'), [
    ({'k': [np.nan, *K[1:]]}, 'K is .*nan.* not finite'),
    ({'k': [np.inf, *K[1:]]}, 'not finite'),
    ({'k': [-400.0, *K[1:]]}, 'with positive numbers'),
    ({'k': [*K[:4], 0.0, *K[5:]]}, 'with positive numbers'),
    ({'k': np.reshape(K, (3, 3)).T.ravel()}, 'not fx, 0, cx'),
    ({'k': [400.0, 0.0, 0.0, 0.0, 410.0, 0.0, 0.0, 0.0, 1.0]}, 'not fx, 0, cx'),
    ({'k': [0.6, 0.0, 0.5, 0.0, 0.8, 0.5, 0.0, 0.0, 1.0]}, 'focal length of 0.7 pixels is imp'),
    ({'k': [1200.0, 0.0, 960.0, 0.0, 1200.0, 540.0, 0.0, 0.0, 1.0]}, 'for another size'),
    ({'d': [np.nan] * 5}, 'D is .*nan.* not finite'),
    ({'d': [1e3, -1e3, 0.0, 0.0, 1e3]}, 'folds the image'),
    ({'d': [-5.0, 3.0, 1.0, 1.0], 'distortion_model': 'equidistant'}, 'folds the image'),
    ({'d': [0.1] * 15}, 'D has 15 numbers'),
    ({'d': [0.1] * 5, 'distortion_model': 'equidistant'}, "model 'equidistant' has at most 4"),
    ({'distortion_model': 'mirror'}, "the distortion model 'mirror': rectify the images"),
    ({'roi': RegionOfInterest(x_offset=400, width=320, height=480)}, 'is not within the 640x480'),
])
def test_what_cannot_be_a_calibration_is_refused_with_its_reason(changes, words):
    with pytest.raises(CalibrationError, match=words):
        camera_from_info(_info(**changes))


def test_a_camera_that_nobody_calibrated_is_no_fault():
    with pytest.raises(UncalibratedError, match='K is zero: the camera is not calibrated'):
        camera_from_info(_info(k=[0.0] * 9, d=[], distortion_model=''))


def test_binning_halves_the_matrix():
    camera = camera_from_info(_info(binning_x=2, binning_y=2))
    assert camera.size == (240, 320)
    assert camera.matrix[:2].tolist() == [[200.0, 0.0, 160.0], [0.0, 205.0, 120.0]]
    for size in ((240, 320), (480, 640)):  # the second one: a driver that does not bin
        assert camera.scaled_to(size).matrix[0, 0] == 400.0 * size[1] / 640


def test_a_region_of_interest_moves_the_centre():
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=400, height=300)
    camera = camera_from_info(_info(roi=roi, binning_x=2, binning_y=2))
    assert camera.size == (150, 200)
    assert camera.matrix[:2, 2].tolist() == [110.0, 100.0]
    with pytest.raises(CalibrationError, match='a region of interest of images of 200x150'):
        camera.scaled_to((480, 640))


def test_a_calibration_for_another_size_is_scaled_if_the_shape_is_the_same():
    camera = camera_from_info(_info())
    assert camera.scaled_to((960, 1280)).matrix[:2].tolist() == [
        [800.0, 0.0, 640.0], [0.0, 820.0, 480.0]]
    assert camera.scaled_to((97, 129)).size == (97, 129)  # rounded
    with pytest.raises(CalibrationError, match='for images of 640x480 pixels, but the images have '
                                               '1280x720'):
        camera.scaled_to((720, 1280))


def test_a_calibration_without_a_size_is_taken_for_the_images_that_come():
    camera = camera_from_info(_info(width=0, height=0))
    assert camera.scaled_to((480, 640)).matrix.tolist() == camera.matrix.tolist()
    with pytest.raises(CalibrationError, match='for another size'):
        camera.scaled_to((120, 160))


P = [300.0, 0.0, 310.0, 0.0, 0.0, 300.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_rectified_images_go_by_p_without_distortion():
    raw = {'p': P, 'd': [0.1] * 5, 'distortion_model': 'mirror'}
    camera = camera_from_info(_info(**raw), rectified=True)
    assert camera.matrix.tolist() == [[300.0, 0.0, 310.0], [0.0, 300.0, 230.0], [0.0, 0.0, 1.0]]
    assert not camera.distortion.any()
    fisheye = camera_from_info(_info(p=P, d=[0.1] * 4, distortion_model='fisheye'), rectified=True)
    assert not fisheye.is_fisheye
    own = camera_from_info(_info(d=[0.0] * 5), rectified=True)  # of the rectified images, no P
    assert own.matrix[0, 0] == 400.0
    with pytest.raises(CalibrationError, match='the images are rectified, but P is zero'):
        camera_from_info(_info(), rectified=True)


@pytest.mark.parametrize(('topic', 'expected'), [
    ('/camera/image_rect', True), ('/left/image_rect_color/compressed', True),
    ('/zed/zed_node/rgb/color/rect/image', True), ('/a/image_rectified', True),
    ('/camera/infra1/image_rect_raw', True), ('/camera/image_raw', False),
    ('/direct/image', False), ('/corrected/image', False), ('/rectangle/image', False)])
def test_the_topic_tells_whether_images_are_rectified(topic, expected):
    assert is_rectified(topic) is expected


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
    with pytest.raises(ImageError, match='no pixels'):
        depth_in_metres(_depth(np.zeros((0, 0), np.uint16), '16UC1'))
    short = _depth(np.zeros((2, 2), np.uint16), '16UC1')
    short.height = 3
    with pytest.raises(ImageError, match='depth of 2x3 pixels has 8 bytes in rows of 4'):
        depth_in_metres(short)
