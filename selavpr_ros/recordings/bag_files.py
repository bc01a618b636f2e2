"""The files of a bag, as a recorder or a crash left them, and a way to read each of them."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from rosbags.rosbag2 import Reader

from selavpr_ros.errors import BagError
from selavpr_ros.recordings.whole_mcap import WholeMcap
from selavpr_ros.recordings.whole_sqlite import copy_rows, copy_with_journals, journals

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

METADATA = 'metadata.yaml'
SQLITE, MCAP, ZSTD = '.db3', '.mcap', '.zstd'
STORAGE_SUFFIXES = (SQLITE, MCAP)
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'

Note = Callable[[str], None]
# Name and type of a topic -> number of its messages.
Counts = Counter[tuple[str, str]]


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return ' '.join(str(error).split()) or type(error).__name__


# ---- which files --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """What a metadata.yaml says: names of files, and how many messages the topics have."""

    files: tuple[str, ...]
    counts: Counts


def _parse_metadata(text: str) -> Contents:
    info = yaml.safe_load(text)['rosbag2_bagfile_information']
    counts: Counts = Counter()
    for each in info['topics_with_message_count']:
        topic = each['topic_metadata']
        counts[str(topic['name']), str(topic['type'])] += int(each['message_count'])
    # Old versions put the name of the folder before that of the file.
    return Contents(tuple(PurePath(name).name for name in info['relative_file_paths']), counts)


def _read_metadata(folder: Path, note: Note) -> Contents | None:
    path = folder / METADATA
    try:
        text = path.read_text(encoding='utf-8')
        if text.strip():
            return _parse_metadata(text)
        fault = 'is empty'
    except FileNotFoundError:
        fault = 'is missing'
    except Exception as error:  # foreign words may be anything
        fault = f'cannot be read ({reason(error)})'
    note(f'{path} {fault}, as after a crash: the files beside it are read without it; '
         f'`ros2 bag reindex {folder}` writes it anew')
    return None


def _is_storage(name: str) -> bool:
    return name.removesuffix(ZSTD).endswith(STORAGE_SUFFIXES)


def _storage_files(folder: Path) -> list[Path]:
    """The files with messages in a folder; a file and its packed copy are one."""
    files = sorted(each for each in folder.iterdir() if _is_storage(each.name) and each.is_file()
                   and not each.name.startswith('.'))
    return [each for each in files
            if each.suffix != ZSTD or each.with_name(each.name.removesuffix(ZSTD)) not in files]


def _recording(name: str) -> str:
    """What the names of the files of one recording have in common: drive of drive_3.db3.zstd."""
    return re.sub(r'_\d+$', '', PurePath(name.removesuffix(ZSTD)).stem)


def _listed_files(folder: Path, names: tuple[str, ...], note: Note) -> list[Path]:
    """The files of these names that are there, packed or not, and further parts of them."""
    there = {each.name.removesuffix(ZSTD): each for each in _storage_files(folder)}
    wanted = [name.removesuffix(ZSTD) for name in names]
    for name in wanted:
        if name not in there:
            note(f'{folder / name} is missing, though {METADATA} names it')
    files = [there.pop(name) for name in wanted if name in there]
    ours = {_recording(name) for name in (wanted if files else there)}
    for name, file in there.items():
        if _recording(name) in ours:
            note(f'{file} is read, though {METADATA} does not name it')
            files.append(file)
        else:
            note(f'{file} is not read, as {METADATA} does not name it: name the file itself')
    return files


def _no_files(folder: Path) -> BagError:
    inner = sorted(each.name for each in folder.iterdir() if each.is_dir() and (
        (each / METADATA).exists() or _storage_files(each)))
    if inner:
        return BagError(f'{folder} is no rosbag2, but a folder with some: name one of '
                        f'{", ".join(inner)}')
    return BagError(f'{folder} is no rosbag2: it holds no file *' + ' or *'.join(STORAGE_SUFFIXES))


def _unlisted_files(folder: Path) -> list[Path]:
    files = _storage_files(folder)
    if len({_recording(file.name) for file in files}) > 1:
        raise BagError(f'{folder} holds several recordings and no {METADATA} that says which '
                       f'belong together: name one of {", ".join(file.name for file in files)}')
    return files


def find_files(path: Path, note: Note) -> tuple[list[Path], Counts]:
    """The files of a bag with its messages, and how many of these it lists by topic.

    Args:
        path: a folder, or one of its files.
        note: called with what is missing or damaged, a sentence each.

    Raises:
        BagError: there is no such bag, or there are several in one folder.
    """
    if not path.exists():
        raise BagError(f'{path} does not exist')
    if path.is_file() and path.suffix == '.bag':
        raise BagError(f'{path} is a bag of ROS 1: convert it with rosbags-convert')
    if path.is_file():
        return [path], Counter()
    if not (path / METADATA).exists() and not _storage_files(path):
        raise _no_files(path)
    contents = _read_metadata(path, note)
    files = _listed_files(path, contents.files, note) if contents else _unlisted_files(path)
    if not files:
        raise BagError(f'{path} holds none of the files that {METADATA} names: '
                       f'{", ".join(contents.files)}') if contents else _no_files(path)
    return files, contents.counts if contents else Counter()


# ---- one file -----------------------------------------------------------------------------------


def damage(file: Path, what: str) -> str:
    """Say what is wrong with a file, and what may repair it."""
    repair = {MCAP: f'`mcap recover {file.name} -o whole.mcap`',
              SQLITE: f'`sqlite3 {file.name} .recover | sqlite3 whole.db3`'}.get(file.suffix)
    return f'{file} {what}' + (f'; {repair} repairs what can be repaired' if repair else '')


class RawMessage(NamedTuple):
    """A message as it is stored, with the time in ns at which it was recorded."""

    received_ns: int
    topic: str
    type: str
    data: bytes


def _unpacked(data: bytes) -> bytes:
    """A message, which a recorder may have packed by itself; no serialized one begins so."""
    if bytes(data[:4]) != ZSTD_MAGIC:
        return data
    try:
        return zstd.decompress(data)
    except zstd.ZstdError:
        return data


class Part:
    """One file of a bag, opened.

    Args:
        file: as the user knows it.
        source: what is read in its place: itself, a copy, or its whole records.
        opened: gets the readers that have to be closed.

    Attributes:
        file: see above.
        connections: those of rosbags.
        start_ns: the time at which the first message was recorded.

    Raises:
        Exception: the file cannot be opened; a parser may raise anything on foreign bytes.
    """

    def __init__(self, file: Path, source: Any, opened: ExitStack) -> None:
        self.file, self._source, self._opened = file, source, opened
        self._idle: list[Reader] = []
        with self._reader() as reader:
            self.connections, self.start_ns = list(reader.connections), reader.start_time

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """A reader that no other stream of messages uses: some have only one place to read at."""
        reader = self._idle.pop() if self._idle else self._opened.enter_context(
            Reader(self._source))
        try:
            yield reader
        finally:
            self._idle.append(reader)

    def messages(self, topic: str) -> Iterator[RawMessage]:
        """The messages of a topic, in the order of recording.

        Raises:
            Exception: the file is damaged from here on, as above.
        """
        count = 0
        with self._reader() as reader:
            chosen = [each for each in reader.connections if each.topic == topic]
            for connection, received_ns, data in reader.messages(chosen) if chosen else ():
                count += 1
                yield RawMessage(received_ns, topic, connection.msgtype, _unpacked(data))
        if not count and any(each.msgcount for each in chosen) and self._forget_index():
            yield from self.messages(topic)

    def _forget_index(self) -> bool:
        """Go through the file from now on: its index lacks messages. Tell whether it had one."""
        if self.file.suffix != MCAP or isinstance(self._source, WholeMcap):
            return False
        self._source = WholeMcap(self._source)
        self._idle.clear()
        return True


class PartOpener:
    """Opens the files of a bag, and if that fails, what is whole in them.

    Copies, where they are needed, are in temporary folders, which TMPDIR places.

    Args:
        opened: gets everything that has to be closed.
        note: called with what is missing or damaged, a sentence each.
    """

    def __init__(self, opened: ExitStack, note: Note) -> None:
        self._opened, self._note = opened, note

    def open(self, file: Path) -> Part | None:
        """Open a file; None if there is nothing in it that can be read."""
        try:
            with file.open('rb'):  # whether it may be read at all
                pass
            source = self._in_one_file(file, self._unpacked(file))
            if not source.stat().st_size:
                self._note(f'{file} is empty: nothing was written into it')
                return None
            return self._open_source(file, source)
        except OSError as error:
            self._note(f'{file} cannot be read: {reason(error)}')
        except Exception as error:  # a parser may raise anything on foreign bytes
            self._note(damage(file, f'cannot be read as a rosbag2: {reason(error)}'))
        return None

    def _folder(self) -> Path:
        return Path(self._opened.enter_context(TemporaryDirectory(prefix='vpr_bag_')))

    def _unpacked(self, file: Path) -> Path:
        """The file itself, or an unpacked copy; of a damaged one, as much as can be unpacked."""
        if file.suffix != ZSTD:
            return file
        copy = self._folder() / file.name.removesuffix(ZSTD)
        self._note(f'{file} is packed: a copy is unpacked to be read, which '
                   f'`zstd -d {file.name}` spares the next time')
        try:
            with zstd.open(file) as packed, copy.open('wb') as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (EOFError, zstd.ZstdError) as error:
            self._note(f'{file} is damaged ({reason(error)}): it is read up to there')
        return copy

    def _in_one_file(self, file: Path, source: Path) -> Path:
        """A copy of a database and its journals; a link if its path means more in an address."""
        if source.suffix != SQLITE:
            return source
        beside = journals(source)
        if beside:
            names = ' and '.join(each.name for each in beside)
            self._note(f'{file} is not complete without {names}, as after a crash: a copy with '
                       f"both is read; `sqlite3 {file.name} 'PRAGMA journal_mode = DELETE'` "
                       'makes one file of them')
            return copy_with_journals(source, self._folder())
        if not set('?#%') & set(str(source)):
            return source
        link = self._folder() / 'link.db3'
        link.symlink_to(source.resolve())
        return link

    def _open_source(self, file: Path, source: Path) -> Part | None:
        try:
            return Part(file, source, self._opened)
        except Exception:  # a parser may raise anything on foreign bytes
            if source.suffix not in STORAGE_SUFFIXES:
                raise
        whole = WholeMcap(source) if source.suffix == MCAP else copy_rows(source, self._folder())
        part = Part(file, whole, self._opened)
        count = sum(each.msgcount for each in part.connections)
        self._note(damage(file, 'is damaged or ends too early, as after a crash: '
                          f'{count or "none"} of its messages can be read'))
        return part if count else None
