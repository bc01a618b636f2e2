import json

import pytest
import torch
from training_sets import tiny_recipe, write_walks

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.checkpoints import read_checkpoint
from selavpr_ros.training.run import description, train, write_weights
from selavpr_ros.training.sources import Source


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    return train(tiny_recipe(), write_walks(folder), folder / 'run', 'cpu')


def test_trained_weights_load_and_describe_alike(trained, tmp_path):
    target = tmp_path / 'small.safetensors'
    write_weights(trained.method.model, target, {}, half=False)
    model = load_model(target)
    images = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        expected = trained.method.model(images)
    assert (model.image_size, model.resize) == ((56, 56), 'area')
    assert model.model_id.startswith('small/')
    torch.testing.assert_close(model(images), expected)


def test_a_file_tells_how_much_of_the_local_features_is_kept(trained, tmp_path):
    trained.method.model.local_stride = 2
    try:
        write_weights(trained.method.model, tmp_path / 'w.safetensors', {}, half=False)
    finally:
        trained.method.model.local_stride = 1
    model = load_model(tmp_path / 'w.safetensors')
    assert (model.local_stride, model.max_local_features) == (2, 7 * 7)


def test_weights_may_be_stored_in_half_the_bytes(trained, tmp_path):
    sizes = []
    for half in (False, True):
        target = tmp_path / f'{half}.safetensors'
        write_weights(trained.method.model, target, {}, half)
        sizes.append(target.stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]
    assert load_model(tmp_path / 'True.safetensors').dtype == torch.float32


def test_the_file_tells_of_its_making(trained, tmp_path):
    told = description(trained, 'small')
    assert told['training'] == {
        'name': 'small', 'images': 24, 'steps': 4, 'seed': 0, 'recall': trained.best}
    write_weights(trained.method.model, tmp_path / 'small.safetensors', told, half=True)
    kept = read_checkpoint(tmp_path / 'small.safetensors')[1]
    assert kept['training'] == json.loads(json.dumps(told['training']))


def test_weights_are_not_written_where_there_is_no_folder(trained, tmp_path):
    with pytest.raises(CheckpointError, match='there is no folder'):
        write_weights(trained.method.model, tmp_path / 'no' / 'w.safetensors', {}, half=False)


def test_a_training_without_held_out_images_keeps_the_last_weights(trained, tmp_path):
    data = write_walks(tmp_path)
    trainer = train(tiny_recipe(held_out=()), data, tmp_path / 'run', 'cpu')
    assert trainer.recalls == []


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(SettingError, match='nothing: no .jpg or .png'):
        train(tiny_recipe(data=(Source('nothing'),)), tmp_path, tmp_path / 'run', 'cpu')


def test_the_log_is_there_for_tensorboard_and_as_a_picture(trained):
    assert list(trained.output.glob('events.out.tfevents.*'))
    assert {'curves.png', 'losses.csv', 'validation.csv'} <= {
        file.name for file in trained.output.iterdir()}
