"""CricaVPR against the reference outputs of the published implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_support import GLOBAL_ATOL, assert_close, inert_tensors
from safetensors.torch import save_file
from tiny_checkpoints import HEADS, make, write
from torch.nn import functional

from selavpr_ros.errors import CheckpointError, ImageError, SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.families.cricavpr import REGIONS, regions

DIM = REGIONS * 64


@pytest.fixture(scope='module')
def small():
    return make('cricavpr')


@pytest.mark.parametrize('case', ['sq224', 'sq308'])
def test_images_that_correct_each_other_equal_the_published_ones(golden, case):
    reference = golden('cricavpr')
    descriptors = reference.model(reference.images(case), cross_image=True)
    assert_close(descriptors.global_descriptor, reference.outputs[case]['global_'], GLOBAL_ATOL)
    assert descriptors.local_features is None


@pytest.mark.parametrize('at_once', [1, 3])
def test_images_alone_equal_the_published_ones_in_any_batch(golden, at_once):
    reference = golden('cricavpr')
    batches = reference.images('sq224').split(at_once)
    found = torch.cat([reference.model(batch).global_descriptor for batch in batches])
    assert_close(found, reference.outputs['sq224_each_alone']['global_'], GLOBAL_ATOL)


def test_option_sets_what_the_argument_overrules(golden):
    reference = golden('cricavpr')
    model = load_model(reference.path, num_heads=HEADS, cross_image=True)
    images = reference.images('sq224')
    together = reference.outputs['sq224']['global_']
    alone = reference.outputs['sq224_each_alone']['global_']
    assert float((together - alone).abs().max()) > 1e-3
    assert_close(model(images).global_descriptor, together, GLOBAL_ATOL)
    assert_close(model(images, cross_image=False).global_descriptor, alone, GLOBAL_ATOL)


def test_every_parameter_and_running_statistic_matters(small):
    """Alone, an image attends to itself whatever query and key say: so take two."""
    torch.manual_seed(1)
    small.cross_image = True
    assert inert_tensors(small, torch.randn(2, 3, 168, 168)) == []
    small.cross_image = False


def test_encoder_is_the_published_one(small):
    for layer in small.encoder.layers:
        attention = layer.self_attn
        assert (attention.num_heads, attention.dropout, attention.batch_first) == (16, 0.1, False)
        assert [layer.norm1.eps, layer.norm2.eps] == [1e-5, 1e-5]
        assert not layer.norm_first
        assert layer.activation is functional.gelu
        assert [layer.dropout.p, layer.dropout1.p, layer.dropout2.p] == [0.1] * 3
    assert small.encoder.norm is None


def test_regions_are_quarters_and_then_ninths_row_by_row():
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing='ij')
    cut = regions(torch.stack([rows, columns], dim=-1)[None])
    corners = [(*region[0, 0, 0].tolist(), *region[0, -1, -1].tolist()) for region in cut]
    halves, thirds = [(0, 7), (8, 15)], [(0, 4), (5, 10), (11, 15)]
    assert corners == [
        (top, left, bottom, right) for spans in (halves, thirds)
        for top, bottom in spans for left, right in spans]


def test_regions_of_larger_images_keep_the_cuts():
    sides = [region.shape[1:3] for region in regions(torch.zeros(1, 22, 22, 1))]
    assert sides[:4] == [(8, 8), (8, 14), (14, 8), (14, 14)]
    assert sides[-1] == (11, 11)


@pytest.mark.parametrize('size', [(224, 238), (154, 154), (168, 182)])
def test_sizes_that_cannot_be_cut_are_refused(small, size):
    reason = f'takes square images of at least 168 pixels.* got {size[0]}x{size[1]}'
    with pytest.raises(ImageError, match=reason):
        small(torch.zeros(1, 3, *size))


def test_sides_that_are_no_multiple_of_14_are_refused(small):
    with pytest.raises(ImageError, match='multiples of 14, got 225x225'):
        small(torch.zeros(1, 3, 225, 225))
    assert small.why_not((168, 168)) == ''


# ---- projection ---------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, small):
    return write(tmp_path / 'CricaVPR.pth', small)


def _fit(descriptors: np.ndarray, kept: int) -> dict[str, np.ndarray]:
    """What scikit-learn's PCA calls `mean_` and `components_`."""
    mean = descriptors.mean(axis=0)
    return {'mean': mean, 'components': np.linalg.svd(descriptors - mean)[2][:kept]}


