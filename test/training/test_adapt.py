import numpy as np
import pytest
import torch
from bags import write_image_bag
from training_sets import TINY, picture

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.pose import Pose
from selavpr_ros.training.adapt import adapt, site_recipe, split_by_place
from selavpr_ros.training.data import Rules, Walk
from selavpr_ros.training.run import write_weights
from selavpr_ros.training.sources import Source

PLACES, SPACING_M, SECOND_NS = 40, 10.0, 1_000_000_000
RULES = Rules(positive_m=5.0, negative_m=15.0)
SCHEDULE = {'positive_m': 5.0, 'negative_m': 15.0, 'rounds': 3, 'batches': 12, 'patience': 0,
            'pool': 40}


def walk_along(xs_m, poses=True):
    known = np.array([(x, 0.0, 0.0) for x in xs_m]) if poses else None
    return Walk([lambda: None] * len(xs_m), 'walk', 'drive.bag', known)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """Two laps along a straight way, the second one darker and half a metre beside."""
    rng = np.random.default_rng(0)
    pictures = [picture(rng) for _ in range(PLACES)]
    images = [(i * SECOND_NS, (pictures[i % PLACES] * (1.0 if i < PLACES else 0.6)).astype('u1'))
              for i in range(2 * PLACES)]
    poses = [(i * SECOND_NS, Pose.planar(SPACING_M * (i % PLACES), 0.5 * (i // PLACES), 0.0))
             for i in range(2 * PLACES)]
    path = tmp_path_factory.mktemp('bags') / 'site'
    return write_image_bag(path, images, odometry=poses)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = SelaVPR(**{key: size for key, size in TINY.items() if key != 'family'})
    model.image_size, model.resize = (56, 56), 'area'
    write_weights(model, tmp_path / 'start.safetensors', {}, half=False)
    return str(tmp_path / 'start.safetensors')


def run(bag, weights, target, **changes):
    recipe = site_recipe(weights, **{**SCHEDULE, 'learning_rate': 3e-3, **changes})
    return adapt([Source(str(bag), 'bag')], recipe, target, target.with_suffix('.work'), 'cpu')


def test_places_of_validation_are_not_trained_on_whenever_they_are_visited():
    xs = [*np.arange(0, 300, 5.0), *np.arange(0, 300, 5.0)]
    training, held_out = split_by_place(walk_along(xs), RULES)
    apart = np.abs(training.poses[:, None, 0] - held_out.poses[None, :, 0])
    assert apart.min() > RULES.positive_m
    assert len(np.unique(held_out.poses[:, 0])) * 2 == len(held_out.poses)  # both visits
    assert 0.15 < len(held_out.images) / len(xs) < 0.35
    assert len(training.images) == len(training.poses)


def test_without_poses_the_end_is_for_validation():
    training, held_out = split_by_place(walk_along(range(40), poses=False), RULES)
    assert (len(training.images), len(held_out.images)) == (30, 10)


def test_a_short_drive_is_refused_with_the_numbers():
    with pytest.raises(SettingError, match=r'drive.bag: its 6 images leave 6 to train on and 0'):
        split_by_place(walk_along(range(6)), RULES)


def test_an_adapted_model_is_better_at_places_that_it_was_not_trained_on(bag, weights, tmp_path):
    target = tmp_path / 'site.safetensors'
    result = run(bag, weights, target)
    assert result.is_better
    assert result.after['recall@1'] >= result.before['recall@1']
    adapted, start = load_model(target), load_model(weights)
    assert adapted.image_size == (56, 56)
    assert adapted.model_id != start.model_id
    # Adapters and heads alone were trained.
    changed = {name for name, tensor in adapted.state_dict().items()
               if not torch.equal(tensor, start.state_dict()[name])}
    assert changed
    assert all('.adapter.' in n or not n.startswith('backbone.') for n in changed)


def test_a_model_that_became_no_better_is_not_written(bag, weights, tmp_path):
    target = tmp_path / 'site.safetensors'
    result = run(bag, weights, target, learning_rate=1e-12, rounds=1)
    assert not result.is_better
    assert not target.exists()


def test_a_better_model_is_not_overwritten(bag, weights, tmp_path):
    target = tmp_path / 'site.safetensors'
    run(bag, weights, target)
    before = target.read_bytes()
    with pytest.raises(CheckpointError, match='as good or better'):
        run(bag, weights, target)
    assert target.read_bytes() == before


def test_a_model_without_adapters_is_refused():
    with pytest.raises(SettingError, match="'hog' is hog, which has no adapters"):
        site_recipe('hog')
