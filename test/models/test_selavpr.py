"""SelaVPR against the reference outputs of the published implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from selavpr_ros.errors import CheckpointError, ImageError, SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.backbone import Backbone, resize_position_embedding
from selavpr_ros.preprocess import normalise

GLOBAL_ATOL, LOCAL_ATOL = 2e-6, 1e-5
REFERENCE = Path(__file__).parents[1] / 'data' / 'selavpr_tiny.npz'


def _published(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({'epoch_num': 1, 'model_state_dict': {f'module.{k}': v for k, v in state.items()}},
               path)
    return path


@pytest.fixture(scope='module', params=['selavpr_tiny', 'selavpr_reg_tiny'])
def golden(request, shared, tmp_path_factory):
    content = torch.load(shared / 'goldens' / f'{request.param}.pt', weights_only=False)
    path = tmp_path_factory.mktemp('golden') / f'{request.param}.pth'
    return content, load_model(_published(path, content['state_dict']), num_heads=4)


@pytest.mark.parametrize('case', ['sq224', 'rect_h168_w252'])
def test_descriptors_equal_the_published_ones(golden, case):
    content, model = golden
    with torch.no_grad():
        descriptors = model(normalise(content['input_u8'][case].float()))
    expected = content['outputs'][case]
    torch.testing.assert_close(
        descriptors.global_descriptor, expected['global_'], atol=GLOBAL_ATOL, rtol=0)
    torch.testing.assert_close(
        descriptors.local_features, expected['local'].flatten(1, 2), atol=LOCAL_ATOL, rtol=0)


def test_every_parameter_matters(golden):
    content, model = golden
    images = normalise(content['input_u8']['rect_h168_w252'].float())
    with torch.no_grad():
        before = model(images)
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter.add_(0.05 * torch.randn_like(parameter))
            after = model(images)
            parameter.copy_(kept)
            changed = (
                (after.global_descriptor - before.global_descriptor).abs().max() > 1e-7
                or (after.local_features - before.local_features).abs().max() > 1e-7)
            assert changed, name


def test_published_container_with_numpy_objects_is_read(shared):
    path = shared / 'goldens' / 'selavpr_tiny_checkpoint.pth'
    model = load_model(path, num_heads=4)
    assert model.family == 'selavpr'
    assert model.model_id.startswith('selavpr_tiny_checkpoint/')
    assert model.model_id.endswith('/stretch224x224')


@pytest.mark.parametrize(('file', 'registers'), [('selavpr', 0), ('selavpr_reg', 4)])
def test_full_size_has_the_published_keys_and_shapes(shared, file, registers):
    from selavpr_ros.models.checkpoints import selavpr_sizes, to_selavpr_names
    from selavpr_ros.models.selavpr import SelaVPR

    lines = (shared / 'goldens' / f'keys_{file}.txt').read_text().splitlines()
    with torch.device('meta'):
        published = {}
        for line in lines:
            key, _, shape = line.partition(' ')
            if shape.startswith('['):
                published[f'module.{key}'] = torch.empty(
                    [int(n) for n in shape.partition(']')[0].strip('[').split(',') if n.strip()])
        state = to_selavpr_names(published)
        sizes = selavpr_sizes(state)
        assert sizes == {'width': 1024, 'depth': 24, 'adapter_hidden': 512, 'local_hidden': 256,
                         'local_dim': 128, 'registers': registers}
        model = SelaVPR(num_heads=16, **sizes)
        ours = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in state.items()} == ours
    counted = sum(shape.numel() for shape in ours.values()) + 1024  # + the unused mask token
    assert counted == (357_432_705 if registers else 357_428_609)


def test_norm_epsilon_is_dinov2s():
    backbone = Backbone(width=64, depth=1, num_heads=4)
    norms = [backbone.norm, backbone.blocks[0].norm1, backbone.blocks[0].norm2]
    assert [norm.eps for norm in norms] == [1e-6] * 3


def test_position_embedding_of_the_trained_grid_is_untouched():
    table = torch.randn(1, 1370, 8)
    assert resize_position_embedding(table, (37, 37)) is table
    assert resize_position_embedding(table, (16, 18)).shape == (1, 1 + 16 * 18, 8)


def test_sides_that_are_no_multiple_of_14_are_refused(reference_model):
    with pytest.raises(ImageError, match='multiples of 14, got 224x225'):
        reference_model(torch.zeros(1, 3, 224, 225))


@pytest.fixture(scope='module')
def reference_model(tmp_path_factory):
    from reference_weights import fill

    from selavpr_ros.models.selavpr import SelaVPR

    model = SelaVPR(width=64, depth=2, num_heads=4, adapter_hidden=32, local_hidden=32,
                    local_dim=16)
    fill(model.state_dict())
    return model.eval()


def test_compact_reference_keeps_parity_alive(reference_model):
    """Arrays in the repository, checked against the goldens when they were made."""
    from reference_weights import image

    expected = np.load(REFERENCE)
    with torch.no_grad():
        descriptors = reference_model(normalise(image(126, 154)))
    np.testing.assert_allclose(
        descriptors.global_descriptor.numpy(), expected['global_descriptor'], atol=GLOBAL_ATOL)
    np.testing.assert_allclose(
        descriptors.local_features[:, ::7].numpy(), expected['local_features'], atol=LOCAL_ATOL)


def test_batch_equals_single_images(reference_model):
    images = torch.randn(3, 3, 112, 112)
    with torch.no_grad():
        together = reference_model(images)
        alone = reference_model(images[1:2])
    torch.testing.assert_close(
        together.global_descriptor[1:2], alone.global_descriptor, atol=1e-6, rtol=0)


def test_missing_file_says_what_can_be_given(tmp_path):
    with pytest.raises(CheckpointError, match="no such file; give 'embedded', 'hog'"):
        load_model(tmp_path / 'none.pth')


def test_text_file_is_no_checkpoint(tmp_path):
    path = tmp_path / 'notes.pth'
    path.write_text('hello')
    with pytest.raises(CheckpointError, match='cannot be read as a checkpoint'):
        load_model(path)


class _Hostile:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_that_runs_code_is_refused(tmp_path):
    path, proof = tmp_path / 'hostile.pth', tmp_path / 'was_here'
    torch.save({'model_state_dict': _Hostile(proof)}, path)
    with pytest.raises(CheckpointError, match='cannot be read as a checkpoint'):
        load_model(path)
    assert not proof.exists()


def test_other_networks_are_named(tmp_path):
    path = tmp_path / 'resnet.pth'
    torch.save({'conv1.weight': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r'not a SelaVPR checkpoint.*conv1\.weight'):
        load_model(path)


def test_missing_parameter_is_named(reference_model, tmp_path):
    path = tmp_path / 'half.pth'
    state = reference_model.state_dict()
    del state['backbone.norm.weight']
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r'backbone\.norm\.weight'):
        load_model(path, num_heads=4)


def test_image_size_must_fit(reference_model, tmp_path):
    path = tmp_path / 'ok.pth'
    torch.save(reference_model.state_dict(), path)
    with pytest.raises(SettingError, match='multiples of 14, got 230x224'):
        load_model(path, num_heads=4, image_size=(230, 224))
    model = load_model(path, num_heads=4, image_size=(112, 154))
    assert model.local_grid == (29, 41)


def test_unknown_device_is_refused():
    with pytest.raises(SettingError, match="device 'cuda:99' cannot be used here"):
        load_model('hog', device='cuda:99')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_stays_close(reference_model, tmp_path, dtype):
    path = tmp_path / 'ok.pth'
    torch.save(reference_model.state_dict(), path)
    images = torch.randn(1, 3, 112, 112)
    exact = reference_model(images).global_descriptor.detach()
    low = load_model(path, num_heads=4, dtype=dtype)(images.to(dtype)).global_descriptor
    assert low.dtype == torch.float32
    assert float((exact * low).sum()) > 0.995
