"""A YAML file -> a recipe, or one line that says what is wrong with it."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

import selavpr_ros
from selavpr_ros.errors import SettingError
from selavpr_ros.training.data import Rules
from selavpr_ros.training.recipe import Recipe, load_recipe, make_recipe, with_seed
from selavpr_ros.training.sources import Source

PACKAGE = Path(selavpr_ros.__file__).parent


def read(tmp_path, text):
    (tmp_path / 'r.yaml').write_text(text)
    return load_recipe(tmp_path / 'r.yaml')


def test_the_defaults_are_selavprs_as_published():
    recipe = Recipe()
    assert (recipe.method, recipe.optimizer, recipe.learning_rate) == ('triplets', 'adamw', 1e-5)
    assert (recipe.weight_decay, recipe.schedule, recipe.precision) == (0.0, 'constant', 'fp32')
    assert (recipe.batch, recipe.negatives, recipe.rounds, recipe.patience) == (4, 2, 50, 3)
    assert recipe.batches * recipe.batch == recipe.pool == 1000  # the cache is refreshed then
    assert recipe.rules == Rules(positive_m=10.0, negative_m=25.0)
    assert (recipe.seed, recipe.augment, recipe.terms) == (0, 'none', {})


def test_what_a_file_does_not_name_keeps_its_default(tmp_path):
    recipe = read(tmp_path, """
        data: [{path: walks/*, left_out: [walks/3/*]}, {kind: simulated, worlds: 3}]
        rules: {positive_m: 5, negative_m: 20}
        image_size: [112, 154]
        learning_rate: 1e-4
        terms: {local: 5e-3}
        seed: 7
    """)
    assert recipe == Recipe(
        data=(Source('walks/*', left_out=['walks/3/*']), Source(kind='simulated', worlds=3)),
        rules=Rules(5.0, 20.0), image_size=(112, 154), learning_rate=1e-4,
        terms={'local': 5e-3}, seed=7)
    assert read(tmp_path, '{}') == Recipe()


def test_every_recipe_of_the_package_can_be_read():
    files = [PACKAGE / 'weights' / 'embedded.yaml', *PACKAGE.parent.glob('config/train_*.yaml')]
    for file in files:
        assert load_recipe(file).data, file


@pytest.mark.parametrize(('text', 'words'), [
    ('', 'no settings in it'),
    ('- data', 'no settings in it'),
    ('data: [', 'cannot be read as a recipe'),
    ('epochs: 3', "no setting 'epochs'; there are data, held_out"),
    ('rounds: 0', 'rounds = 0: at least 1'),
    ('rounds: many', "rounds = 'many': need a whole number"),
    ('rounds: 2.5', 'rounds = 2.5: need a whole number'),
    ('rounds: true', 'rounds = True: need a whole number'),
    ('images_a_place: 1', 'images_a_place = 1: at least 2'),
    ('workers: -1', 'workers = -1: at least 0'),
    ('pool: 0', 'pool = 0: at least 1'),
    ('clip: .nan', 'clip = nan: at least 0'),
    ('learning_rate: 0', 'learning_rate = 0.0: above 0'),
    ('learning_rate: .inf', 'learning_rate = inf: above 0'),
    ('learning_rate: fast', "learning_rate = 'fast': need a number"),
    ('learning_rate: true', 'learning_rate = True: need a number'),
    ('temperature: 0', 'temperature = 0.0: above 0'),
    ('half: 1', 'half = 1: need true or false'),
    ('weights: 3', 'weights = 3: need a text'),
    ('method: contrast', "method 'contrast' is none of triplets, multi_similarity, views"),
    ('optimizer: sgd', "optimizer 'sgd' is none of adamw, muon"),
    ('schedule: step', "schedule 'step' is none of constant, cosine, linear"),
    ('precision: fp8', "precision 'fp8' is none of fp32, fp16, bf16"),
    ('augment: flips', "augment 'flips' is none of none, randaugment"),
    ('batches: 250\naccumulate: 4', 'accumulate = 4 does not divide batches = 250'),
    ('image_size: 224', r'image_size = 224: need \[height, width\]'),
    ('image_size: [224]', r'image_size = \[224\]: need'),
    ('image_size: [22.4, 224]', 'image_size = .* need'),
    ('data: walks', 'data: need a list'),
    ('data: [walks]', "data, 1: need settings with names, got 'walks'"),
    ('data: [{path: a}, {file: b}]', "data, 2: no setting 'file'; there are path, kind"),
    ('data: [{path: a, left_out: b/*}]', r"data, 1: left_out = 'b/\*': need a list"),
    ('held_out: [{path: a, group: 3}]', 'held_out, 1: group = 3: need a text'),
    ('held_out: [{path: a, image_topic: 3}]', 'image_topic = 3: need a text'),
    ('rules: 10', 'rules: need settings with names'),
    ('rules: {near_m: 10}', "rules: no setting 'near_m'"),
    ('rules: {negative_m: 5}', 'rules: positive_m = 10.0 and negative_m = 5.0'),
    ('terms: 1', 'terms = 1: need settings with names'),
    ('terms: {local: much}', "terms: local = 'much': need a number"),
    ('terms: {spots: 1}', "method triplets has no loss 'spots'; there are global, local"),
    ('architecture: large', "architecture = 'large': need settings with names"),
])
def test_what_is_wrong_is_named_with_the_file(tmp_path, text, words):
    with pytest.raises(SettingError, match=f'r.yaml: .*{words}'):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingError, match='nothing.yaml: cannot be read as a recipe'):
        load_recipe(tmp_path / 'nothing.yaml')


def test_every_method_accepts_its_own_terms():
    for method, term in (('triplets', 'local'), ('multi_similarity', 'alignment'),
                         ('views', 'spots')):
        assert make_recipe({'method': method, 'terms': {term: 0}}, 'r').terms == {term: 0.0}


def test_a_seed_can_be_given():
    assert with_seed(Recipe(), None) == Recipe()
    assert with_seed(Recipe(), 3) == replace(Recipe(), seed=3)


def test_a_recipe_survives_a_checkpoint(tmp_path):
    """As the loop stores it, so that a training knows its own recipe again."""
    import torch

    recipe = load_recipe(PACKAGE / 'weights' / 'embedded.yaml')
    torch.save(asdict(recipe), tmp_path / 'c.pt')
    assert torch.load(tmp_path / 'c.pt', weights_only=True) == asdict(recipe)
