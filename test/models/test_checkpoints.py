"""Reading files of weights: what is broken or hostile is refused in one line."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from selavpr_ros.errors import CheckpointError
from selavpr_ros.models.checkpoints import read_checkpoint, read_metadata, sha256
from selavpr_ros.models.file_kinds import SAVE_TENSORS

STATE = {'norm.weight': torch.arange(100.0), 'norm.bias': torch.ones(3)}


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f'{path}: ')
    assert '\n' not in str(caught.value)
    return str(caught.value).removeprefix(f'{path}: ')


def _read(path: Path) -> list[str]:
    state, metadata = read_checkpoint(path)
    assert metadata == {}
    assert torch.equal(state['norm.weight'], STATE['norm.weight'])
    return list(state)


def test_sha256_is_that_of_the_bytes(tmp_path):
    content = np.random.RandomState(0).bytes((1 << 20) + 7)
    (tmp_path / 'file').write_bytes(content)
    assert sha256(tmp_path / 'file') == hashlib.sha256(content).hexdigest()


# ---- containers ---------------------------------------------------------------------------------


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('key', ['model_state_dict', 'state_dict', None])
def test_containers(tmp_path, key, zipped):
    content = {'epoch': 3, 'recalls': np.ones(4), 'best_r5': np.float64(0.5), key: STATE}
    torch.save(content if key else STATE, tmp_path / 'file.pth',
               _use_new_zipfile_serialization=zipped)
    assert _read(tmp_path / 'file.pth') == list(STATE)


@pytest.mark.parametrize('content', [
    [torch.ones(1)], torch.ones(1), {}, {'model_state_dict': {}}, {'state_dict': None},
    {0: torch.ones(1)}, 'text', None])
def test_contents_that_are_no_dictionary_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / 'file.pth')
    assert _refusal(tmp_path / 'file.pth') == f'no dictionary of tensors in it: {SAVE_TENSORS}'


def _optimizer() -> dict[str, object]:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize('wrap', [
    lambda state: {'model': state}, lambda state: {'net': state}, lambda state: {'ema': state},
    lambda state: {'my_network': state, 'best': torch.tensor(0.9)},
    lambda state: {'checkpoint': {'model': {'state_dict': state}}},
    lambda state: {'ema': {'module': state, 'decay': 0.9}},
    lambda state: {'anything': state, 'optim_g': {'state': {'a': torch.ones(2)}}},
    lambda state: {**state, 'epoch': 3, 'arch': 'selavpr'},
    lambda state: {'norm': {key.removeprefix('norm.'): value for key, value in state.items()}},
], ids=range(9))
def test_weights_are_found_below_any_name_beside_an_optimizer(tmp_path, wrap):
    torch.save({**wrap(STATE), 'optimizer': _optimizer(), 'epoch': 3}, tmp_path / 'file.pth')
    assert [key.removeprefix('norm.') for key in read_checkpoint(tmp_path / 'file.pth')[0]] == [
        'weight', 'bias']


def test_of_two_sets_of_weights_the_averaged_one_is_used_and_told(tmp_path, caplog):
    mine = {key: value + 1 for key, value in STATE.items()}
    torch.save({'model': mine, 'ema': STATE}, tmp_path / 'file.pth')
    assert _read(tmp_path / 'file.pth') == list(STATE)
    assert "file.pth: the tensors under 'ema' are used, not those under 'model'" in caplog.text


def test_parts_that_were_saved_apart_keep_their_names(tmp_path):
    torch.save({'encoder': {'a': torch.ones(2)}, 'head': {'b': torch.ones(3)}, 'epoch': 3},
               tmp_path / 'file.pth')
    assert list(read_checkpoint(tmp_path / 'file.pth')[0]) == ['encoder.a', 'head.b']


def _cut(path: Path, kept: int) -> Path:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    return path


@pytest.mark.parametrize('kept', [3, 14, 700, -50, -1])
def test_a_download_that_was_cut_off(tmp_path, kept):
    assert _refusal(_cut(tmp_path / 'file.pth', kept)) == (
        'cannot be read as a checkpoint (it is cut off: get it again)')


@pytest.mark.parametrize('kept', [20, -300, -1])
def test_an_old_container_that_was_cut_off(tmp_path, kept):
    path = tmp_path / 'file.pth'
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:kept])
    assert 'it is cut off: get it again' in _refusal(path)


def test_an_unusual_pickle_says_how_to_save_the_tensors(tmp_path):
    torch.save(STATE, tmp_path / 'file.pth', pickle_protocol=4)
    reason = _refusal(tmp_path / 'file.pth')
    assert reason.startswith('cannot be read as a checkpoint (not a file of torch.save, or cut')
    assert 'torch.save(model.state_dict(), FILE)' in reason
    assert 'weights_only' not in reason  # torch advises to read it unsafely


@pytest.mark.parametrize('name', ['none.pth', 'none.safetensors', 'vit_embedded'])
def test_a_missing_file_says_what_can_be_given(tmp_path, name):
    assert _refusal(tmp_path / name).startswith('no such file; give the path of a')


# ---- hostile pickles ----------------------------------------------------------------------------


class _Hostile:
    """Unpickling this would make a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f'touch {self.proof}',)


