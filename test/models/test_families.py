"""Files of weights: which system they belong to, and what is said when they fit none."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from models_support import GLOBAL_ATOL, LOCAL_ATOL, full_size
from reference_weights import DATA, computed
from safetensors.torch import save_file
from tiny_checkpoints import HEADS, SIZES, make, published_state

import selavpr_ros
from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.families import FILES, family_of, sizes_of
from selavpr_ros.models.recognition import build_model

PACKAGE = Path(selavpr_ros.__file__).parent
State = dict[str, torch.Tensor]
every_family = pytest.mark.parametrize('family', sorted(SIZES))


def _file(model: VprModel, prefix: str = '') -> State:
    """A published file's tensors, with the mask token that nothing uses."""
    state = published_state(model, prefix)
    first = next(key for key in state if key.endswith('cls_token'))
    return {first.replace('cls_token', 'mask_token'): torch.ones(1, 64), **state}


def _assert_same(model: VprModel, other: VprModel) -> None:
    assert (model.family, sizes_of(model)) == (other.family, sizes_of(other))
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        if name != 'aggregation.p' or other.family != 'dinov2_gem':  # not in DINOv2's files
            assert torch.equal(tensor, expected[name]), name


# ---- what is recognised -------------------------------------------------------------------------


LAYOUTS = {
    'container of DataParallel': lambda model: {
        'epoch_num': 3, 'model_state_dict': _file(model, 'module.'), 'best_r5': np.float64(0.9),
        'recalls': np.ones(4), 'optimizer_state_dict': {'state': {0: {'step': torch.ones(1)}}}},
    'container': lambda model: {'epoch_num': 3, 'model_state_dict': _file(model)},
    'flat of DataParallel': lambda model: _file(model, 'module.'),
    'flat': _file,
    'lightning': lambda model: {
        'epoch': 3, 'state_dict': _file(model), 'optimizer_states': [], 'loops': {'a': None}},
}


@every_family
@pytest.mark.parametrize('layout', LAYOUTS)
def test_published_layouts(tmp_path, family, layout):
    model = make(family)
    torch.save(LAYOUTS[layout](model), tmp_path / 'file.pth')
    _assert_same(load_model(tmp_path / 'file.pth', num_heads=HEADS), model)


PREFIXES = ('model.', 'net.', '_orig_mod.', 'module._orig_mod.model.', 'encoder.q.')


@every_family
@pytest.mark.parametrize('prefix', PREFIXES)
def test_a_prefix_before_every_key_is_left_out(tmp_path, family, prefix):
    model = make(family)
    torch.save({'state_dict': _file(model, prefix)}, tmp_path / 'file.pth')
    _assert_same(load_model(tmp_path / 'file.pth', num_heads=HEADS), model)


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', 'backbone.model.'])
def test_a_backbone_alone_is_dinov2(prefix):
    model = make('dinov2_gem')
    _assert_same(build_model(_file(model, prefix), Path('file.pth'), HEADS), model)


@pytest.mark.parametrize('wrapper', ['module', '_orig_mod', '_fsdp_wrapped_module'])
def test_what_wrappers_put_into_keys_is_left_out(wrapper):
    model = make('selavpr')
    state = {key.replace('backbone.', f'backbone.{wrapper}.'): tensor
             for key, tensor in _file(model).items()}
    _assert_same(build_model(state, Path('file.pth'), HEADS), model)


def test_the_count_of_an_averaged_model_is_left_out():
    model = make('selavpr')
    state = {'n_averaged': torch.tensor(4), **_file(model, 'module.')}
    _assert_same(build_model(state, Path('file.pth'), HEADS), model)


@every_family
@pytest.mark.parametrize('names', [_file, VprModel.state_dict], ids=['published', 'own'])
def test_safetensors(tmp_path, family, names):
    model = make(family)
    save_file(names(model), tmp_path / 'file.safetensors')
    _assert_same(load_model(tmp_path / 'file.safetensors', num_heads=HEADS), model)


@pytest.mark.parametrize('family', ['selavpr', 'dinov2_gem'])
@pytest.mark.parametrize('registers', [0, 4])
def test_registers(family, registers):
    model = make(family, registers=registers)
    found = build_model(_file(model), Path('file.pth'), HEADS)
    _assert_same(found, model)
    assert found.backbone.antialias_positions == (family == 'dinov2_gem' and registers > 0)


def test_dinov2_brings_no_power_for_its_mean():
    model = build_model(_file(make('dinov2_gem')), Path('dinov2.pth'), HEADS)
    assert model.aggregation.p.tolist() == [3.0]


