"""Stage 1 against the published resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selavpr_ros.errors import ImageError, SettingError
from selavpr_ros.images.preprocess import RESIZES, denormalise, normalise, preprocess


@pytest.mark.parametrize(('variant', 'resize'), [
    ('eval_tensor_noantialias', 'stretch'), ('eval_tensor_antialias', 'area'),
    ('train_pil', 'pillow')])
@pytest.mark.parametrize('size', [(56, 56), (112, 112)])
def test_equals_the_published_resize(shared, variant, resize, size):
    golden = torch.load(shared / 'goldens' / 'preprocess.pt', weights_only=False)
    image = golden['image_u8'][0].permute(1, 2, 0).numpy()
    expected = golden['outputs'][str(size)][variant][0]
    torch.testing.assert_close(preprocess(image, size, resize), expected, atol=5e-6, rtol=0)


def test_known_answer_without_resize():
    image = np.full((2, 2, 3), (255, 0, 51), np.uint8)
    result = preprocess(image, (2, 2))
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(result[:, 0, 0].numpy(), expected, rtol=1e-6)


def test_no_antialias_picks_pixels_and_antialias_averages():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::4] = 255  # columns 0 and 4 of 8; bilinear at quarter size looks at 1, 2, 5, 6
    assert float(denormalise(preprocess(stripes, (2, 2))).max()) == pytest.approx(0, abs=1e-3)
    assert float(denormalise(preprocess(stripes, (2, 2), 'area')).min()) > 30


def test_normalise_and_back():
    images = torch.rand(2, 3, 4, 5) * 255
    torch.testing.assert_close(denormalise(normalise(images)), images, atol=1e-4, rtol=0)


def test_a_resize_that_nobody_knows():
    with pytest.raises(SettingError, match="resize 'cubic' is none of stretch, area, pillow"):
        preprocess(np.zeros((4, 4, 3), np.uint8), (2, 2), 'cubic')


def test_read_only_images_are_taken(recwarn):
    image = np.zeros((4, 4, 3), np.uint8)
    image.setflags(write=False)
    for resize in RESIZES:
        preprocess(image, (2, 2), resize)
    assert not recwarn.list


@pytest.mark.parametrize('image', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8),
    np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_rgb_image_is_refused(image):
    with pytest.raises(ImageError, match='uint8 RGB image, got'):
        preprocess(image, (14, 14))
