"""The model that comes with the package."""

from __future__ import annotations

import torch

from selavpr_ros.images.compressed import read_image
from selavpr_ros.images.preprocess import preprocess
from selavpr_ros.models import load_model
from selavpr_ros.models.families.selavpr import SelaVPR


def test_it_loads_without_any_argument():
    model = load_model('embedded')
    assert isinstance(model, SelaVPR)
    assert model.model_id.startswith('embedded/')
    assert model.model_id.endswith('/area224x224')
    assert sum(parameter.numel() for parameter in model.parameters()) < 8e6
    descriptors = model(torch.zeros(1, 3, *model.image_size))
    assert descriptors.local_features.shape == (1, 31 * 31, 128)
    assert model.max_local_features == 31 * 31
    assert float(descriptors.global_descriptor.norm()) > 0.999


def test_it_finds_places(shared):
    """A quarter of Gardens Point; all of it is in docs/comparison.md."""
    left, right = (shared / 'data' / 'gardenspoint' / side for side in ('day_left', 'day_right'))
    database = sorted(left.iterdir())[::4]
    queries = sorted(right.iterdir())[::4]
    rows = []
    model = load_model('embedded')
    for paths in (database, queries):
        images = [preprocess(read_image(path), model.image_size, model.resize) for path in paths]
        with torch.inference_mode():
            rows.append(torch.cat([model(image[None]).global_descriptor for image in images]))
    found = (rows[1] @ rows[0].T).argmax(dim=1)
    assert (found == torch.arange(len(queries))).float().mean() > 0.75
