"""The network that a training starts with, and what of it is trained."""

import pytest
import timm
import torch
from tiny_checkpoints import make, write

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.images.preprocess import normalise
from selavpr_ros.models import load_model
from selavpr_ros.models.conv_stem import NETWORK
from selavpr_ros.models.families import family_named, trainable
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.start import count_parameters, freeze, start_model

# Smaller heads than published, where these are what takes time.
SMALL = {'selavpr': {'local_hidden': 32, 'local_dim': 16}, 'cricavpr': {'encoder_hidden': 64},
         'salad': {'hidden': 32, 'clusters': 8, 'cluster_dim': 16, 'token_dim': 32},
         'fol': {'hidden': 32, 'clusters': 8, 'cluster_dim': 16, 'token_dim': 32,
                 'local_hidden': 32, 'local_dim': 16}}
SIZES = {'selavpr': (112, 154), 'cricavpr': (168, 168), 'salad': (112, 154), 'fol': (266, 266)}
SCRATCH = {'family': 'selavpr', 'width': 32, 'depth': 1, 'num_heads': 2, 'adapter_hidden': 8,
           'local_hidden': 8, 'local_dim': 8}


@pytest.fixture(scope='module')
def dinov2(tmp_path_factory):
    """A file like DINOv2's, six blocks deep."""
    folder = tmp_path_factory.mktemp('dinov2')
    return str(write(folder / 'dinov2.pth', make('dinov2_gem', depth=6)))


def on_backbone(dinov2, family, **changes):
    return start_model(Recipe(**{
        'backbone': dinov2, 'architecture': {'family': family, **SMALL[family]},
        'image_size': SIZES[family], **changes}))


