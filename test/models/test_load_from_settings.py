from dataclasses import replace

import pytest
import torch
from tiny_checkpoints import make, write

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models import load_from_settings, warm_up
from selavpr_ros.models.checkpoints import sha256
from selavpr_ros.models.families.hog import Hog
from selavpr_ros.settings import ModelSettings


def test_defaults_give_the_model_as_it_is():
    model = load_from_settings(ModelSettings(device='cpu'))
    assert (model.family, model.image_size, model.dtype) == ('selavpr', (224, 224), torch.float32)


def test_size_and_precision_are_applied():
    model = load_from_settings(
        ModelSettings(weights='hog', device='cpu', precision='bf16', input_size=(96, 128)))
    assert (model.image_size, model.dtype) == ((96, 128), torch.bfloat16)


def test_the_sum_of_the_weights_is_checked():
    right = Hog().fingerprint
    settings = ModelSettings(weights='hog', device='cpu', weights_sha256=right.upper())
    assert load_from_settings(settings)
    with pytest.raises(CheckpointError, match=f'is {right}, but .* asks for 00000'):
        load_from_settings(replace(settings, weights_sha256='0' * 64))


def test_the_sum_of_a_file_is_checked_before_it_is_read(tmp_path):
    path = write(tmp_path / 'salad.ckpt', make('salad', width=128, num_heads=2))
    right = sha256(path)
    model = load_from_settings(
        ModelSettings(device='cpu', weights=str(path), weights_sha256=right))
    assert (model.family, model.fingerprint) == ('salad', right)
    path.write_text('something else')
    with pytest.raises(CheckpointError, match=f'salad.ckpt. is .* asks for {right}'):
        load_from_settings(ModelSettings(device='cpu', weights=str(path), weights_sha256=right))


def test_without_a_file_there_is_no_sum(tmp_path):
    for path, reason in ((tmp_path, 'it is a folder'), (tmp_path / 'a.pth', 'no such file')):
        with pytest.raises(CheckpointError, match=reason):
            load_from_settings(
                ModelSettings(device='cpu', weights=str(path), weights_sha256='0' * 64))


def test_a_size_that_the_system_cannot_take(tmp_path):
    path = write(tmp_path / 'fol.pth', make('fol', width=128, num_heads=2))
    settings = ModelSettings(device='cpu', weights=str(path), input_size=(224, 224))
    with pytest.raises(SettingError, match='fol needs a height of at least 266 pixels'):
        load_from_settings(settings)


def test_a_device_that_is_not_there():
    with pytest.raises(SettingError, match="'cuda:99' cannot be used here"):
        load_from_settings(ModelSettings(device='cuda:99'))


def test_warming_up_runs_so_many_images():
    model = load_from_settings(
        ModelSettings(weights='hog', device='cpu', input_size=(96, 128)))
    shapes = []
    model.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    warm_up(model, 2)
    assert shapes == [(1, 3, 96, 128)] * 2
