"""First weights, with random ones of the stem's network: no download."""

import sys

import pytest
import timm
import torch
from models_support import pictures

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models.conv_stem import NETWORK, ConvStem
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.training.initial import (
    find_weights,
    fit_stem,
    initialise,
    load_network,
    principal_components,
)

SIDE = 112


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    made = timm.create_model(NETWORK)
    for key, tensor in made.state_dict().items():  # as if it had seen something
        if key.endswith('running_mean'):
            tensor.normal_(std=0.1)
    return made


@pytest.fixture(scope='module')
def weights(network, tmp_path_factory):
    """A file as another port has it: other names, the same order."""
    path = tmp_path_factory.mktemp('weights') / 'lite0.pth'
    torch.save({f'port.{n}': t for n, t in enumerate(network.state_dict().values())}, path)
    return str(path)


@pytest.fixture
def model(weights):
    torch.manual_seed(0)
    made = SelaVPR(width=32, depth=2, num_heads=2, adapter_hidden=8, local_hidden=8, local_dim=8,
                   conv_stem=True)
    initialise(made.backbone, weights)
    return made.eval()


# ---- weights ------------------------------------------------------------------------------------


def test_weights_are_taken_in_order_whatever_their_names(network, weights):
    loaded = load_network(weights)
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_weights_of_another_network_are_refused(tmp_path):
    other = timm.create_model('tf_efficientnet_lite1', pretrained=False)
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(SettingError, match=f'other.pth are of another network than {NETWORK}'):
        load_network(str(tmp_path / 'other.pth'))


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    (tmp_path / 'broken.pth').write_bytes(b'no weights')
    with pytest.raises(CheckpointError, match='broken.pth: cannot be read'):
        load_network(str(tmp_path / 'broken.pth'))


def test_a_missing_package_gives_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lite0_weights', None)
    with pytest.raises(SettingError, match='the stem needs .* pip install lite0_weights'):
        load_network('lite0_weights')


def test_a_package_brings_its_weights(tmp_path, monkeypatch):
    package = tmp_path / 'lite0_weights'
    (package / 'data').mkdir(parents=True)
    (package / '__init__.py').write_text('')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingError, match='lite0_weights in .* has no weights of the stem'):
        find_weights('lite0_weights')
    (package / 'data' / 'w.pth').write_bytes(b'')
    assert find_weights('lite0_weights') == package / 'data' / 'w.pth'


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingError, match='nothing.pth are not there'):
        load_network(str(tmp_path / 'nothing.pth'))


def test_a_download_that_fails_says_what_else_there_is(monkeypatch):
    def offline(name, pretrained):
        raise ConnectionError('no route')

    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(SettingError, match=r'cannot be downloaded \(no route\): name a file'):
        load_network('')


# ---- the start ----------------------------------------------------------------------------------


def test_principal_components_are_the_directions_of_most_change():
    torch.manual_seed(0)
    spread = torch.tensor([0.1, 5.0, 1.0, 0.01])
    mean, components = principal_components(torch.randn(500, 4) * spread + 10, 2)
    torch.testing.assert_close(mean, torch.full((4,), 10.0), atol=0.7, rtol=0)
    torch.testing.assert_close(components.abs(), torch.eye(4)[:, [1, 2]], atol=0.05, rtol=0)


def test_where_there_are_too_few_components_the_others_are_zero():
    _, components = principal_components(torch.randn(50, 3), 5)
    assert components.shape == (3, 5)
    assert (components[:, 3:] == 0).all()


@torch.no_grad()
def test_a_fitted_stem_gives_components_and_their_opposites(weights):
    stem = ConvStem(32)
    stem.conv.requires_grad_(False)
    fit_stem(stem, pictures(20))
    maps = stem.maps(pictures(20))
    for scale, stage in zip(stem.scales, maps, strict=True):
        assert scale(stage).mean(dim=(0, 2, 3)).abs().max() < 1e-3
        assert (scale(stage).std(dim=(0, 2, 3)) - 1).abs().max() < 1e-2
    above, below = stem(pictures(20)).chunk(2, dim=-1)
    torch.testing.assert_close(above, -below)
    torch.testing.assert_close(above.std(), torch.tensor(1.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(above.mean(dim=(0, 1, 2)), torch.zeros(16), atol=1e-3, rtol=0)
    assert (stem.proj.weight[:, : stem.detail_width] == 0).all()


@torch.no_grad()
def test_the_stem_sees_what_its_network_saw(model, network):
    stem, x = model.backbone.patch_embed, torch.randn(1, 3, 64, 64)
    network.eval()
    expected = network.blocks[:3](network.bn1(network.conv_stem(x)))
    found = stem.stages[0](stem.early(stem.activation(stem.conv(x))))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_blocks_begin_as_no_change(model):
    images = pictures(2)
    tokens = model.backbone.patch_embed(images)
    _, patches = model.backbone(images)
    torch.testing.assert_close(patches, model.backbone.norm(tokens))


def test_all_but_the_networks_own_weights_is_trained(model):
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    own = ('backbone.patch_embed.conv.', 'backbone.patch_embed.early.',
           'backbone.patch_embed.stages.')
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(own)}
    assert len(frozen) > 50
    loss = model(pictures(2)).global_descriptor[:, 0].sum()
    loss.backward()
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0
    assert model.backbone.blocks[0].mlp.wrapped.fc2.weight.grad.abs().sum() > 0