def test_projection_centres_projects_and_makes_unit_rows(small, checkpoint, tmp_path):
    random = np.random.RandomState(0)
    arrays = _fit(0.1 * random.standard_normal((40, DIM)) + 0.02, kept=5)
    np.savez(tmp_path / 'pca.npz', **arrays)
    model = load_model(checkpoint, num_heads=HEADS, pca=tmp_path / 'pca.npz')
    images = torch.randn(2, 3, 168, 168)
    plain = small(images).global_descriptor.double().numpy()
    projected = (plain - arrays['mean']) @ arrays['components'].T
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    found = model(images).global_descriptor
    assert_close(found, torch.from_numpy(expected).float(), GLOBAL_ATOL)


def test_projection_is_part_of_the_identity(checkpoint, tmp_path):
    ids = {load_model(checkpoint, num_heads=HEADS).model_id}
    for seed in range(2):
        random = np.random.RandomState(seed)
        np.savez(tmp_path / 'pca.npz', mean=random.rand(DIM), components=random.rand(5, DIM))
        model = load_model(checkpoint, num_heads=HEADS, pca=str(tmp_path / 'pca.npz'))
        assert model.model_id.startswith('CricaVPR+pca5/')
        ids.add(model.model_id)
    assert len(ids) == 3


def test_projection_is_stored_with_our_own_weights(checkpoint, tmp_path):
    np.savez(tmp_path / 'pca.npz', mean=np.ones(DIM), components=np.eye(5, DIM))
    model = load_model(checkpoint, num_heads=HEADS, pca=tmp_path / 'pca.npz')
    save_file(model.state_dict(), tmp_path / 'own.safetensors')
    images = torch.randn(1, 3, 168, 168)
    again = load_model(tmp_path / 'own.safetensors', num_heads=HEADS)(images)
    assert again.global_descriptor.shape == (1, 5)
    assert_close(again.global_descriptor, model(images).global_descriptor, 0)


BAD = {
    'other arrays': ({'a': np.ones(3)}, 'no PCA.*mean.* write it with'),
    'no components': ({'mean': np.ones(DIM)}, 'no PCA.*components.* write it with'),
    'objects': ({'mean': np.array([None]), 'components': np.eye(2)}, 'no PCA.* write it with'),
    'lengths': ({'mean': np.ones(3), 'components': np.ones((2, 4))},
                r'components \[2, 4\] and mean \[3\] do not belong together'),
    'NaN': ({'mean': np.full(DIM, np.nan), 'components': np.eye(5, DIM)}, 'NaN or infinity'),
    'axes': ({'mean': np.ones(3), 'components': np.ones(3)}, r'components \[3\] and mean \[3\]'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_projections_are_refused(checkpoint, tmp_path, kind):
    arrays, reason = BAD[kind]
    np.savez(tmp_path / 'pca.npz', **arrays)
    with pytest.raises(CheckpointError, match=rf'pca\.npz: {reason}'):
        load_model(checkpoint, num_heads=HEADS, pca=tmp_path / 'pca.npz')


def _text(path):
    path.write_text('hello')


def _one_array(path):
    np.save(path.with_suffix('.npy'), np.ones(3))
    path.with_suffix('.npy').rename(path)


def _truncated(path):
    np.savez(path, mean=np.ones(DIM), components=np.eye(5, DIM))
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize('make_file', [
    lambda path: None, lambda path: path.touch(), _text, _one_array, _truncated])
def test_files_that_are_no_projection_are_refused(checkpoint, tmp_path, make_file):
    path = tmp_path / 'pca.npz'
    make_file(path)
    with pytest.raises(CheckpointError, match=r'pca\.npz: no PCA \(.+\); write it with') as caught:
        load_model(checkpoint, num_heads=HEADS, pca=path)
    assert 'unsafely' not in str(caught.value)  # as numpy advises


def test_projection_of_another_length_is_refused(checkpoint, tmp_path):
    np.savez(tmp_path / 'pca.npz', mean=np.ones(10), components=np.eye(5, 10))
    with pytest.raises(SettingError, match=f'projects 10 numbers, the descriptor has {DIM}'):
        load_model(checkpoint, num_heads=HEADS, pca=tmp_path / 'pca.npz')


@pytest.mark.parametrize('option', [{'cross_image': True}, {'pca': 'pca.npz'}])
def test_other_systems_have_neither(tmp_path, option):
    path = write(tmp_path / 'salad.ckpt', make('salad'))
    with pytest.raises(SettingError, match='are for cricavpr, this is salad'):
        load_model(path, num_heads=HEADS, **option)
    with pytest.raises(SettingError, match='are for cricavpr, this is hog'):
        load_model('hog', **option)
