"""Reading files of weights: what is broken or hostile is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from selavpr_ros.errors import CheckpointError
from selavpr_ros.models.checkpoints import read_checkpoint, sha256

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
    {'state_dict': {**STATE, 'steps': 3}}, {'model_state_dict': {**STATE, 'nested': STATE}},
    {0: torch.ones(1)}, 'text'])
def test_contents_that_are_no_dictionary_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / 'file.pth')
    assert _refusal(tmp_path / 'file.pth') == 'no dictionary of tensors in it'


def _cut(path: Path, kept: int) -> Path:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    return path


@pytest.mark.parametrize('kept', [0, 700, -50])
def test_a_download_that_was_cut_off(tmp_path, kept):
    assert _refusal(_cut(tmp_path / 'file.pth', kept)) == (
        'cannot be read as a checkpoint (it is empty or cut off: get it again)')


@pytest.mark.parametrize('text', ['hello', '<!DOCTYPE html><html>Virus scan warning</html>'])
def test_a_page_that_was_saved_as_a_checkpoint(tmp_path, text):
    (tmp_path / 'file.pth').write_text(text)
    reason = _refusal(tmp_path / 'file.pth')
    assert reason.startswith('cannot be read as a checkpoint (not a file of torch.save')
    assert 'weights_only' not in reason  # torch advises to read it unsafely


@pytest.mark.parametrize('name', ['none.pth', 'none.safetensors', 'folder.pth', 'vit_embedded'])
def test_a_missing_file_says_what_can_be_given(tmp_path, name):
    (tmp_path / 'folder.pth').mkdir()
    assert _refusal(tmp_path / name).startswith('no such file; give the path of a')


# ---- hostile pickles ----------------------------------------------------------------------------


class _Hostile:
    """Unpickling this would make a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f'touch {self.proof}',)


class _Plain:
    """Some object of the training code."""


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


def test_objects_of_training_code_are_named(tmp_path):
    torch.save({'state_dict': STATE, 'config': _Plain()}, tmp_path / 'file.ckpt')
    assert '_Plain, and nothing but tensors' in _refusal(tmp_path / 'file.ckpt')


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
    for kept in (0, 6, len(content) - 9):
        path.write_bytes(content[:kept])
        assert _refusal(path).endswith('(it is empty or cut off: get it again)')
    path.write_text('this is no file of safetensors')
    assert _refusal(path).startswith('cannot be read as a checkpoint (')


@pytest.mark.parametrize(('metadata', 'reason'), [
    ([], 'no JSON object'), (3, 'no JSON object'),
    ({'num_heads': '4'}, "num_heads = '4'"), ({'image_size': [224]}, r'image_size = \[224\]'),
    ({'image_size': [224, 'x']}, r"image_size = \[224, 'x'\]"),
    ({'local_stride': 0}, 'local_stride = 0'), ({'source_name': 3}, 'source_name = 3')])
def test_metadata_that_say_nonsense(tmp_path, metadata, reason):
    with pytest.raises(CheckpointError, match=f'its metadata (are|say) {reason}'):
        read_checkpoint(_safetensors(tmp_path / 'file.safetensors', metadata))


def test_a_safetensors_file_under_another_name_is_refused(tmp_path):
    assert _refusal(_safetensors(tmp_path / 'file.pth')).startswith('cannot be read')
