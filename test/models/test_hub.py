"""DINOv2 by name: from the cache, or with words on where to put the file."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoints import make, published_state

from selavpr_ros.errors import CheckpointError
from selavpr_ros.models import hub, load_model

NAME = 'vit_small_patch14_dinov2'
FILE = 'dinov2_vits14_pretrain.pth'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Torch's cache in an empty folder."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'elsewhere' / FILE
    path.parent.mkdir()
    torch.save(published_state(make('dinov2_gem'), ''), path)
    return path


@pytest.mark.parametrize('name', [NAME, f'timm/{NAME}', f'{NAME}.lvd142m', f'timm/{NAME}.lvd142m'])
def test_a_file_in_the_cache_is_loaded_under_its_name(cache, weights, name):
    cache.mkdir(parents=True)
    weights.rename(cache / FILE)
    model = load_model(name, num_heads=4)
    assert model.family == 'dinov2_gem'
    assert model.model_id.startswith('dinov2_vits14_pretrain/')


def test_what_is_not_there_is_downloaded_once(cache, weights, monkeypatch):
    monkeypatch.setattr(hub, 'hub_url', lambda name: weights.as_uri())
    assert hub.fetch_backbone(NAME) == cache / FILE
    weights.unlink()
    assert load_model(NAME, num_heads=4).family == 'dinov2_gem'
    assert [path.name for path in cache.iterdir()] == [FILE]


def test_without_internet_the_error_tells_what_to_put_where(cache, tmp_path, monkeypatch):
    url = (tmp_path / 'nowhere' / FILE).as_uri()
    monkeypatch.setattr(hub, 'hub_url', lambda name: url)
    with pytest.raises(CheckpointError) as caught:
        load_model(NAME)
    message = str(caught.value)
    assert message.startswith(f"'{NAME}' cannot be downloaded (")
    assert f'get {url} on a machine with internet and put it at {cache / FILE}' in message
    assert list(cache.iterdir()) == []  # nothing half-done, which would be taken for the file


def test_a_cache_that_cannot_be_written(cache, tmp_path):
    (tmp_path / 'torch').write_text('a file where the folder should be')
    with pytest.raises(CheckpointError, match=f'cannot be downloaded .* put it at {cache}'):
        hub.fetch_backbone(NAME)


@pytest.mark.parametrize('name', ['vit_giant_patch14_dinov2', 'timm/vit_base_patch14_reg8_dinov2',
                                  'vit_small_patch14_dinov2.other'])
def test_other_names_of_the_same_form_are_refused(name):
    with pytest.raises(CheckpointError, match=f"'{name}' is none of vit_small_patch14_dinov2, "):
        load_model(name)


@pytest.mark.parametrize(('name', 'file'), [
    ('vit_small_patch14_dinov2', 'dinov2_vits14_pretrain.pth'),
    ('vit_small_patch14_reg4_dinov2', 'dinov2_vits14_reg4_pretrain.pth'),
    ('vit_base_patch14_dinov2', 'dinov2_vitb14_pretrain.pth'),
    ('vit_base_patch14_reg4_dinov2', 'dinov2_vitb14_reg4_pretrain.pth'),
    ('vit_large_patch14_dinov2', 'dinov2_vitl14_pretrain.pth'),
    ('vit_large_patch14_reg4_dinov2', 'dinov2_vitl14_reg4_pretrain.pth')])
def test_published_addresses(name, file):
    timm = pytest.importorskip('timm')
    url = hub.hub_url(name)
    assert url.startswith('https://')
    assert url.endswith(f'/{file}')
    assert url == timm.get_pretrained_cfg(f'{name}.lvd142m').url
    assert name in hub.BACKBONES
