"""The convolutional patch embedding, with random weights: no download."""

import copy

import pytest
import timm
import torch
from models_support import pictures

from selavpr_ros.images.preprocess import normalise
from selavpr_ros.models.conv_stem import CHANNELS, NETWORK, ConvStem, Scale, fuse, unit
from selavpr_ros.models.families import sizes_of
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.models.recognition import build_model

WIDTH = 24


@pytest.fixture(scope='module')
def stem():
    torch.manual_seed(0)
    return ConvStem(WIDTH).eval().requires_grad_(False)


# ---- the network --------------------------------------------------------------------------------


@torch.no_grad()
def test_without_its_normalisations_the_network_sees_the_same():
    torch.manual_seed(0)
    network = timm.create_model(NETWORK).eval()
    for name, tensor in network.state_dict().items():  # as if it had seen something
        if name.endswith('running_mean'):
            tensor.normal_(std=0.1)
        elif name.endswith('running_var'):
            tensor.uniform_(0.5, 2)
    fused, images = fuse(copy.deepcopy(network)), torch.randn(2, 3, 64, 96)
    assert not any('running' in name for name in fused.state_dict())
    torch.testing.assert_close(fused(images), network(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(('sides', 'cells'), [
    ((224, 224), [(28, 28), (14, 14), (14, 14), (7, 7)]),
    ((112, 154), [(14, 20), (7, 10), (7, 10), (4, 5)]),
])
def test_four_stages_are_looked_at(stem, sides, cells):
    maps = stem.maps(pictures(1, *sides))
    assert [tuple(stage.shape) for stage in maps] == [
        (1, channels, *side) for channels, side in zip(CHANNELS, cells, strict=True)]


def test_the_network_gets_the_range_that_it_was_trained_with(stem):
    seen = []
    hook = stem.conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    stem.maps(normalise(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2).expand(1, 3, 28, 2)))
    hook.remove()
    torch.testing.assert_close(seen[0].aminmax(), torch.return_types.aminmax(
        (torch.tensor(-1.0), torch.tensor(1.0))))


# ---- patches ------------------------------------------------------------------------------------


def test_scales_centre_the_channels_and_give_them_one_deviation():
    scale, maps = Scale(5), 3 + 2 * torch.randn(4, 5, 6, 7)
    maps[:, 4] = 7.0  # a channel that never changes
    scale.fit(maps)
    scaled = scale(maps)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3))[:4], torch.ones(4))
    assert (scaled[:, 4] == 0).all()


def test_unit_vectors_are_exact_in_half_precision():
    maps = torch.full((1, 4, 1, 2), 1e-4, dtype=torch.float16)
    assert unit(maps).dtype == torch.float16
    torch.testing.assert_close(unit(maps), torch.full_like(maps, 0.5))
    assert (unit(torch.zeros(1, 4, 1, 1)) == 0).all()


@pytest.mark.parametrize('stage', range(4))
def test_what_a_stage_sees_goes_to_the_patch_at_its_place(stage):
    """A single cell above the middle of the right side, in maps of a 224x224 image."""
    stem = ConvStem(WIDTH)
    maps = [torch.zeros(1, channels, side, side)
            for channels, side in zip(CHANNELS, (28, 14, 14, 7), strict=True)]
    side = maps[stage].shape[-1]
    maps[stage][0, 5, side // 3, side - 1] = 1.0
    patches = stem.patches(maps, (16, 16))
    assert patches.shape == (1, 16, 16, stem.proj.in_features)
    rows, columns, channels = (patches[0] > 0).nonzero().unbind(1)
    assert abs(rows.float().mean() + 0.5 - (side // 3 + 0.5) / side * 16) < 0.7
    assert columns.min() >= 12
    starts = [0, stem.detail_width, *(stem.detail_width + sum(CHANNELS[1:i]) for i in (2, 3))]
    width = 4 if stage == 0 else 1  # the four quarters of a channel are neighbours
    assert starts[stage] + 5 * width <= channels.min()
    assert channels.max() < starts[stage] + 6 * width


def test_a_change_in_a_corner_changes_the_tokens_there(stem):
    images = pictures(1, 224, 224)
    changed = images.clone()
    changed[..., 196:, 196:] *= -1
    change = (stem(changed) - stem(images)).norm(dim=-1)[0]
    assert change.shape == (16, 16)
    assert change[14:, 14:].min() > 10 * change[:6, :6].max()


# ---- in a model ---------------------------------------------------------------------------------


def test_a_file_tells_that_there_is_a_stem(tmp_path):
    sizes = {'width': 32, 'depth': 1, 'num_heads': 2, 'adapter_hidden': 8, 'local_hidden': 8,
             'local_dim': 8}
    model = SelaVPR(**sizes, conv_stem=True).eval()
    assert sizes_of(model) == {**sizes, 'registers': 0, 'conv_stem': True}
    loaded = build_model(model.state_dict(), tmp_path, num_heads=2).eval()
    images = pictures(2, 56, 70)
    with torch.no_grad():
        found, expected = loaded(images), model(images)
    assert torch.equal(found.global_descriptor, expected.global_descriptor)
    assert torch.equal(found.local_features, expected.local_features)
    assert not sizes_of(SelaVPR(**sizes))['conv_stem']


def test_training_mode_changes_nothing_in_the_stem(stem):
    images = pictures(2)
    expected = stem(images)
    assert torch.equal(stem.train()(images), expected)
    torch.testing.assert_close(stem(images[:1]), expected[:1], atol=1e-5, rtol=0)
