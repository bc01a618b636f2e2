"""`vpr merge-maps`: what it prints, and what it refuses in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from selavpr_ros.cli import merge_maps
from selavpr_ros.cli.main import main
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.local_codec import encode
from selavpr_ros.maps.merge import RICHEST_FIRST

SECOND = 1_000_000_000


def write(path: Path, label: str, start_s: int, count: int, model_id: str = 'hog/1/a') -> Path:
    """A map with one session of robot 0, a keyframe a second."""
    session = Session(SessionId(1), label, start_s * SECOND)
    with MapFile(path, new_manifest(model_id, 'float16')) as file:
        file.add([NewKeyframe(
            Keyframe(KeyframeId(1, number + 1), (start_s + number) * SECOND,
                     np.ones(4, np.float32) / 2, None, 0.0, has_local=True),
            session, encode(torch.eye(16), 'float16')) for number in range(count)])
    return path


@pytest.fixture
def merge(tmp_path):
    """Run `vpr merge-maps ... -o week.vprmap`; returns the exit code and the file."""
    def merge(*words: object) -> tuple[int, Path]:
        target = tmp_path / 'week.vprmap'
        return main(['merge-maps', *map(str, words), '-o', str(target)]), target

    return merge


@pytest.fixture
def maps(tmp_path) -> tuple[Path, Path]:
    return (write(tmp_path / 'monday.vprmap', 'morning', 100, 3),
            write(tmp_path / 'tuesday.vprmap', '', 200, 150))


def test_which_session_became_which(maps, merge, capsys):
    code, target = merge(*maps)
    assert code == 0
    assert capsys.readouterr().out == (
        'map             session  becomes  label    keyframes\n'
        'monday.vprmap         1        1  morning          3\n'
        'tuesday.vprmap        1        2  -              150\n'
        f'\n{target}: 2 sessions, 153 keyframes, {target.stat().st_size / 1e3:.1f} kB\n')
    with MapFile(target) as file:
        sessions = [(str(s.session.id), s.keyframes) for s in file.summaries()]
    assert sessions == [('1', 3), ('2', 150)]


def test_with_fewer_bytes(maps, merge, capsys):
    assert merge(maps[0], '--codec', 'binary')[0] == 0
    code, target = merge(maps[1], '--codec', 'int8', '--overwrite')
    assert code == 0
    with MapFile(target) as file:
        assert (file.codec, len(file)) == ('int8', 150)
    assert f'{target}: 1 sessions, 150 keyframes' in capsys.readouterr().out


def test_a_bar_counts_keyframes(maps, merge, monkeypatch, capsys):
    # It waits a moment for merges that are done before anyone could read it.
    monkeypatch.setattr(merge_maps, 'BAR_AFTER_S', 0.0)
    assert merge(*maps)[0] == 0
    assert '153/153' in capsys.readouterr().err


def test_refusals_are_one_line(maps, merge, tmp_path, capsys):
    other = write(tmp_path / 'other.vprmap', '', 900, 1, model_id='salad/2/b')
    write(tmp_path / 'there.vprmap', '', 900, 1)
    for words, told in (
            ([*maps, maps[0]], 'both hold 3 keyframes'),
            ([maps[0], other], 'only maps of one model'),
            ([maps[0], tmp_path / 'gone.vprmap'], 'gone.vprmap: there is no such map'),
            ([maps[0], '-o', tmp_path / 'none' / 'a'], 'a: there is no folder'),
            ([maps[0], '-o', tmp_path / 'there.vprmap'], 'there.vprmap: it exists already')):
        if '-o' in words:
            code, target = main(['merge-maps', *map(str, words)]), tmp_path / 'week.vprmap'
        else:
            code, target = merge(*words)
        output, error = capsys.readouterr()
        assert (code, output, error.count('\n')) == (1, '', 1)
        assert error.startswith('vpr merge-maps: ')
        assert told in error
        assert not target.exists()


@pytest.mark.parametrize('words', [
    [], ['a'], ['-o', 'b'], ['a', '-o', 'b', '--codec', 'jpeg']])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(['merge-maps', *words])
    assert stop.value.code == 2
    assert 'usage: vpr merge-maps' in capsys.readouterr().err


def test_every_codec_has_its_place():
    assert sorted(RICHEST_FIRST) == sorted(merge_maps.CODECS)


def test_a_shared_map_and_back(maps, merge, tmp_path, capsys):
    address = f'milvus://{tmp_path}/fleet.db#week'
    assert main(['merge-maps', *map(str, maps), '-o', address]) == 0
    shared = f"map 'week' on {tmp_path}/fleet.db"
    assert capsys.readouterr().out.endswith(f'\n{shared}: 2 sessions, 153 keyframes\n')
    code, target = merge(address)
    assert code == 0
    output = capsys.readouterr().out
    assert 'fleet.db        1        1  morning          3' in output
    assert f'{target}: 2 sessions, 153 keyframes, ' in output
    with MapFile(target) as file:
        assert [s.keyframes for s in file.summaries()] == [3, 150]


def test_a_shared_map_that_is_not_there_is_one_line(merge, tmp_path, capsys):
    assert merge(f'milvus://{tmp_path}/fleet.db')[0] == 1
    assert capsys.readouterr().err == (
        f"vpr merge-maps: map 'selavpr' on {tmp_path}/fleet.db: there is no such map\n")
