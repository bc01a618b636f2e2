"""SelaVPR against the reference outputs of the published implementation."""

from __future__ import annotations

import pytest
import torch
from models_support import (
    GLOBAL_ATOL,
    LOCAL_ATOL,
    assert_close,
    assert_positions_are_true,
    inert_tensors,
)
from tiny_checkpoints import make

from selavpr_ros.errors import ImageError
from selavpr_ros.models import load_model


@pytest.fixture(scope='module')
def small():
    return make('selavpr')


@pytest.mark.parametrize('case', ['sq224', 'rect_h168_w252'])
@pytest.mark.parametrize('name', ['selavpr', 'selavpr_reg'])
def test_descriptors_equal_the_published_ones(golden, name, case):
    reference = golden(name)
    descriptors = reference.model(reference.images(case))
    expected = reference.outputs[case]
    assert_close(descriptors.global_descriptor, expected['global_'], GLOBAL_ATOL)
    assert_close(descriptors.local_features, expected['local'].flatten(1, 2), LOCAL_ATOL)


@pytest.mark.parametrize('registers', [0, 4])
def test_every_parameter_matters(registers):
    torch.manual_seed(1)
    assert inert_tensors(make('selavpr', registers=registers), torch.randn(1, 3, 112, 154)) == []


def test_registers_do_not_change_how_positions_are_resized():
    """SelaVPR keeps the shift of 0.1 where DINOv2's own models with registers do not."""
    assert not make('selavpr', registers=4).backbone.antialias_positions


def test_batch_equals_single_images(small):
    images = torch.randn(3, 3, 112, 112)
    together, alone = small(images), small(images[1:2])
    assert_close(together.global_descriptor[1:2], alone.global_descriptor, 1e-6)
    assert_close(together.local_features[1:2], alone.local_features, 1e-5)


@pytest.mark.parametrize(('size', 'count'), [((224, 224), 3721), ((112, 154), 29 * 41)])
def test_number_of_local_features(small, size, count):
    small.image_size = size
    features = small(torch.zeros(1, 3, *size)).local_features
    assert features.shape[1] == small.max_local_features == count


@pytest.mark.parametrize(('stride', 'rows', 'columns'), [(2, 15, 21), (3, 10, 14), (4, 8, 11)])
def test_every_so_many_th_row_and_column_can_be_kept(stride, rows, columns):
    model, images = make('selavpr'), torch.randn(2, 3, 112, 154)
    model.image_size = (112, 154)
    whole = model(images)
    assert torch.equal(whole.local_features, model.heads(model.backbone(images)[1]).local_features)
    model.local_stride = stride
    thinned = model(images)
    assert torch.equal(thinned.global_descriptor, whole.global_descriptor)
    assert thinned.local_features.shape[1] == model.max_local_features == rows * columns
    assert torch.equal(thinned.local_features[:, 1], whole.local_features[:, stride])
    assert torch.equal(thinned.local_features[:, columns], whole.local_features[:, stride * 41])
    assert torch.equal(model.heads(model.backbone(images)[1]).local_features, whole.local_features)


def test_sides_that_are_no_multiple_of_14_are_refused(small):
    with pytest.raises(ImageError, match='multiples of 14, got 224x225'):
        small(torch.zeros(1, 3, 224, 225))


def test_published_container_with_numpy_objects_is_read(shared):
    model = load_model(shared / 'goldens' / 'selavpr_tiny_checkpoint.pth', num_heads=4)
    assert model.family == 'selavpr'
    assert model.model_id.startswith('selavpr_tiny_checkpoint/')
    assert model.model_id.endswith('/stretch224x224')


@pytest.mark.parametrize('stride', [1, 2])
def test_local_features_are_where_they_are_told_to_be(stride):
    model = load_model('embedded')
    model.local_stride = stride
    assert_positions_are_true(model)
