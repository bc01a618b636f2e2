"""The teacher, with random weights of its network: no download."""

import sys

import pytest
import timm
import torch

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.preprocess import normalise
from selavpr_ros.training.teacher import (
    Projection,
    Scale,
    Teacher,
    find_weights,
    load_network,
)

NAME = 'tf_efficientnet_lite0'
WIDTH, DIM, SIDE = 32, 16, 112


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    made = timm.create_model(NAME, pretrained=False)
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


def pictures(count, seed=0, side=SIDE):
    torch.manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6) * 255
    return normalise(torch.nn.functional.interpolate(coarse, (side, side), mode='bicubic'))


@pytest.fixture(scope='module')
def teacher(weights):
    torch.manual_seed(0)
    made = Teacher(NAME, weights, WIDTH, DIM)
    made.fit(pictures(20))
    return made


# ---- weights ------------------------------------------------------------------------------------


def test_weights_are_taken_in_order_whatever_their_names(network, weights):
    loaded = load_network(NAME, weights)
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training


def test_weights_of_another_network_are_refused(tmp_path):
    other = timm.create_model('tf_efficientnet_lite1', pretrained=False)
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(SettingError, match=f'other.pth are of another network than {NAME}'):
        load_network(NAME, str(tmp_path / 'other.pth'))


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    (tmp_path / 'broken.pth').write_bytes(b'no weights')
    with pytest.raises(CheckpointError, match='broken.pth: cannot be read'):
        load_network(NAME, str(tmp_path / 'broken.pth'))


def test_a_missing_package_gives_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lite0_weights', None)
    with pytest.raises(SettingError, match='needs its weights: pip install lite0_weights'):
        load_network(NAME, 'lite0_weights')


def test_a_package_brings_its_weights(tmp_path, monkeypatch):
    package = tmp_path / 'lite0_weights'
    (package / 'data').mkdir(parents=True)
    (package / '__init__.py').write_text('')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingError, match="package lite0_weights in .* has no teacher's weights"):
        find_weights('lite0_weights')
    (package / 'data' / 'w.pth').write_bytes(b'')
    assert find_weights('lite0_weights') == package / 'data' / 'w.pth'


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingError, match='nothing.pth are not there'):
        load_network(NAME, str(tmp_path / 'nothing.pth'))


@pytest.mark.parametrize('name', ['resnet18', 'efficientnet_b99'])
def test_other_networks_are_refused(name, weights):
    with pytest.raises(SettingError, match=f"teacher '{name}' is none of timm's EfficientNets"):
        load_network(name, weights)


def test_a_download_that_fails_says_what_else_there_is(monkeypatch):
    def offline(name, pretrained):
        raise ConnectionError('no route')

    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(SettingError, match=r'cannot be downloaded \(no route\): name a file'):
        load_network(NAME, '')


# ---- what is fitted -----------------------------------------------------------------------------


def test_scales_centre_the_channels_and_give_them_one_deviation():
    scale, maps = Scale(5), 3 + 2 * torch.randn(4, 5, 6, 7)
    maps[:, 4] = 7.0  # a channel that never changes
    scale.fit(maps)
    scaled = scale(maps)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3))[:4], torch.ones(4))
    assert (scaled[:, 4] == 0).all()


def test_a_projection_keeps_the_principal_components():
    torch.manual_seed(0)
    spread = torch.tensor([0.1, 5.0, 1.0, 0.01])
    rows = torch.randn(500, 4) * spread + 10
    projection = Projection(4, 2)
    projection.fit(rows)
    projected = projection(rows)
    torch.testing.assert_close(projected.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(projected.std(dim=0), spread[[1, 2]], atol=0.3, rtol=0)
    assert (projected.T @ projected / 500)[0, 1].abs() < 1e-3


def test_a_projection_may_be_wider_than_what_it_gets():
    projection = Projection(3, 5)
    projection.fit(torch.randn(50, 3))
    assert projection(torch.randn(2, 3)).shape == (2, 5)
    assert (projection(torch.randn(2, 3))[:, 3:] == 0).all()


def test_the_fitted_scales_centre_what_the_network_sees(teacher):
    maps = teacher._see(pictures(20))
    for scale, stage in zip(teacher.scales, maps, strict=True):
        scaled = scale(stage)
        assert scaled.mean(dim=(0, 2, 3)).abs().max() < 1e-3
        assert (scaled.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-2


# ---- targets ------------------------------------------------------------------------------------


def assert_unit(rows):
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]))


@pytest.mark.parametrize('side', [SIDE, 140])
def test_targets_are_unit_rows_on_the_students_grids(teacher, side):
    tokens, descriptor, local = teacher(pictures(3, side=side))
    patches = side // 14
    assert tokens.shape == (3, patches, patches, WIDTH)
    assert descriptor.shape == (3, WIDTH)
    assert local.shape == (3, (4 * patches - 3) ** 2, DIM)
    for rows in (tokens, descriptor, local):
        assert_unit(rows)
        assert not rows.requires_grad
    assert local.min() < 0
    # GeM counts negative values as nothing: a component and its opposite have a channel each.
    above, below = tokens.chunk(2, dim=-1)
    assert tokens.min() == 0
    assert above.max() > 0.1
    assert below.max() > 0.1
    assert (above * below == 0).all()


def test_targets_do_not_depend_on_the_batch_nor_on_the_state(teacher):
    images = pictures(5, seed=1)
    together = teacher(images)
    state = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    teacher.train()
    for alone, expected in zip(teacher(images[2:3]), together, strict=True):
        torch.testing.assert_close(alone, expected[2:3], atol=1e-4, rtol=0)
    for key, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def test_other_images_have_other_targets(teacher):
    tokens, descriptor, local = teacher(pictures(2, seed=2))
    assert (tokens[0] * tokens[1]).sum(dim=-1).mean() < 0.99
    assert (local[0] * local[1]).sum(dim=-1).mean() < 0.99
    assert descriptor[0] @ descriptor[1] < 0.999


def test_a_target_belongs_to_its_patch(teacher):
    """What moves by two patches moves by eight local features, too."""
    wide = pictures(1, seed=3, side=SIDE + 28)
    first, second = wide[..., :SIDE, :SIDE], wide[..., 28:, 28:]
    grid = 4 * (SIDE // 14) - 3
    before, after = (teacher(part)[2][0].unflatten(0, (grid, grid)) for part in (first, second))
    inner = slice(8, grid - 12)
    shifted = before[16:grid - 4, 16:grid - 4]
    likeness = (shifted * after[8:grid - 12, 8:grid - 12]).sum(dim=-1).mean()
    unmoved = (before[inner, inner] * after[inner, inner]).sum(dim=-1).mean()
    assert likeness > unmoved + 0.2


def test_nothing_of_the_teacher_is_trained_and_its_state_can_be_kept(teacher, weights):
    assert not any(p.requires_grad for p in teacher.parameters())
    assert {key.split('.')[0] for key in teacher.state_dict()} == {
        'stem', 'stages', 'scales', 'tokens', 'local', 'pool'}
    other = Teacher(NAME, weights, WIDTH, DIM)
    other.load_state_dict(teacher.state_dict())
    images = pictures(1, seed=4)
    for found, expected in zip(other(images), teacher(images), strict=True):
        assert torch.equal(found, expected)