class _Call:
    """Unpickling this would call a function."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


class _Plain:
    """Some object of the training code."""

    def __init__(self) -> None:
        self.settings = {1: 2}


class _Config(dict):
    """A dictionary of the training code."""


CONTAINERS = {
    'alone': lambda thing: thing,
    'as the weights': lambda thing: {'model_state_dict': thing},
    'among the weights': lambda thing: {'model_state_dict': {**STATE, 'thing': thing}},
    'beside the weights': lambda thing: {'model_state_dict': STATE, 'args': thing},
    'in a lightning container': lambda thing: {'state_dict': STATE, 'hyper_parameters': thing},
}


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('place', CONTAINERS)
def test_a_pickle_that_runs_code_is_refused(tmp_path, place, zipped):
    path, proof = tmp_path / 'hostile.pth', tmp_path / 'was_here'
    torch.save(CONTAINERS[place](_Hostile(proof)), path, _use_new_zipfile_serialization=zipped)
    assert _refusal(path) == ('cannot be read as a checkpoint (it wants to run posix.system, and '
                              'nothing but tensors and numbers is loaded)')
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # it would have been


@pytest.mark.parametrize('thing', [
    _Plain(), _Config(rate=0.1, nested=_Config(a=1)), argparse.Namespace(output=Path('x')),
    defaultdict(list, a=[1]), datetime(2026, 1, 1), np.ones(3, np.float16), np.str_('x')],
    ids=lambda thing: type(thing).__name__)
def test_objects_of_training_code_beside_the_weights_are_left_out(tmp_path, thing):
    torch.save({'state_dict': STATE, 'config': thing}, tmp_path / 'file.ckpt')
    assert _read(tmp_path / 'file.ckpt') == list(STATE)


@pytest.mark.parametrize('call', [
    (eval, '1'), (exec, '1'), (getattr, 'a', 'upper'), (subprocess.call, 'true'), (open, 'x')],
    ids=lambda call: call[0].__name__)
def test_functions_of_python_are_refused(tmp_path, call):
    torch.save({'state_dict': STATE, 'args': _Call(*call)}, tmp_path / 'file.pth')
    assert 'it wants to run' in _refusal(tmp_path / 'file.pth')


@pytest.mark.parametrize('wrap', [lambda model: model, lambda model: {'model': model, 'epoch': 3}],
                         ids=['alone', 'in a container'])
def test_a_whole_model_says_how_to_save_its_tensors(tmp_path, wrap):
    torch.save(wrap(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU())),
               tmp_path / 'file.pt')
    assert _refusal(tmp_path / 'file.pt') == (
        'it holds a whole model as a Python object, which only its own code can make: '
        f'{SAVE_TENSORS}')


# ---- safetensors --------------------------------------------------------------------------------


def _safetensors(path: Path, metadata: object = None) -> Path:
    save_file(STATE, path, {'selavpr_ros': json.dumps(metadata)} if metadata is not None else None)
    return path


def test_safetensors_with_and_without_metadata(tmp_path):
    assert sorted(_read(_safetensors(tmp_path / 'a.safetensors'))) == sorted(STATE)
    told = {'num_heads': 4, 'image_size': [112, 112], 'something_else': None}
    assert read_checkpoint(_safetensors(tmp_path / 'b.safetensors', told))[1] == told


def test_broken_safetensors(tmp_path):
    path = _safetensors(tmp_path / 'file.safetensors')
    content = path.read_bytes()
    for kept in (6, 9, 60, len(content) - 9):
        path.write_bytes(content[:kept])
        assert _refusal(path).endswith('(it is cut off: get it again)')


@pytest.mark.parametrize(('metadata', 'reason'), [
    ([], 'no JSON object'), (3, 'no JSON object'),
    ({'num_heads': '4'}, "num_heads = '4'"), ({'image_size': [224]}, r'image_size = \[224\]'),
    ({'image_size': [224, 'x']}, r"image_size = \[224, 'x'\]"),
    ({'local_stride': 0}, 'local_stride = 0'), ({'source_name': 3}, 'source_name = 3')])
def test_metadata_that_say_nonsense(tmp_path, metadata, reason):
    with pytest.raises(CheckpointError, match=f'its metadata (are|say) {reason}'):
        read_checkpoint(_safetensors(tmp_path / 'file.safetensors', metadata))


def test_the_content_tells_the_format_and_not_the_name(tmp_path):
    assert sorted(_read(_safetensors(tmp_path / 'file.pth'))) == sorted(STATE)
    assert read_metadata(_safetensors(tmp_path / 'file.bin', {'num_heads': 4})) == {'num_heads': 4}
    torch.save(STATE, tmp_path / 'file.safetensors')
    assert _read(tmp_path / 'file.safetensors') == list(STATE)
    assert read_metadata(tmp_path / 'file.safetensors') == {}
