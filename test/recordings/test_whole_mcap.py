"""MCAP files without their end: every record that is whole, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import laps
import lz4.frame
import pytest
from backports import zstd
from bags import IMAGE_TOPIC, write_image_bag
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import read_sized

from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.whole_mcap import CHUNK, END, MAGIC, WholeMcap

IMAGES = [(laps.START_NS + i * laps.SECOND_NS, laps.picture(i)) for i in range(60)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> bytes:
    """60 images in three chunks."""
    path = write_image_bag(tmp_path_factory.mktemp('bags') / 'a', IMAGES, storage='mcap')
    return (path / 'a.mcap').read_bytes()


@pytest.fixture
def file(tmp_path, whole) -> Path:
    path = tmp_path / 'a.mcap'
    path.write_bytes(whole)
    return path


def count(path: Path) -> int:
    """Messages that are read; they have to be the first ones."""
    with Reader(WholeMcap(path)) as reader:
        stamps = [ns for _, ns, _ in reader.messages()]
        assert sum(each.msgcount for each in reader.connections) == len(stamps)
    assert stamps == [ns for ns, _ in IMAGES[:len(stamps)]]
    return len(stamps)


def chunks(data: bytes) -> list[tuple[int, int]]:
    """Where the chunks begin and end."""
    found, file = [], io.BytesIO(data)
    file.seek(len(MAGIC))
    while file.tell() < len(data) - len(MAGIC):
        start, kind = file.tell(), file.read(1)[0]
        read_sized(file)
        if kind == CHUNK:
            found.append((start, file.tell()))
    return found


def test_a_whole_file(file):
    assert count(file) == 60


@pytest.mark.parametrize('kept', [0.05, 0.3, 0.5, 0.7, 0.99])
def test_a_file_that_ends_anywhere(file, whole, kept):
    file.write_bytes(whole[:int(kept * len(whole))])
    assert 60 * kept - 2 < count(file) <= 60 * kept


def test_only_the_footer_is_missing(file, whole):
    file.write_bytes(whole[:-len(END)])
    assert count(file) == 60


def test_zeros_where_nothing_was_written(file, whole):
    """A power cut: the file has its length, and not its data."""
    half = len(whole) // 2
    file.write_bytes(whole[:half] + bytes(len(whole) - half))
    assert 27 <= count(file) <= 30


@pytest.mark.parametrize(('name', 'compress'), [
    (b'zstd', zstd.compress), (b'lz4', lz4.frame.compress)])
def test_a_chunk_that_is_compressed_and_cut(file, whole, name, compress):
    start, end = chunks(whole)[1]
    head = whole[start + 9:start + 9 + 28]
    content = whole[start + 9 + 28 + 12:end]
    packed = compress(content)
    record = head + len(name).to_bytes(4, 'little') + name
    record += len(packed).to_bytes(8, 'little') + packed
    cut = whole[:start] + bytes((CHUNK,)) + len(record).to_bytes(8, 'little') + record
    file.write_bytes(cut[:start + len(record) // 2])
    assert 29 < count(file) < 55


@pytest.mark.parametrize('noise', [b'', b'\xff' * 50, bytes((CHUNK,)) + b'\xff' * 70])
def test_noise_behind_the_last_record(file, whole, noise):
    _, end = chunks(whole)[1]
    file.write_bytes(whole[:end] + noise)
    assert 50 < count(file) < 60


def test_a_file_whose_index_knows_no_messages(file, whole):
    """A recorder may leave out the index of messages, and count them all the same."""
    start, end = chunks(whole)[0][0], chunks(whole)[-1][1]
    index = bytearray(whole)
    at = index.index(b'\x08', end)
    while index[at] == 0x08:  # chunk index: the offsets of its messages
        length = int.from_bytes(index[at + 1:at + 9], 'little')
        if int.from_bytes(index[at + 9 + 16:at + 9 + 24], 'little') < start:
            break
        index[at + 9 + 36:at + 9 + 38] = b'\x63\x63'  # of a channel that there is not
        at += 9 + length
    file.write_bytes(bytes(index))
    with Bag(file) as bag:
        assert [topic.count for topic in bag.image_topics()] == [60]
        assert [ns for ns, _ in bag.images(IMAGE_TOPIC)] == [ns for ns, _ in IMAGES]
