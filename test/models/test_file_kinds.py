"""Files that are no weights are called what they are, with what to do."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from selavpr_ros.errors import CheckpointError
from selavpr_ros.models import load_model
from selavpr_ros.models.file_kinds import why_no_weights


def _checkpoint() -> bytes:
    file = io.BytesIO()
    torch.save({'norm.weight': torch.ones(3)}, file)
    return file.getvalue()


def _zip(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, data in files.items():
            archive.writestr(f'{name}.pth', data)
    return content.getvalue()


def _tar(mode: str) -> bytes:
    content, data = io.BytesIO(), _checkpoint()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        entry = tarfile.TarInfo('SelaVPR.pth')
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _arrays() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    return content.getvalue()


def _program() -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # it is deprecated, and files of it are not
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), content)
    return content.getvalue()


FILES = {
    'a web page': (b'\n <!DOCTYPE html><title>Virus scan warning</title>',
                   'a web page, which a server sent', 'download the file itself'),
    'a long web page': (b'<html>' + 'ü'.encode() * 3000, 'a web page', 'download the file'),
    'an answer of a server': (b'<?xml version="1.0"?><Error/>', 'a web page', 'download'),
    'a message': (b'{"error": 404}', "a text that begins with '{\"error\": 404}'", 'get the file'),
    'a word': (b'hello', "a text that begins with 'hello'", 'get the file of weights itself'),
    'Git LFS': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 14\n',
                'a pointer of Git LFS', 'git lfs pull'),
    'ZIP': (_zip(SelaVPR=b'x'), 'a ZIP archive that holds SelaVPR.pth', 'unpack it'),
    'ZIP of many': (_zip(a=b'', b=b'', c=b'', d=b''), 'a.pth, b.pth, c.pth and 1 more', 'unpack'),
    'tar': (_tar('w'), 'a tar archive', 'unpack it'),
    'tar.gz': (_tar('w:gz'), 'compressed with gzip', 'unpack it'),
    'gzip': (gzip.compress(_checkpoint()), 'compressed with gzip', 'unpack it'),
    'TorchScript': (_program(), 'torch.jit.save (TorchScript)', 'torch.save(model.state_dict()'),
    'ONNX': (b'\x08\x08\x12\x07pytorch\x1a\x052.1.0' + bytes(range(256)), 'a model of ONNX',
             'the checkpoint that it was exported from'),
    'NumPy': (_arrays(), 'arrays of NumPy', 'only weights of PyTorch'),
    'Keras': (b'\x89HDF\r\n\x1a\n' + bytes(90), 'HDF5', 'only weights of PyTorch'),
    'a map': (b'SQLite format 3\0' + bytes(90), 'a database of SQLite, as maps are', 'give a'),
    'nothing': (b'', 'it is empty', 'get it again'),
    'zeros': (bytes(5000), 'it is blank', 'get it again'),
    'half a ZIP': (_checkpoint()[:200], 'it is cut off', 'get it again'),
}


@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors', 'file.ckpt'])
@pytest.mark.parametrize('kind', FILES)
def test_it_is_called_what_it_is_with_what_to_do(tmp_path, kind, name):
    content, what, to_do = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f'{path}: cannot be read as a checkpoint (it ')
    assert what in str(caught.value)
    assert to_do in str(caught.value).partition(what)[2]
    assert '\n' not in str(caught.value)


def test_a_folder_tells_what_is_in_it(tmp_path):
    assert 'it holds nothing' in why_no_weights(tmp_path)
    (tmp_path / 'SelaVPR.pth').touch()
    assert why_no_weights(tmp_path) == (
        'it is a folder: give the file of weights in it; it holds SelaVPR.pth')
    with pytest.raises(CheckpointError, match='cannot be read as a checkpoint .it is a folder'):
        load_model(tmp_path)


def test_a_checkpoint_that_a_browser_unpacked(tmp_path):
    zipfile.ZipFile(io.BytesIO(_checkpoint())).extractall(tmp_path)
    folder = next(tmp_path.rglob('data.pkl')).parent
    assert 'get the file again without unpacking it' in why_no_weights(folder)


@pytest.mark.parametrize('zipped', [True, False])
def test_checkpoints_are_nothing_else(tmp_path, zipped):
    path = Path(tmp_path, 'file.pth.tar')
    torch.save({'norm.weight': torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    assert why_no_weights(path) == ''
