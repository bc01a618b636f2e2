"""An MCAP file that has no end: its whole records, followed by the end that a crash kept away."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b'\x89MCAP0\r\n'
FOOTER, CHUNK, DATA_END = 0x02, 0x06, 0x0f  # the kinds of records that matter here
NO_DATA = (0, FOOTER, DATA_END)  # 0 is no record: a power cut leaves zeros
HEAD = 9  # bytes: kind and length of a record
# A footer that names no summary, so that readers go through the records.
END = bytes((FOOTER,)) + (20).to_bytes(8, 'little') + bytes(20) + MAGIC
# Zeros at the end of a file: so many were never written. Fewer may belong to a message.
ZEROS = 4096
LARGEST_CHUNK = 1 << 28

# Unpacks the beginning of a compressed chunk as far as it goes, to at most so many bytes.
_UNPACK: dict[bytes, Callable[[bytes, int], bytes]] = {
    b'': lambda data, most: data[:most],
    b'zstd': lambda data, most: zstd.ZstdDecompressor().decompress(data, most),
    b'lz4': lambda data, most: LZ4FrameDecompressor().decompress(data, most),
}


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(file.read(size), 'little')


def _written(file: BinaryIO) -> int:
    """Length of a file without the zeros at its end, if these are many."""
    size = at = file.seek(0, os.SEEK_END)
    while at:
        start = max(0, at - (1 << 16))
        file.seek(start)
        block = file.read(at - start).rstrip(b'\0')
        at = start + len(block)
        if block:
            break
    return at if size - at >= ZEROS else size


def _whole_end(file: BinaryIO, start: int, size: int) -> int:
    """Where the last whole record ends, of those from `start` on."""
    while True:
        file.seek(start)
        head = file.read(HEAD)
        length = int.from_bytes(head[1:], 'little')
        if len(head) < HEAD or head[0] in NO_DATA or start + HEAD + length > size:
            return start
        start += HEAD + length


def _begun_chunk(file: BinaryIO, start: int, size: int) -> bytes:
    """The whole records inside of the chunk at `start`, which is cut at `size`."""
    file.seek(start)
    if _number(file, 1) != CHUNK:
        return b''
    file.seek(start + HEAD + 16)  # the times of its first and last message
    unpacked_size = _number(file, 8)
    file.seek(4, os.SEEK_CUR)  # its checksum
    compression = file.read(min(_number(file, 4), 8))
    file.seek(8, os.SEEK_CUR)  # its size
    packed = file.read(min(LARGEST_CHUNK, max(0, size - file.tell())))
    try:
        content = _UNPACK[compression](packed, min(LARGEST_CHUNK, unpacked_size))
    except (KeyError, RuntimeError, zstd.ZstdError):
        return b''
    return content[:_whole_end(io.BytesIO(content), 0, len(content))]


class _Spliced(io.RawIOBase):
    """The first bytes of a file, followed by other bytes."""

    def __init__(self, path: Path, length: int, tail: bytes) -> None:
        self._file, self._length, self._tail, self._at = path.open('rb'), length, tail, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._length + len(self._tail))[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        left = self._length - self._at
        if left > 0:
            self._file.seek(self._at)
            data = self._file.read(min(left, len(buffer)))
        else:
            data = self._tail[-left:len(buffer) - left]
        buffer[:len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class WholeMcap:
    """The path of an MCAP file as a reader of rosbags takes it, which opens a file with an end.

    What it opens are the whole records of the file. Of a chunk that is cut, it has those in the
    part that is there. There is no summary, so that readers find every message by themselves.

    Attributes:
        length: bytes of the file that are used.
        size: bytes of the file.

    Raises:
        OSError: the file cannot be read.
    """

    suffix = '.mcap'

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open('rb') as file:
            self.size = path.stat().st_size
            written = _written(file)
            self.length = _whole_end(file, len(MAGIC), written)
            self._tail = _begun_chunk(file, self.length, written) + END

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Tell rosbags that there is such a file."""
        return True

    def is_dir(self) -> bool:
        """Tell rosbags that it is no folder."""
        return False

    def open(self, *_: Any) -> BinaryIO:
        """The file with its end."""
        return io.BufferedReader(_Spliced(self._path, self.length, self._tail))
