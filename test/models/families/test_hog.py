"""The baseline without weights."""

from __future__ import annotations

import pytest
import torch
from models_support import assert_positions_are_true

from selavpr_ros.images.preprocess import normalise
from selavpr_ros.models import load_model
from selavpr_ros.models.families.hog import hysteresis, orientation_cells


def test_shapes_and_unit_rows():
    descriptors = load_model('hog')(normalise(torch.rand(2, 3, 240, 320) * 255))
    assert descriptors.global_descriptor.shape == (2, 8 * 6 * 8)
    assert descriptors.local_features.shape == (2, 999, 128)
    torch.testing.assert_close(descriptors.global_descriptor.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(descriptors.local_features.norm(dim=2), torch.ones(2, 999))


def test_an_edge_votes_for_its_gradient_direction():
    upright = torch.zeros(1, 32, 32)
    upright[:, :, 16:] = 100  # the gradient points along x: orientation 0
    lying = upright.transpose(1, 2)  # along y: orientation 4 of 8
    assert orientation_cells(upright).sum(dim=(2, 3)).argmax() == 0
    assert orientation_cells(lying).sum(dim=(2, 3)).argmax() == 4


def test_contrast_and_sign_do_not_matter():
    grey = torch.rand(1, 1, 240, 320)
    model = load_model('hog')
    plain, weak, inverted = (
        model(normalise(image.expand(1, 3, -1, -1))).global_descriptor
        for image in (grey * 200, grey * 50 + 100, 200 - grey * 200))
    torch.testing.assert_close(plain, weak, atol=1e-4, rtol=0)
    torch.testing.assert_close(plain, inverted, atol=1e-4, rtol=0)


def test_black_image_gives_zeros_and_no_nan():
    descriptors = load_model('hog')(normalise(torch.zeros(1, 3, 240, 320)))
    assert torch.isfinite(descriptors.local_features).all()
    assert float(descriptors.global_descriptor.norm()) < 1e-3


def test_stripes_do_not_overflow_in_float16():
    stripes = torch.zeros(1, 3, 240, 320)
    stripes[..., ::4] = stripes[..., 1::4] = 255
    model = load_model('hog', dtype=torch.float16)
    descriptors = model(normalise(stripes).half())
    assert descriptors.global_descriptor.dtype == torch.float32
    torch.testing.assert_close(descriptors.global_descriptor.norm(), torch.tensor(1.0))


def test_hysteresis_limits_what_dominates():
    vector = hysteresis(torch.tensor([10.0, 1.0, 1.0]), clip=0.2)
    # 10/sqrt(102) is clipped to 0.2; the others stay 0.0990: 0.2 / sqrt(0.2^2 + 2 * 0.099^2)
    assert float(vector[0]) == pytest.approx(0.8192, abs=1e-3)


def test_model_id_names_recipe_and_preprocessing():
    name, fingerprint, resize = load_model('hog').model_id.split('/')
    assert (name, len(fingerprint), resize) == ('hog', 12, 'area240x320')


def test_other_sizes():
    model = load_model('hog', image_size=(120, 160))
    features = model(torch.zeros(1, 3, 120, 160)).local_features
    assert features.shape[1] == model.max_local_features == 12 * 17
    assert load_model('hog').max_local_features == 999


def test_local_features_are_where_they_are_told_to_be():
    assert_positions_are_true(load_model('hog'))
