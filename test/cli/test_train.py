import numpy as np
import pytest
import torch
from bags import write_image_bag
from training_sets import TINY, picture, write_walks

from selavpr_ros.cli.main import main
from selavpr_ros.models import load_model
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.pose import Pose
from selavpr_ros.training.run import write_weights

RECIPE = """
data: [{path: walk}]
held_out: [{path: held_out}]
architecture: {family: selavpr, width: 32, depth: 1, num_heads: 2, adapter_hidden: 8,
               local_hidden: 8, local_dim: 8}
image_size: [56, 56]
method: views
rules: {positive_m: 5, negative_m: 15}
rounds: 1
batches: 2
batch: 2
points: 16
"""


@pytest.fixture
def recipe(tmp_path):
    write_walks(tmp_path)
    (tmp_path / 'small.yaml').write_text(RECIPE)
    return tmp_path / 'small.yaml'


def train(*words):
    return main(['train', *map(str, words), '--device', 'cpu'])


def test_a_recipe_gives_weights_that_load(recipe, tmp_path, capsys):
    assert train(recipe, '--data', tmp_path, '-o', tmp_path / 'run') == 0
    assert 'small.safetensors after 2 steps' in capsys.readouterr().out
    assert load_model(tmp_path / 'run' / 'small.safetensors').family == 'selavpr'


def test_another_seed_gives_other_weights(recipe, tmp_path):
    for seed in (1, 2):
        train(recipe, '--data', tmp_path, '-o', tmp_path / str(seed), '--seed', seed)
    one, other = (load_model(tmp_path / name / 'small.safetensors') for name in '12')
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(('line', 'complaint'), [
    ('methd: views', "no setting 'methd'"),
    ('method: magic', "method 'magic' is none of triplets"),
    ('batch: 0', 'batch = 0: at least 1'),
    ('weights: embedded', 'weights and architecture: the weights have one'),
])
def test_a_wrong_recipe_is_one_line(recipe, tmp_path, capsys, line, complaint):
    name = line.partition(':')[0]
    lines = [text for text in RECIPE.splitlines() if not text.startswith(f'{name}:')]
    recipe.write_text('\n'.join([*lines, line]))
    assert train(recipe, '--data', tmp_path, '-o', tmp_path / 'run') == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(('words', 'complaint'), [
    ([], 'give either a recipe or --adapt'),
    (['recipe.yaml'], 'needs --output'),
    (['--adapt', 'x.bag'], '--adapt needs --weights'),
    (['no.yaml', '-o', 'run'], 'no.yaml: cannot be read'),
    (['--adapt', 'no.bag', '--weights', 'hog'], 'no adapters or heads'),
    (['--adapt', 'no.bag', '--weights', 'embedded'], 'no.bag does not exist'),
])
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert train(*words) == 1
    assert complaint in capsys.readouterr().err


def test_a_site_is_adapted_to_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = SelaVPR(**{key: size for key, size in TINY.items() if key != 'family'})
    model.image_size, model.resize = (56, 56), 'area'
    write_weights(model, tmp_path / 'start.safetensors', {}, half=False)
    rng = np.random.default_rng(0)
    pictures = [picture(rng) for _ in range(40)]
    second = 1_000_000_000
    write_image_bag(
        tmp_path / 'site', [(i * second, pictures[i % 40]) for i in range(80)],
        odometry=[(i * second, Pose.planar(10.0 * (i % 40), 0, 0)) for i in range(80)])
    words = ['--adapt', 'site', '--weights', 'start.safetensors', '--positive', 5, '--negative',
             15, '--rounds', 1, '--batches', 2]
    assert train(*words) == 0
    told = capsys.readouterr().out
    assert 'images trained on' in told
    assert 'before: recall@1' in told
    assert ('written: start_site.safetensors' in told) == (
        tmp_path / 'start_site.safetensors').exists()
