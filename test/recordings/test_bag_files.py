"""What a crash leaves of a bag: what is whole is read, the rest named with what repairs it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from backports import zstd
from bags import (
    IMAGE_TOPIC,
    INFORMATION,
    STORE,
    cut_short,
    image_message,
    write_bag,
    write_image_bag,
    write_split_bag,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from selavpr_ros.errors import BagError
from selavpr_ros.recordings.bag import Bag

STORAGES = {'sqlite3': 'db3', 'mcap': 'mcap'}


def read(path: Path) -> tuple[list[int], str]:
    """Stamps of the images that come, and all faults."""
    with Bag(path) as bag:
        return [ns for ns, _ in bag.images(IMAGE_TOPIC)], '\n'.join(bag.faults)


@pytest.fixture
def stamps(images) -> list[int]:
    return [ns for ns, _ in images]


@pytest.fixture
def split(tmp_path, images) -> Path:
    """A recording of two files."""
    return write_split_bag(tmp_path / 'rec', [images[:12], images[12:]])


def pack(file: Path) -> None:
    file.with_name(f'{file.name}.zstd').write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()


def test_a_recording_of_several_files(split, stamps):
    assert read(split) == (stamps, '')


# ---- metadata.yaml ------------------------------------------------------------------------------


def test_without_metadata(split, stamps):
    (split / 'metadata.yaml').unlink()
    came, faults = read(split)
    assert came == stamps
    assert 'metadata.yaml is missing, as after a crash' in faults
    assert f'`ros2 bag reindex {split}` writes it anew' in faults


@pytest.mark.parametrize(('metadata', 'fault'), [
    ('', 'is empty'), ('\n', 'is empty'), ('a: [', 'cannot be read'),
    ('- 1', 'cannot be read'), ('\0\0\0', 'cannot be read'),
    (f'{INFORMATION}: {{version: 99}}', 'cannot be read'),
])
def test_damaged_metadata(split, stamps, metadata, fault):
    (split / 'metadata.yaml').write_text(metadata)
    came, faults = read(split)
    assert came == stamps
    assert f'metadata.yaml {fault}' in faults


def test_metadata_that_was_written_before_the_end(split, stamps):
    """Recorders write it when they begin a file, and again at the end."""
    tree = yaml.safe_load((split / 'metadata.yaml').read_text())
    tree[INFORMATION]['relative_file_paths'] = ['rec_0.db3']
    tree[INFORMATION]['topics_with_message_count'][0]['message_count'] = 0
    (split / 'metadata.yaml').write_text(yaml.safe_dump(tree))
    came, faults = read(split)
    assert came == stamps
    assert 'rec_1.db3 is read, though metadata.yaml does not name it' in faults


def test_a_file_that_is_missing(split, stamps):
    (split / 'rec_1.db3').unlink()
    came, faults = read(split)
    assert came == stamps[:12]
    assert 'rec_1.db3 is missing, though metadata.yaml names it' in faults
    assert f'lists 24 messages of {IMAGE_TOPIC}, of which 12 are missing' in faults
    (split / 'rec_0.db3').unlink()
    with pytest.raises(BagError, match=r'rec holds none of the files that metadata.yaml names: '
                       r'rec_0.db3, rec_1.db3'):
        read(split)


def test_files_that_were_renamed(split, stamps):
    for number in (0, 1):
        (split / f'rec_{number}.db3').rename(split / f'office_{number}.db3')
    came, faults = read(split)
    assert came == stamps
    assert 'office_0.db3 is read, though metadata.yaml does not name it' in faults
    assert 'rec_0.db3 is missing, though metadata.yaml names it' in faults


def test_a_repaired_copy_beside_the_file_is_not_read_twice(split, stamps):
    shutil.copy(split / 'rec_0.db3', split / 'whole.db3')
    came, faults = read(split)
    assert came == stamps
    assert 'whole.db3 is not read, as metadata.yaml does not name it' in faults


# ---- folders ------------------------------------------------------------------------------------


def test_a_folder_with_several_bags(tmp_path, images):
    for name in ('monday', 'tuesday'):
        write_image_bag(tmp_path / name, images[:2])
    with pytest.raises(BagError, match='a folder with some: name one of monday, tuesday'):
        read(tmp_path)


def test_a_folder_with_files_of_several_bags(tmp_path, images):
    for name in ('monday', 'tuesday'):
        file = write_image_bag(tmp_path / 'new', images[:2]) / 'new.db3'
        file.rename(tmp_path / f'{name}_0.db3')
        shutil.rmtree(tmp_path / 'new')
    with pytest.raises(BagError, match=r'several recordings and no metadata.yaml .*: name one of '
                       r'monday_0.db3, tuesday_0.db3'):
        read(tmp_path)
    assert len(read(tmp_path / 'monday_0.db3')[0]) == 2


@pytest.mark.parametrize('storage', STORAGES)
def test_a_folder_whose_name_means_something_in_an_address(tmp_path, images, stamps, storage):
    path = write_image_bag(tmp_path / 'a', images, storage=storage)
    assert read(path.rename(tmp_path / 'run #3?')) == (stamps, '')


# ---- packed files -------------------------------------------------------------------------------


@pytest.mark.parametrize('packed', [[0], [1], [0, 1]])
@pytest.mark.parametrize('has_metadata', [False, True])
def test_packed_files(split, stamps, packed, has_metadata):
    for number in packed:
        pack(split / f'rec_{number}.db3')
    if not has_metadata:
        (split / 'metadata.yaml').unlink()
    came, faults = read(split)
    assert came == stamps
    for number in packed:
        assert f'`zstd -d rec_{number}.db3.zstd` spares' in faults


def test_a_packed_file_by_its_name(split, stamps):
    pack(split / 'rec_1.db3')
    assert read(split / 'rec_1.db3.zstd')[0] == stamps[12:]


def test_a_crash_while_a_file_was_packed(split, stamps):
    """The packed file is not whole yet, and the other one not removed."""
    packed = split / 'rec_0.db3.zstd'
    packed.write_bytes(zstd.compress((split / 'rec_0.db3').read_bytes())[:1000])
    assert read(split) == (stamps, '')
    (split / 'rec_0.db3').unlink()
    came, faults = read(split)
    assert came == stamps[12:]
    assert f'{packed} is damaged' in faults


@pytest.mark.parametrize('mode', ['FILE', 'MESSAGE', 'STORAGE'])
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('has_metadata', [False, True])
def test_every_kind_of_compression(tmp_path, images, stamps, mode, storage, has_metadata):
    if (mode, storage) == ('STORAGE', 'sqlite3'):
        pytest.skip('SQLite has no compression of its own')
    path = write_bag_packed(tmp_path / 'a', images, mode, storage)
    if not has_metadata:
        (path / 'metadata.yaml').unlink()
    assert read(path)[0] == stamps


def write_bag_packed(path: Path, images: list, mode: str, storage: str) -> Path:
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(
            IMAGE_TOPIC, 'sensor_msgs/msg/Image', typestore=STORE)
        for ns, image in images:
            message = image_message(ns, image)
            writer.write(connection, ns, STORE.serialize_cdr(message, message.__msgtype__))
    return path


# ---- files that end too early -------------------------------------------------------------------


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('kept', [0.4, 0.9])
def test_a_file_that_ends_too_early(tmp_path, images, stamps, storage, kept):
    name = f'a.{STORAGES[storage]}'
    path = write_image_bag(tmp_path / 'a', images, storage=storage)
    cut_short(path / name, kept)
    came, faults = read(path)
    assert came == stamps[:len(came)]
    assert kept * 24 - 4 < len(came) < kept * 24
    assert f'{path / name} is damaged or ends too early, as after a crash: ' in faults
    assert f'{len(came)} of its messages can be read' in faults
    assert {'mcap': '`mcap recover a.mcap -o', 'sqlite3': '`sqlite3 a.db3 .rec'}[storage] in faults
    assert f'of which {24 - len(came)} are missing' in faults


@pytest.mark.parametrize('storage', STORAGES)
def test_the_last_file_of_a_recording_ends_too_early(tmp_path, images, stamps, storage):
    path = write_split_bag(tmp_path / 'rec', [images[:12], images[12:]], storage)
    (path / 'metadata.yaml').unlink()
    cut_short(path / f'rec_1.{STORAGES[storage]}', 0.8)
    came, faults = read(path)
    assert came == stamps[:len(came)]
    assert 12 < len(came) < 24
    assert f'rec_1.{STORAGES[storage]} is damaged or ends too early' in faults


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('kept', [0, 5, 100])
def test_a_file_of_which_nothing_is_whole(tmp_path, images, storage, kept):
    path = write_split_bag(tmp_path / 'rec', [images[:12], images[12:]], storage)
    file = path / f'rec_1.{STORAGES[storage]}'
    file.write_bytes(file.read_bytes()[:kept])
    came, faults = read(path)
    assert len(came) == 12
    assert f'{file} ' + ('is empty' if not kept else '') in faults
    with pytest.raises(BagError, match=r'rec_1.* (is empty|cannot be read|is damaged or ends)'):
        read(file)


@pytest.mark.parametrize('storage', STORAGES)
def test_what_is_no_bag_is_not_repaired(tmp_path, storage):
    file = tmp_path / f'page.{STORAGES[storage]}'
    file.write_text('<html>404</html>' * 1000)
    with pytest.raises(BagError, match='page.* cannot be read as a rosbag2'):
        read(file)


# ---- journals of SQLite -------------------------------------------------------------------------


@pytest.mark.parametrize('mode', ['WAL', 'DELETE'])
def test_a_journal_beside_the_file(tmp_path, images, stamps, mode):
    """Killed while it wrote: the last messages, or the way back from them, are in the journal."""
    path = write_image_bag(tmp_path / 'a', images[:20])
    rest = write_image_bag(tmp_path / 'rest', images[20:])
    with closing(sqlite3.connect(rest / 'rest.db3')) as database:
        rows = database.execute('SELECT topic_id, timestamp, data FROM messages').fetchall()
    (path / 'metadata.yaml').unlink()
    killed = tmp_path / 'killed'
    with closing(sqlite3.connect(path / 'a.db3', isolation_level=None)) as database:
        database.execute(f'PRAGMA journal_mode = {mode}')
        database.execute('PRAGMA cache_size = 1')  # what is written goes to the disk at once
        database.execute('BEGIN')
        database.executemany(
            'INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)', rows)
        if mode == 'WAL':
            database.execute('COMMIT')
        shutil.copytree(path, killed)
    before = {each.name: each.read_bytes() for each in killed.iterdir()}
    came, faults = read(killed)
    assert came == (stamps if mode == 'WAL' else stamps[:20])
    assert 'a.db3 is not complete without a.db3-' in faults
    assert {each.name: each.read_bytes() for each in killed.iterdir()} == before


def test_a_journal_that_was_finished_is_no_fault(tmp_path, images, stamps):
    path = write_image_bag(tmp_path / 'a', images)
    (path / 'a.db3-wal').touch()
    assert read(path) == (stamps, '')


def test_what_was_copied_is_gone_afterwards(split, tmp_path, monkeypatch):
    folder = tmp_path / 'scratch'
    folder.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(folder))
    pack(split / 'rec_0.db3')
    with Bag(split):
        assert list(folder.iterdir())
    assert not list(folder.iterdir())


def test_other_topics_in_the_same_bag(tmp_path, images, true_poses):
    """A fault of a file holds for all of its topics, and is told once."""
    path = write_image_bag(tmp_path / 'a', images, odometry=true_poses)
    cut_short(path / 'a.db3', 0.5)
    with Bag(path) as bag:
        count = len(list(bag.images(IMAGE_TOPIC)))
        assert 4 * (count - 2) < len(bag.poses('/odom')) < 4 * (count + 2)
        assert len([fault for fault in bag.faults if 'ends too early' in fault]) == 1


def test_a_bag_with_nothing_in_it_has_no_fault(tmp_path):
    with Bag(write_bag(tmp_path / 'a', {})) as bag:
        assert bag.faults == []