def trained(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


# ---- on a backbone ------------------------------------------------------------------------------


@pytest.mark.parametrize('family', trainable())
def test_a_new_network_begins_as_plain_dinov2(dinov2, family):
    """Adapters begin as no change: the tokens are DINOv2's own."""
    model, plain = on_backbone(dinov2, family), load_model(dinov2)
    torch.manual_seed(0)
    images = normalise(255 * torch.rand(2, 3, *SIZES[family]))
    with torch.no_grad():
        tokens, patches = model.eval().backbone(images)
        expected_tokens, expected_patches = plain.backbone(images)
    torch.testing.assert_close(tokens, expected_tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patches, expected_patches, atol=1e-5, rtol=1e-5)
    assert (model.family, model.resize, model.image_size) == (family, 'area', SIZES[family])


@pytest.mark.parametrize('family', ['selavpr', 'cricavpr'])
def test_adapters_and_heads_alone_are_trained(dinov2, family):
    model = on_backbone(dinov2, family)
    names = trained(model)
    inner = [name for name in names if name.startswith('backbone.')]
    assert all('.adapter.' in name for name in inner)
    assert len(inner) == sum('.adapter.' in name for name, _ in model.named_parameters())
    heads = {name.split('.')[0] for name in names} - {'backbone'}
    assert heads == ({'aggregation', 'local_head'} if family == 'selavpr'
                     else {'aggregation', 'encoder'})
    assert model.training


@pytest.mark.parametrize('family', ['salad', 'fol'])
def test_without_adapters_the_last_four_blocks_the_norm_and_the_heads_are_trained(dinov2, family):
    names = trained(on_backbone(dinov2, family))
    blocks = {name.split('.')[2] for name in names if name.startswith('backbone.blocks.')}
    assert blocks == {'2', '3', '4', '5'}
    assert {'backbone.norm.weight', 'backbone.norm.bias'} <= set(names)
    assert not {'backbone.cls_token', 'backbone.pos_embed',
                'backbone.patch_embed.proj.weight'} & set(names)
    heads = {name.split('.')[0] for name in names} - {'backbone'}
    assert heads == ({'aggregator'} if family == 'salad' else {'aggregator', 'local_head'})


def test_registers_of_the_backbone_are_kept(tmp_path):
    path = write(tmp_path / 'reg.pth', make('dinov2_gem', registers=4))
    model = on_backbone(str(path), 'selavpr')
    assert torch.equal(model.backbone.register_tokens, load_model(path).backbone.register_tokens)
    assert not model.backbone.register_tokens.requires_grad


def test_equal_seeds_give_equal_heads(dinov2):
    one, same, other = (on_backbone(dinov2, 'selavpr', seed=seed) for seed in (1, 1, 2))
    weights = [model.local_head.upconv1.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_adapters_of_another_width_keep_the_published_proportions(dinov2):
    model = start_model(Recipe(backbone=dinov2, image_size=(168, 168), architecture={
        'family': 'cricavpr', 'adapter_hidden': 16, 'encoder_hidden': 64}))
    adapter = model.backbone.blocks[0].mlp.adapter
    assert adapter.down.out_features == 16
    assert [branch.conv.out_channels for branch in (
        adapter.branch1, *adapter.branch2, *adapter.branch3)] == [8, 1, 4, 1, 4]
    with torch.no_grad():
        model(torch.zeros(2, 3, 168, 168))


# ---- the published sizes ------------------------------------------------------------------------

VIT_B = {'width': 768, 'depth': 12, 'num_heads': 12}
VIT_L = {'width': 1024, 'depth': 24, 'num_heads': 16}


def published(family, sizes):
    """A network of the published size without any values."""
    with torch.device('meta'):
        model = family_named(family).network(**sizes)
    freeze(model)
    return model


def count(model, *parts):
    return sum(p.numel() for name, p in model.named_parameters()
               if p.requires_grad and any(part in name for part in parts))


def test_selavpr_trains_as_many_weights_as_published():
    model = published('selavpr', VIT_L)
    parts = [count(model, part) for part in ('.adapter.', 'local_head.', 'aggregation.')]
    assert parts == [50_405_376, 2_654_592, 1]
    # The published total counts DINOv2's mask token, which nothing reads.
    assert count_parameters(model) == (357_428_609 - 1024, sum(parts))


def test_cricavpr_trains_as_many_weights_as_published():
    model = published('cricavpr', VIT_B)
    parts = [count(model, part) for part in ('.adapter.', 'encoder.', 'aggregation.')]
    assert parts == [9_153_216, 11_027_968, 1]
    assert count_parameters(model) == (106_761_665 - 768, sum(parts))


def test_salad_trains_as_many_weights_as_published():
    model = published('salad', VIT_B)
    assert count(model, 'backbone.blocks.') == 28_357_632
    assert count(model, 'backbone.norm.') == 1536
    assert count(model, 'aggregator.') == 1_411_009
    assert count_parameters(model)[0] == 87_991_489 - 768


def test_fol_trains_its_last_blocks_and_heads():
    model = published('fol', VIT_L)
    assert count(model, 'aggregator.') == 1_804_224
    assert count(model, 'local_head.') == 2_359_552 + 295_040
    assert count_parameters(model)[0] == 308_827_456 - 1024


# ---- from weights and from scratch --------------------------------------------------------------


def test_weights_go_on_with_their_adapters_and_heads(tmp_path):
    path = str(write(tmp_path / 'w.pth', make('selavpr')))
    model = start_model(Recipe(weights=path, image_size=(56, 70)))
    assert model.training
    assert model.image_size == (56, 70)
    assert all('.adapter.' in n or not n.startswith('backbone.') for n in trained(model))
    assert 'aggregation.p' in trained(model)
    for name, tensor in load_model(path).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_from_scratch_everything_is_trained():
    model = start_model(Recipe(architecture=SCRATCH, image_size=(56, 56)))
    total, learned = count_parameters(model)
    assert total == learned > 0
    assert model.resize == 'area'


def test_a_stem_begins_with_weights_of_its_own(tmp_path):
    network = timm.create_model(NETWORK)
    torch.save(network.state_dict(), tmp_path / 'lite0.pth')
    architecture = {**SCRATCH, 'conv_stem': True}
    model = start_model(Recipe(
        architecture=architecture, stem_weights=str(tmp_path / 'lite0.pth')))
    assert not model.backbone.patch_embed.conv.weight.requires_grad
    assert model.backbone.patch_embed.proj.weight.requires_grad
    with pytest.raises(SettingError, match='nowhere.pth are not there'):
        start_model(Recipe(architecture=architecture, stem_weights=str(tmp_path / 'nowhere.pth')))


@pytest.mark.parametrize(('changes', 'words'), [
    ({}, 'nothing to train: give weights, a backbone or an architecture'),
    ({'weights': 'embedded', 'backbone': 'b'}, 'weights and backbone'),
    ({'weights': 'embedded', 'architecture': SCRATCH}, 'weights and architecture'),
    ({'weights': 'hog'}, 'hog has nothing to train'),
    ({'architecture': {**SCRATCH, 'family': 'netvlad'}}, "family 'netvlad' is none of cricavpr"),
    ({'architecture': {**SCRATCH, 'family': 'dinov2_gem'}}, "family 'dinov2_gem' is none of"),
    ({'architecture': {**SCRATCH, 'heads': 2}}, "architecture: .*'heads'"),
    ({'architecture': {'family': 'selavpr', 'width': 32}}, 'architecture: .*missing'),
    ({'architecture': {**SCRATCH, 'num_heads': 3}}, 'architecture: '),
    ({'architecture': SCRATCH, 'image_size': (50, 56)}, 'multiples of 14, got 50x56'),
])
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(SettingError, match=words):
        start_model(Recipe(**changes))


def test_stems_are_for_selavpr():
    sizes = {**SMALL['salad'], 'family': 'salad', 'width': 64, 'depth': 1, 'num_heads': 1}
    with pytest.raises(SettingError, match="architecture: .*'conv_stem'"):
        start_model(Recipe(architecture={**sizes, 'conv_stem': True}))


def test_a_trained_system_is_no_backbone(tmp_path):
    path = write(tmp_path / 'w.pth', make('selavpr'))
    with pytest.raises(SettingError, match='w.pth is selavpr, not a plain DINOv2: '
                                           'give it as weights'):
        on_backbone(str(path), 'selavpr')


def test_a_backbone_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match='nothing.pth: no such file'):
        on_backbone(str(tmp_path / 'nothing.pth'), 'selavpr')
