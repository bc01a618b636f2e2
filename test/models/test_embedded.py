"""The model that comes with the package."""

from __future__ import annotations

import torch

from selavpr_ros.models import load_model
from selavpr_ros.models.selavpr import SelaVPR


def test_it_loads_without_any_argument():
    model = load_model('embedded')
    assert isinstance(model, SelaVPR)
    assert model.model_id.startswith('embedded/')
    assert model.model_id.endswith('/area224x224')
    assert sum(parameter.numel() for parameter in model.parameters()) < 8e6
    descriptors = model(torch.zeros(1, 3, *model.image_size))
    assert descriptors.local_features.shape == (1, 61 * 61, 128)
    assert float(descriptors.global_descriptor.norm()) > 0.999


def test_it_says_what_it_was_measured_with():
    measured = load_model('embedded').operating_point
    assert 0 < measured.min_local_score < 1
    assert len(measured.provenance) > 20