NAMES = [
    ('selavpr', 'backbone.blocks.1.attn.wrapped.qkv.bias', 'backbone.blocks.1.attn.qkv.bias'),
    ('selavpr', 'backbone.blocks.1.attn.adapter.down.bias',
     'backbone.blocks.1.adapter1.D_fc1.bias'),
    ('selavpr', 'backbone.blocks.1.mlp.adapter.up.bias', 'backbone.blocks.1.adapter2.D_fc2.bias'),
    ('selavpr', 'local_head.upconv1.bias', 'LocalAdapt.upconv1.bias'),
    ('selavpr', 'aggregation.p', 'aggregation.1.p'),
    ('cricavpr', 'backbone.blocks.1.mlp.wrapped.fc1.bias', 'backbone.blocks.1.mlp.fc1.bias'),
    ('cricavpr', 'backbone.blocks.1.mlp.adapter.branch2.1.bn.running_var',
     'backbone.blocks.1.adapter.branch2.1.bn.running_var'),
    ('cricavpr', 'backbone.blocks.1.mlp.adapter.down.bias',
     'backbone.blocks.1.adapter.D_fc1.bias'),
    ('cricavpr', 'encoder.layers.0.linear1.bias', 'encoder.layers.0.linear1.bias'),
    ('salad', 'backbone.norm.bias', 'backbone.model.norm.bias'),
    ('salad', 'aggregator.dust_bin', 'aggregator.dust_bin'),
    ('fol', 'backbone.cls_token', 'backbone.model.cls_token'),
    ('fol', 'local_head.upconv1.bias', 'upconv.bias'),
    ('fol', 'local_head.upconv2.bias', 'upconv2.bias'),
    ('dinov2_gem', 'backbone.blocks.1.ls1.gamma', 'blocks.1.ls1.gamma'),
]


@pytest.mark.parametrize(('family', 'ours', 'published'), NAMES)
def test_published_names(family, ours, published):
    model = make(family)
    assert ours in model.state_dict()
    translate = family_of(model).published
    for name in (ours, published, f'module.{published}'):
        assert translate(name) == published


def test_heads_are_64_wide_unless_told():
    state = published_state(make('salad', width=128))
    assert sizes_of(build_model(state, Path('salad.ckpt')))['num_heads'] == 2
    assert sizes_of(build_model(state, Path('salad.ckpt'), 8))['num_heads'] == 8


def test_float_counts_and_half_weights_are_taken():
    state = {name: tensor.half() for name, tensor in _file(make('cricavpr')).items()}
    assert build_model(state, Path('half.pth'), HEADS).dtype == torch.float16


# ---- what is not --------------------------------------------------------------------------------


def _refusal(state: State, num_heads: int = HEADS) -> str:
    with pytest.raises(CheckpointError) as caught:
        build_model(state, Path('folder/file.pth'), num_heads)
    message = str(caught.value)
    assert message.startswith('folder/file.pth: not a checkpoint of any known system '
                              '(cricavpr, dinov2_gem, fol, salad, selavpr); ')
    assert '\n' not in message
    return message.partition('); ')[2]


def _last_norm(state: State) -> str:
    return next(key for key in state if key.endswith('norm.weight') and 'blocks' not in key)


@every_family
def test_a_missing_key(family):
    state = _file(make(family))
    key = _last_norm(state)
    del state[key]
    assert _refusal(state) == f'it is nearest to {family}, but missing: {key}'


@every_family
def test_a_key_too_many_is_named_as_in_the_file(family):
    state = {**_file(make(family), 'module.'), 'module.head.weight': torch.ones(2)}
    assert _refusal(state) == f'it is nearest to {family}, but not known there: module.head.weight'


def test_keys_that_are_there_with_and_without_a_prefix_are_two():
    state = _file(make('selavpr'))
    state['module.aggregation.1.p'] = torch.ones(1)
    assert _refusal(state).startswith('it is nearest to selavpr, but not known there: ')


