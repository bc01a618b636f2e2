import json

import numpy as np
import pytest
import torch

from selavpr_ros.models import load_model
from selavpr_ros.models.base import Descriptors
from selavpr_ros.training.data import Folder, Places, Walk
from selavpr_ros.training.recipe import ARCHITECTURE, Recipe, Stage, load_recipe
from selavpr_ros.training.train import Trainer, corresponding_features, export, learning_rate
from selavpr_ros.training.views import Views, pixel_grid, random_homographies

STAGE = Stage(minutes=1, side=56, places=4, learning_rate=1e-3)


@pytest.fixture
def places():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 256, 256), dtype=np.uint8)
    walks = [Walk(('x',) * 4, 'walk', str(number)) for number in range(3)]
    return Places(walks, images, same_within=1, other_beyond=2)


@pytest.fixture
def recipe():
    small = {**ARCHITECTURE, 'depth': 4, 'local_hidden': 16}
    return Recipe(folders=[], stages=[STAGE], architecture=small, points=16)


def steps(trainer, count):
    batches = trainer.places.batches(STAGE.places, trainer.generator)
    for _ in range(count):
        trainer.progress.seconds += 1  # not the clock's, so that runs can be compared
        trainer.log.append(trainer.step(next(batches), STAGE))
    return trainer.log


def test_a_resumed_training_goes_on_exactly(places, recipe, tmp_path):
    whole = steps(Trainer(recipe, places, tmp_path), 4)
    first = Trainer(recipe, places, tmp_path)
    steps(first, 2)
    first.save()
    second = Trainer(recipe, places, tmp_path)
    second.resume()
    assert steps(second, 2) == whole


def test_exported_weights_load(places, recipe, tmp_path):
    trainer = Trainer(recipe, places, tmp_path)
    export(trainer.model, tmp_path / 'small.safetensors', {'name': 'small'})
    model = load_model(tmp_path / 'small.safetensors')
    assert model.image_size == (224, 224)
    assert model.resize == 'area'
    assert model.model_id.startswith('small/')


def test_counterparts_are_taken_from_the_same_spot_of_the_source(recipe):
    """Features that are the source's coordinates must agree between two views."""
    side, grid = 112, 29
    homographies = random_homographies(2, 1.0, torch.Generator().manual_seed(0))
    at = (pixel_grid(grid) * grid / (grid - 1) * (1 - 14 / side)).expand(2, -1, -1)
    source = torch.nn.functional.pad(at, (0, 1), value=1.0) @ homographies.mT
    source = torch.nn.functional.normalize(source, dim=-1)
    views = Views(
        torch.zeros(2, 3, side, side),
        torch.zeros(2, 3, side, side),
        homographies,
        torch.tensor([True]),
        torch.zeros(1, 1, dtype=torch.bool),
    )
    query, match, alike = corresponding_features(
        Descriptors(torch.zeros(2, 1), source), views, recipe, torch.Generator().manual_seed(1)
    )
    assert len(query) > 4
    assert alike.shape == (len(query), len(query))
    assert alike.diagonal().all()
    torch.testing.assert_close(query, match, atol=2e-3, rtol=0)


def test_learning_rate_warms_up_and_ends_low():
    rates = [learning_rate(STAGE, progress) for progress in (0, 0.03, 0.5, 1)]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(1e-3, rel=0.01)
    assert rates[3] == pytest.approx(2e-5)


def test_a_recipe_is_read_from_json(tmp_path):
    content = {
        'folders': [{'path': 'walks', 'kind': 'walk'}],
        'stages': [{'minutes': 1, 'side': 56, 'places': 4, 'learning_rate': 0.001}],
        'seed': 3,
    }
    (tmp_path / 'recipe.json').write_text(json.dumps(content))
    recipe = load_recipe(tmp_path / 'recipe.json')
    assert recipe == Recipe([Folder('walks', 'walk')], [STAGE], seed=3)
