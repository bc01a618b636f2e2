"""Keyframes that need no images, and processes that write maps and can be killed."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import FLOAT16, EncodedFeatures, encode
from selavpr_ros.maps.store import OwnStore
from selavpr_ros.pose import Pose

SECOND_NS = 1_000_000_000
MODEL = 'test/0123456789ab/224x224'
# Of local features (N, d).
SMALL = (6, 16)


def unit_rows(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    """(count, dim) float32 unit rows."""
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered_rows(count: int, dim: int = 64, clusters: int = 200, seed: int = 0) -> np.ndarray:
    """(count, dim) float32 unit rows that look alike in groups, as a robot's images do."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, dim))
    rows = centres[random.integers(clusters, size=count)]
    rows = (rows + 0.5 * random.standard_normal((count, dim))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_local(
    codec: str = FLOAT16, shape: tuple[int, int] = SMALL, seed: int = 0
) -> EncodedFeatures | None:
    """Local features (N, d), or None for the codec 'none'."""
    return encode(torch.from_numpy(unit_rows(*shape, seed=seed)), codec)


def make_keyframe(
    number: int, session: int = 1, robot: int = 0, *, codec: str = FLOAT16, dim: int = 32,
    local: tuple[int, int] = SMALL, seed: int = 0, thumbnail: bytes = b'',
    map_pose: MapPose | None = None, covariance: np.ndarray | None = None, external_key: int = 0,
) -> NewKeyframe:
    """Keyframe n at n seconds and n / 2 metres; the same arguments make the same bytes."""
    keyframe_id = KeyframeId(session, number, robot)
    seed = seed + number + 10_000 * session + 1_000_000 * robot
    features = make_local(codec, local, seed)
    pose = Pose([number * 0.5, session, robot], [0, 0, np.sin(number), np.cos(number)])
    keyframe = Keyframe(
        keyframe_id, number * SECOND_NS, unit_rows(1, dim, seed)[0], pose, number * 0.5,
        map_pose, features is not None)
    return NewKeyframe(
        keyframe, make_session(session, robot), features, thumbnail, covariance, external_key)


def make_session(session: int = 1, robot: int = 0) -> Session:
    return Session(
        SessionId(session, robot), f'lap {session}', session * SECOND_NS, 'odom', MODEL)


def make_map_file(
    path: Path | None, count: int = 0, *, codec: str = FLOAT16, **of_keyframes: Any
) -> MapFile:
    """A new map, open for writing, with keyframes 1..count of session 1."""
    file = MapFile(path, new_manifest(MODEL, codec))
    file.add([make_keyframe(n, codec=codec, **of_keyframes) for n in range(1, count + 1)])
    return file


def assert_same_keyframe(store: OwnStore, found: Keyframe, wanted: NewKeyframe) -> None:
    """Everything of a stored keyframe is what it was, bit by bit."""
    keyframe = wanted.keyframe
    assert (found.id, found.stamp_ns, found.travelled_m, found.has_local) == (
        keyframe.id, keyframe.stamp_ns, keyframe.travelled_m, keyframe.has_local)
    assert found.global_descriptor.dtype == np.float32
    np.testing.assert_array_equal(found.global_descriptor, keyframe.global_descriptor)
    assert_same_pose(found.pose, keyframe.pose)
    assert (found.map_pose is None) == (keyframe.map_pose is None)
    if found.map_pose and keyframe.map_pose:
        assert found.map_pose.frame == keyframe.map_pose.frame
        assert_same_pose(found.map_pose.pose, keyframe.map_pose.pose)
    assert_same_local(store.local_features(found.id), wanted.local)


def assert_same_pose(found: Pose | None, wanted: Pose | None) -> None:
    assert (found is None) == (wanted is None)
    if found and wanted:
        np.testing.assert_array_equal(found.translation_m, wanted.translation_m)
        np.testing.assert_array_equal(found.rotation, wanted.rotation)


def assert_same_local(found: EncodedFeatures | None, wanted: EncodedFeatures | None) -> None:
    assert (found is None) == (wanted is None)
    if found and wanted:
        assert (found.codec, found.dim) == (wanted.codec, wanted.dim)
        assert found.data.dtype == wanted.data.dtype
        np.testing.assert_array_equal(found.data, wanted.data)


# ---- processes ---------------------------------------------------------------------------------

# A forked process has torch already, which takes others two seconds.
_FORK = multiprocessing.get_context('fork')


class Child:
    """Another process that runs work(line, *arguments), and may be killed at any moment.

    `line` is its end of the connection. No map may be open here when it begins: SQLite's locks
    and ours would be in both processes.
    """

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        self.line, other_end = _FORK.Pipe()
        self._process = _FORK.Process(
            target=_run, args=(other_end, work, arguments), daemon=True)
        self._process.start()
        other_end.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.line.close()

    def hear(self, timeout_s: float = 30.0) -> Any:
        """The next thing that it says."""
        assert self.line.poll(timeout_s), f'the other process is silent for {timeout_s} s'
        return self.line.recv()

    def hear_all(self) -> list[Any]:
        """All that it says up to its end."""
        said = []
        with suppress(EOFError, ConnectionResetError):
            while True:
                said.append(self.hear())
        return said

    def kill(self) -> None:
        """End it with kill -9."""
        self._process.kill()
        self._process.join()

    def finish(self) -> list[Any]:
        """Let it end by itself, without an error; returns what it said."""
        said = self.hear_all()
        self._process.join()
        assert self._process.exitcode == 0, 'the other process failed, see its traceback'
        return said


def _run(line: Connection, work: Callable[..., None], arguments: Sequence[object]) -> None:
    # The threads of OpenMP stayed behind.
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    work(line, *arguments)


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f'not within {timeout_s} s'
        time.sleep(0.002)


# ---- disks -------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of that size; skips the test where none can be mounted."""
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={mebibytes}m', 'tmpfs', str(folder)]
    if not shutil.which('mount') or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('needs the right to mount a file system')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    """Write a file until nothing fits any more; to remove it makes room."""
    ballast = folder / 'ballast'
    with suppress(OSError), ballast.open('wb', buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast
