"""Files and folders that appear when they are complete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selavpr_ros import files
from selavpr_ros.files import appearing


def test_a_file_appears_with_all_of_its_content(tmp_path: Path) -> None:
    target = tmp_path / 'a.txt'
    for content in ('first', 'second'):
        with appearing(target) as unnamed:
            unnamed.write_text(content)
            assert unnamed.name == target.name
            assert not target.exists() or target.read_text() == 'first'
        assert target.read_text() == content
    assert os.listdir(tmp_path) == ['a.txt']


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / 'bag'
    for name in ('first', 'second'):
        with appearing(target) as unnamed:
            unnamed.mkdir()
            (unnamed / name).touch()
        assert os.listdir(target) == [name]
    assert os.listdir(tmp_path) == ['bag']


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / 'a.txt'
    target.write_text('before')

    def write(unnamed: Path) -> None:
        unnamed.write_text('half')
        Path(f'{unnamed}-wal').touch()
        raise error

    with pytest.raises(error), appearing(target) as unnamed:
        write(unnamed)
    assert target.read_text() == 'before'
    assert os.listdir(tmp_path) == ['a.txt']


def test_an_error_between_two_renames_leaves_the_older_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / 'bag'
    target.mkdir()
    (target / 'precious').touch()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    def write(unnamed: Path) -> None:
        unnamed.mkdir()
        monkeypatch.setattr(Path, 'replace', fail)

    with pytest.raises(KeyboardInterrupt), appearing(target) as unnamed:
        write(unnamed)
    assert os.listdir(target) == ['precious']
    assert os.listdir(tmp_path) == ['bag']


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    target = tmp_path / 'folder'
    target.mkdir()
    (target / 'precious').touch()
    with pytest.raises(IsADirectoryError), appearing(target) as unnamed:
        unnamed.touch()
    assert os.listdir(target) == ['precious']
    assert os.listdir(tmp_path) == ['folder']


def test_what_was_never_written_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), appearing(tmp_path / 'a.txt'):
        pass
    assert os.listdir(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
from selavpr_ros.files import appearing
with appearing(Path(sys.argv[1])) as unnamed:
    unnamed.write_text('half')
    os.kill(os.getpid(), 9)
"""


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / 'a.txt'
    target.write_text('before')
    assert subprocess.run([sys.executable, '-c', KILLED, str(target)]).returncode == -9
    assert target.read_text() == 'before'
    assert [name for name in os.listdir(tmp_path) if not name.startswith('.')] == ['a.txt']


def test_it_is_on_the_disk_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append((Path(os.readlink(f'/proc/self/fd/{descriptor}')), target.exists()))
        fsync(descriptor)

    target = tmp_path / 'a.txt'
    monkeypatch.setattr(os, 'fsync', watch)
    with appearing(target) as unnamed:
        unnamed.write_text('all of it')
    assert synced == [(unnamed, False), (tmp_path, True)]


def test_all_of_a_folder_is_on_the_disk_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(files, 'sync', synced.append)
    with appearing(tmp_path / 'bag') as unnamed:
        unnamed.mkdir()
        (unnamed / 'messages').touch()
    assert synced == [unnamed / 'messages', unnamed, tmp_path]
