"""The arguments of load_model, and what it leaves in a model."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from models_support import assert_close
from safetensors.torch import save_file
from tiny_checkpoints import HEADS, IMAGE_SIZES, SIZES, make, write

from selavpr_ros.errors import SettingError
from selavpr_ros.models import choose_device, choose_dtype, load_model
from selavpr_ros.models.families import family_named, sizes_of

every_family = pytest.mark.parametrize('family', sorted(SIZES))


@pytest.fixture
def checkpoint(tmp_path):
    return lambda family: write(tmp_path / f'{family}.pth', make(family))


@every_family
def test_a_model_is_ready_for_inference(checkpoint, family):
    path = checkpoint(family)
    model = load_model(path, num_heads=HEADS, image_size=IMAGE_SIZES[family])
    assert (model.family, model.name, model.device.type) == (family, family, 'cpu')
    assert model.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    descriptors = model(torch.randn(2, 3, *model.image_size))
    assert_close(descriptors.global_descriptor.norm(dim=1), torch.ones(2), 1e-5)


@every_family
def test_each_system_has_its_image_size_unless_told(checkpoint, family):
    path = checkpoint(family)
    own = family_named(family).network.image_size
    assert own == {'fol': (504, 504), 'salad': (322, 322)}.get(family, (224, 224))
    model = load_model(path, num_heads=HEADS)
    assert model.image_size == own
    how = 'pillow' if family == 'salad' else 'stretch'
    assert model.model_id == f'{family}/{model.fingerprint[:12]}/{how}{own[0]}x{own[1]}'
    other = load_model(path, num_heads=HEADS, image_size=(294, 294))
    assert other.model_id.endswith(f'/{how}294x294')


@every_family
def test_sizes_that_a_system_cannot_take(checkpoint, family):
    with pytest.raises(SettingError, match=f'{family} takes .* got 295x295'):
        load_model(checkpoint(family), num_heads=HEADS, image_size=(295, 295))
    with pytest.raises(SettingError, match='got 0x0'):
        load_model(checkpoint(family), num_heads=HEADS, image_size=(0, 0))


def test_wrong_heads_are_refused(checkpoint):
    with pytest.raises(SettingError, match='7 attention heads do not divide'):
        load_model(checkpoint('selavpr'), num_heads=7)


def test_heads_matter(checkpoint):
    path = checkpoint('selavpr')
    assert sizes_of(load_model(path))['num_heads'] == 1  # width / 64
    images = torch.randn(1, 3, 112, 112)
    one, four = (load_model(path, num_heads=heads)(images).global_descriptor for heads in (1, 4))
    assert float((one - four).abs().max()) > 1e-4


def test_paths_of_any_kind(checkpoint, tmp_path, monkeypatch):
    path = checkpoint('salad')
    monkeypatch.setenv('HOME', str(tmp_path))
    ids = {load_model(given, num_heads=HEADS).model_id
           for given in (path, str(path), '~/salad.pth')}
    assert len(ids) == 1


# ---- files of this package ----------------------------------------------------------------------


def test_a_file_of_this_package_tells_how_it_is_used(tmp_path):
    told = {'num_heads': HEADS, 'image_size': [112, 154], 'source_name': 'SelaVPR_msls',
            'source_sha256': 'ab' * 32}
    path = tmp_path / 'converted.safetensors'
    save_file(make('selavpr').state_dict(), path, {'selavpr_ros': json.dumps(told)})
    model = load_model(path)
    assert model.model_id == 'SelaVPR_msls/abababababab/stretch112x154'
    assert sizes_of(model)['num_heads'] == HEADS
    assert load_model(path, image_size=(126, 126)).image_size == (126, 126)
    assert sizes_of(load_model(path, num_heads=8))['num_heads'] == 8


@pytest.mark.parametrize(('told', 'resize'), [({}, 'stretch'), ({'resize': 'area'}, 'area')])
def test_a_file_of_this_package_tells_how_images_are_resized(tmp_path, told, resize):
    path = tmp_path / 'own.safetensors'
    save_file(make('selavpr').state_dict(), path, {'selavpr_ros': json.dumps(told)})
    assert load_model(path).model_id.endswith(f'/{resize}224x224')


# ---- device and precision -----------------------------------------------------------------------


@pytest.mark.parametrize(('device', 'dtype'), [('cuda', torch.float16), ('cpu', torch.float32)])
def test_automatic_precision(device, dtype):
    assert choose_dtype('auto', torch.device(device)) == dtype


@pytest.mark.parametrize(('dtype', 'chosen'), [
    ('fp32', torch.float32), ('fp16', torch.float16), ('bf16', torch.bfloat16),
    (torch.bfloat16, torch.bfloat16)])
def test_chosen_precision(dtype, chosen):
    assert choose_dtype(dtype, torch.device('cpu')) == chosen
    assert load_model('hog', dtype=dtype).dtype == chosen


def test_unknown_precision_and_device_are_refused():
    with pytest.raises(SettingError, match="dtype 'fp8' is none of auto, fp32, fp16, bf16"):
        load_model('hog', dtype='fp8')
    for device in ('cuda:99', 'abacus'):
        with pytest.raises(SettingError, match=f"device '{device}' cannot be used here: "):
            load_model('hog', device=device)


def test_automatic_device(monkeypatch):
    for there, chosen in ((True, 'cuda'), (False, 'cpu')):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda there=there: there)
        assert choose_device('auto') == torch.device(chosen)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(('name', 'case'), [
    ('selavpr', 'rect_h168_w252'), ('selavpr_reg', 'sq224'), ('cricavpr', 'sq224'),
    ('salad', 'sq224'), ('fol', 'sq322')])
def test_low_precision_stays_close(golden, name, case, dtype):
    reference = golden(name)
    images = reference.images(case)[:1]
    exact = reference.model(images).global_descriptor
    low = load_model(reference.path, num_heads=HEADS, dtype=dtype)(images.to(dtype))
    assert low.global_descriptor.dtype == torch.float32
    assert_close(low.global_descriptor.norm(), torch.tensor(1.0), 1e-4)
    assert float((exact * low.global_descriptor).sum()) > 0.99
    if low.local_features is not None:
        assert low.local_features.dtype == torch.float32
        norms = low.local_features.norm(dim=2)
        assert_close(norms[norms > 0], torch.ones(int((norms > 0).sum())), 1e-4)


@every_family
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_of_small_networks(checkpoint, family, dtype):
    torch.manual_seed(0)
    path, size = checkpoint(family), IMAGE_SIZES[family]
    images = torch.randn(1, 3, *size)
    exact, low = (
        load_model(path, num_heads=HEADS, image_size=size, dtype=kind)(images.to(kind))
        for kind in (torch.float32, dtype))
    assert low.global_descriptor.dtype == torch.float32
    assert float((exact.global_descriptor * low.global_descriptor).sum()) > 0.99
