"""16 bit that is not filled: thermal cameras, and those of 10, 12 and 14 bit."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.errors import DepthError
from selavpr_ros.images.sixteen_bit import KEPT, SteadyRange, refuse_depth

RNG = np.random.default_rng(5)
SCENE = RNG.random((60, 80, 1))  # what the camera looks at, from 0 to 1
WANTED = np.clip((SCENE - 0.01) / 0.98, 0, 1) * 255  # with a hundredth at either end cut off


def values(low=7200, width=1000, scene=SCENE):
    return (low + width * scene).astype(np.uint16)


def apart(image, other=WANTED):
    """Mean difference in grey levels."""
    return np.abs(image.astype(float) - other).mean()


@pytest.mark.parametrize(('low', 'width'), [
    (7200, 1000), (29000, 300), (64, 960), (100, 3900), (200, 16000)])
def test_a_part_of_the_range_becomes_black_to_white(low, width):
    image = SteadyRange().to_eight_bit(values(low, width))
    assert image.dtype == np.uint8
    assert image.shape == SCENE.shape
    assert apart(image) < 4


@pytest.mark.parametrize('channels', [1, 3])
def test_values_that_fill_16_bits_keep_their_high_byte(channels):
    filled = RNG.integers(0, 2**16, (60, 80, channels), dtype=np.uint16)
    assert np.array_equal(SteadyRange().to_eight_bit(filled), filled >> 8)


def test_there_is_no_jump_between_a_part_and_all_of_it():
    images = [SteadyRange().to_eight_bit(values(0, width)) for width in range(8192, 65536, 128)]
    assert max(map(apart, images, images[1:])) < 4


def test_the_range_follows_a_camera_that_warms_up():
    steady = SteadyRange()
    images = [steady.to_eight_bit(values(7200 + 5 * number)) for number in range(400)]
    assert apart(images[-1], images[0]) < 25  # grey levels; the values are 2000 apart
    assert max(map(apart, images, images[1:])) < 4


def test_a_hot_object_that_passes_does_not_change_the_rest():
    steady = SteadyRange()
    before = [steady.to_eight_bit(values()) for _ in range(8)][-1]
    hot = values()
    hot[:, :16] = 15000  # a fifth of the image
    image = steady.to_eight_bit(hot)
    assert (image[:, :16] == 255).all()
    assert np.array_equal(image[:, 16:], before[:, 16:])
    assert np.array_equal(steady.to_eight_bit(values()), before)


def test_a_shutter_correction_is_followed_at_once():
    steady = SteadyRange()
    before = [steady.to_eight_bit(values(7200)) for _ in range(2 * KEPT)][-1]
    after = [steady.to_eight_bit(values(7900)) for _ in range(2 * KEPT)]
    assert all(apart(image, before) < 2 for image in after)


def test_a_closed_shutter_spoils_no_image_after_it():
    steady = SteadyRange()
    before = [steady.to_eight_bit(values()) for _ in range(4)][-1]
    steady.to_eight_bit(np.full((60, 80, 1), 3000, np.uint16))
    assert apart(steady.to_eight_bit(values()), before) < 2


def test_noise_is_not_made_a_picture():
    wall = 8000 + RNG.integers(0, 4, (60, 80, 1)).astype(np.uint16)
    image = SteadyRange().to_eight_bit(wall)
    assert np.ptp(image) < 30
    assert 100 < image.mean() < 156


def test_a_view_of_little_contrast_keeps_little():
    steady = SteadyRange()
    for _ in range(8):
        steady.to_eight_bit(values())
    assert np.ptp(steady.to_eight_bit(values(7600, 100))) < 30


def test_the_black_border_of_a_rectified_image_does_not_count():
    bordered = values()
    bordered[:, :30] = 0
    image = SteadyRange().to_eight_bit(bordered)
    assert (image[:, :30] == 0).all()
    assert apart(image[:, 30:], WANTED[:, 30:]) < 4


def test_an_image_of_nothing_is_black():
    assert not SteadyRange().to_eight_bit(np.zeros((4, 6, 1), np.uint16)).any()


def test_alpha_is_not_looked_at():
    coloured = np.dstack((values(), values(), values(), np.full((60, 80), 65535, np.uint16)))
    image = SteadyRange().to_eight_bit(coloured)
    assert apart(image[..., :1]) < 4


def test_a_large_image_is_looked_at_in_all_colours_of_its_mosaic():
    mosaic = np.tile(np.array([[100, 400], [400, 1000]], np.uint16), (400, 500))[..., None]
    image = SteadyRange().to_eight_bit(mosaic)
    assert image[0, 0, 0] < 5
    assert image[1, 1, 0] > 250


# ---- depth -----------------------------------------------------------------------------------


def test_depth_is_known_by_its_holes():
    depth = values(400, 5000)
    refuse_depth(depth)
    depth[20:30, 10:40] = 0
    with pytest.raises(DepthError, match='16UC1 image is depth: 6% of its pixels are 0.*'
                       'image.encoding_override to mono16'):
        refuse_depth(depth)


@pytest.mark.parametrize('image', [
    values(), values(0, 1000), np.zeros((9, 9, 1), np.uint16),
    (RNG.exponential(20, (60, 80, 1))).astype(np.uint16)])
def test_what_a_camera_sees_has_no_holes(image):
    refuse_depth(image)
