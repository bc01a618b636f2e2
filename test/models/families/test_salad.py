"""SALAD against the reference outputs of the published implementation."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from models_support import GLOBAL_ATOL, assert_close, full_size, inert_tensors
from tiny_checkpoints import make

from selavpr_ros.errors import ImageError
from selavpr_ros.models import load_model


@pytest.fixture(scope='module')
def small():
    return make('salad')


@pytest.mark.parametrize('case', ['sq224', 'rect_h168_w252'])
def test_descriptors_equal_the_published_ones(golden, case):
    reference = golden('salad')
    descriptors = reference.model(reference.images(case))
    assert_close(descriptors.global_descriptor, reference.outputs[case]['global_'], GLOBAL_ATOL)
    assert descriptors.local_features is None
    assert reference.model.max_local_features == 0


def test_images_alone_equal_the_published_ones(golden):
    reference = golden('salad')
    found = [reference.model(image).global_descriptor for image in
             reference.images('sq224').split(1)]
    expected = reference.outputs['sq224_each_alone']['global_']
    assert_close(torch.cat(found), expected, GLOBAL_ATOL)


def test_every_parameter_matters_but_for_what_the_transport_absorbs(small):
    """A number added to all scores of one cluster or of the dustbin is taken back at once."""
    torch.manual_seed(1)
    assert inert_tensors(small, torch.randn(1, 3, 112, 154)) == [
        'aggregator.dust_bin', 'aggregator.score.3.bias']


@pytest.mark.parametrize('size', [(28, 56), (14, 14)])
def test_images_with_too_few_patches_are_refused(small, size):
    reason = f'more patches of 14x14 pixels than its 8 clusters, got {size[0]}x{size[1]} pixels'
    with pytest.raises(ImageError, match=reason):
        small(torch.zeros(1, 3, *size))
    assert small(torch.zeros(1, 3, 42, 42)).global_descriptor.shape == (1, 32 + 8 * 16)


def test_sides_that_are_no_multiple_of_14_are_refused(small):
    with pytest.raises(ImageError, match='salad takes .* multiples of 14, got 112x155'):
        small(torch.zeros(1, 3, 112, 155))


@pytest.fixture
def full_size_file(shared, tmp_path):
    """A published file of SALAD with random values: 350 MB, so it is removed."""
    spec = importlib.util.spec_from_file_location('recipe', shared / 'goldens' / 'recipe.py')
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    listed = full_size(shared / 'goldens' / 'keys_salad.txt')
    state = {key: torch.empty_like(tensor, device='cpu') for key, tensor in listed.items()}
    path = tmp_path / 'dino_salad.ckpt'
    torch.save(recipe.fill_state_dict(state, seed=1), path)
    yield path
    path.unlink()


def test_full_size_file_runs(full_size_file):
    model = load_model(full_size_file, image_size=(126, 126))
    assert model.backbone.blocks[0].attn.num_heads == 12
    assert {tensor.device.type for tensor in model.state_dict().values()} == {'cpu'}
    descriptor = model(torch.randn(1, 3, 126, 126)).global_descriptor
    assert descriptor.shape == (1, 256 + 128 * 64)
    assert_close(descriptor.norm(), torch.tensor(1.0), 1e-5)
