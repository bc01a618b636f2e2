"""What a file is that was given as weights, by its content: its name tells nothing for sure."""

from __future__ import annotations

import zipfile
from pathlib import Path

HEAD_BYTES = 1024
LEAST_BYTES = 16  # no file of weights is shorter
SHOWN = 3  # names in a folder or an archive that an error tells
UNPACK = 'unpack it and give the file of weights in it'
SAVE_TENSORS = ('where it was made, save the tensors alone, torch.save(model.state_dict(), FILE), '
                'and give that file')

ONNX = ('it is a model of ONNX, which holds a program: give the checkpoint that it was exported '
        'from')
PROGRAM = ('it is a program of PyTorch, made by torch.jit.save (TorchScript) or '
           f'torch.export.save: {SAVE_TENSORS}')
ARRAYS = 'it holds arrays of NumPy: only weights of PyTorch can be read'
CUT_OFF = 'it is cut off: get it again'

# First bytes of files that hold no tensors, or not readable ones -> what they are, what to do.
HEADS = {
    b'version https://git-lfs': 'it is a pointer of Git LFS, a few lines in place of the file: '
                                'run `git lfs pull` in its repository, or download the file '
                                'itself',
    b'\x1f\x8b': f'it is compressed with gzip: {UNPACK}',
    b'BZh': f'it is compressed with bzip2: {UNPACK}',
    b'\xfd7zXZ\0': f'it is compressed with xz: {UNPACK}',
    b'(\xb5/\xfd': f'it is compressed with zstd: {UNPACK}',
    b"7z\xbc\xaf'\x1c": f'it is a 7z archive: {UNPACK}',
    b'Rar!': f'it is a RAR archive: {UNPACK}',
    b'\x89HDF': 'it is a file of HDF5, as Keras writes: only weights of PyTorch can be read',
    b'GGUF': 'it is a GGUF file: only weights of PyTorch can be read',
    b'\x93NUMPY': ARRAYS,
    b'SQLite format 3': 'it is a database of SQLite, as maps are: give a file of weights',
}


def _names(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return (', '.join(names[:SHOWN]) or 'nothing') + more


def _folder(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir())
    if 'data.pkl' in names:
        return ('it is a folder, the unpacked parts of a checkpoint, as a browser leaves them: '
                'get the file again without unpacking it')
    return f'it is a folder: give the file of weights in it; it holds {_names(names)}'


def _zip(path: Path) -> str:
    """Why a ZIP archive, as torch.save writes them, is none that torch.save wrote."""
    if not zipfile.is_zipfile(path):
        return CUT_OFF
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith(('/constants.pkl', '/archive_format')) for name in names):
        return PROGRAM
    if any(name.endswith('data.pkl') for name in names):
        return ''
    if all(name.endswith('.npy') for name in names):
        return ARRAYS
    return f'it is a ZIP archive that holds {_names(names)}: {UNPACK}'


def _text(head: bytes) -> str:
    """What a text is; empty if the bytes are none, or one as a pickle of old begins."""
    try:
        text = head.decode('utf-8-sig', errors='strict' if len(head) < HEAD_BYTES else 'ignore')
    except UnicodeDecodeError:
        return ''
    text = ' '.join(text.split())
    if not text.isprintable():
        return ''
    if text.startswith('<'):
        return ('it is a web page, which a server sent in place of the file: open the link in a '
                'browser, and download the file itself')
    return f"it is a text that begins with '{text[:60]}': get the file of weights itself"


def _is_onnx(path: Path, head: bytes) -> bool:
    """Whether a protobuf begins with a version and the producer's name, as ONNX's do."""
    return path.suffix == '.onnx' or (head[:1] == b'\x08' and head[2:3] == b'\x12')


def _head(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(HEAD_BYTES)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as those of safetensors: the length of a JSON text, and the text."""
    head = _head(path)
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 1 << 32


def why_no_weights(path: Path) -> str:
    """What a file or a folder is, if it is surely no file of weights, and what to do about it.

    Returns:
        A sentence; empty if the file may hold weights.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    head = _head(path)
    if not head.strip(b'\0'):
        return f'it is {"blank" if head else "empty"}: get it again'
    if is_safetensors(path):
        return ''
    if head.startswith(b'PK'):
        return _zip(path)
    if head[257:262] == b'ustar':
        return f'it is a tar archive: {UNPACK}'
    known = (reason for start, reason in HEADS.items() if head.startswith(start))
    return (next(known, '') or (ONNX if _is_onnx(path, head) else _text(head))
            or (CUT_OFF if len(head) < LEAST_BYTES else ''))