@every_family
@pytest.mark.parametrize('number', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_no_number(family, number, dtype):
    state = {key: tensor.to(dtype) for key, tensor in _file(make(family)).items()}
    state[_last_norm(state)].view(-1)[3] = number
    with pytest.raises(CheckpointError, match=r'^file\.pth: NaN or infinity in \S*norm\.weight: '
                                              'the training diverged, or the file is damaged'):
        build_model(state, Path('file.pth'), HEADS)


@every_family
def test_a_wrong_shape(family):
    state = _file(make(family))
    key = _last_norm(state)
    state[key] = torch.ones(65)
    assert _refusal(state) == (f'it is nearest to {family}, but of another shape or type: '
                               f'{key} [65] instead of [64]')


@every_family
def test_a_tensor_of_integers(family):
    state = _file(make(family))
    key = _last_norm(state)
    state[key] = state[key].to(torch.int8)
    assert _refusal(state).endswith(f'{key} [64] torch.int8 instead of [64]')


SIZES_COME_FROM = (
    'cls_token', 'blocks.0.adapter1.D_fc1.weight', 'blocks.0.adapter.D_fc1.weight',
    'branch1.conv.weight', 'branch2.0.conv.weight', 'branch2.1.conv.weight', 'linear1.weight',
    'upconv1.weight', 'upconv2.weight', 'upconv.weight', 'score.0.weight', 'score.3.weight',
    'cluster_features.3.weight', 'token_features.2.weight', 'register_tokens')


@every_family
@pytest.mark.parametrize('shape', [(), (5,), (1, 0, 0, 0)])
@pytest.mark.filterwarnings('ignore:Initializing zero-element tensors')
def test_absurd_shapes_of_the_tensors_that_sizes_are_read_from(family, shape):
    """They may even lack the axis that is asked for."""
    registers = {'registers': 4} if family in ('selavpr', 'dinov2_gem') else {}
    published = _file(make(family, depth=1, **registers))
    for key in published:
        if key.endswith(SIZES_COME_FROM):
            with pytest.raises(CheckpointError):
                build_model({**published, key: torch.ones(shape)}, Path('a.pth'), HEADS)


def test_another_width_of_one_tensor_is_told_with_the_shapes():
    state = _file(make('selavpr'))
    state['backbone.cls_token'] = torch.ones(1, 1, 65)
    assert ('backbone.pos_embed [1, 1370, 64] instead of [1, 1370, 65], '
            'backbone.patch_embed.proj.weight') in _refusal(state)


def test_of_many_keys_the_first_are_named():
    state = {key: tensor for key, tensor in _file(make('cricavpr')).items()
             if not key.startswith('encoder.')}
    reason = _refusal(state)
    assert reason.startswith('it is nearest to cricavpr, but missing: '
                             'encoder.layers.0.self_attn.in_proj_weight, ')
    assert reason.endswith(' and 9 more')


def test_a_network_of_another_kind():
    state = {f'layer{i}.conv.weight': torch.zeros(1) for i in range(5)}
    assert _refusal(state) == ('the file begins with layer0.conv.weight, layer1.conv.weight, '
                               'layer2.conv.weight and 2 more')


@every_family
@pytest.mark.parametrize('heads', [5, 128, -4])
def test_heads_that_do_not_divide_the_width(family, heads):
    with pytest.raises(SettingError, match=rf'file\.pth: {heads} attention heads do not divide '
                                           "the transformer's width of 64; give .*num_heads"):
        build_model(_file(make(family)), Path('file.pth'), heads)


# ---- what a new family takes --------------------------------------------------------------------


def _compared(tree: ast.AST) -> set[object]:
    """The literals that code compares something with, or looks up in a dictionary of its own."""
    parts = [part for node in ast.walk(tree) for part in (
        [node.left, *node.comparators] if isinstance(node, ast.Compare)
        else node.keys if isinstance(node, ast.Dict) else [])]
    return {node.value for part in parts if part for node in ast.walk(part)
            if isinstance(node, ast.Constant)}


@pytest.mark.parametrize('file', [
    file for file in sorted(PACKAGE.rglob('*.py')) if file.parent.name != 'families'],
    ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_family_is_told_by_its_name_outside_of_its_file(file):
    assert _compared(ast.parse(file.read_text())).isdisjoint(FILES)


# ---- full size ----------------------------------------------------------------------------------


# The totals count the unused mask token.
FULL_SIZE = {
    'selavpr': ('selavpr', 357_428_609, 16), 'selavpr_reg': ('selavpr', 357_432_705, 16),
    'cricavpr': ('cricavpr', 106_761_665, 12), 'salad': ('salad', 87_991_489, 12),
    'fol': ('fol', 308_827_456, 16)}


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('listing', FULL_SIZE)
def test_published_sizes(shared, listing, prefix):
    family, parameters, heads = FULL_SIZE[listing]
    published = full_size(shared / 'goldens' / f'keys_{listing}.txt')
    model = build_model({prefix + key: tensor for key, tensor in published.items()}, Path('x'))
    assert (model.family, sizes_of(model)['num_heads']) == (family, heads)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted + model.backbone.embed_dim == parameters


@pytest.mark.parametrize(('listing', 'prefix', 'parameters'), [
    ('salad', 'backbone.model.', 86_580_480), ('fol', 'backbone.model.', 304_368_640)])
def test_sizes_of_dinov2(shared, listing, prefix, parameters):
    published = full_size(shared / 'goldens' / f'keys_{listing}.txt')
    state = {key.removeprefix(prefix): tensor for key, tensor in published.items()
             if key.startswith(prefix)}
    model = build_model(state, Path('dinov2.pth'))
    assert (model.family, sizes_of(model)['registers']) == ('dinov2_gem', 0)
    counted = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert counted + model.backbone.embed_dim == parameters


# ---- without ../shared --------------------------------------------------------------------------


@every_family
def test_compact_reference_keeps_parity_alive(family):
    """Arrays in the repository, made when the code agreed with the goldens."""
    found, expected = computed(family), np.load(DATA / f'{family}_tiny.npz')
    assert found.keys() == set(expected.files)
    for name, array in found.items():
        atol = LOCAL_ATOL if name == 'local_features' else GLOBAL_ATOL
        np.testing.assert_allclose(array, expected[name], atol=atol, rtol=0)
