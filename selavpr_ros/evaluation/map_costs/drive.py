"""Synthetic keyframes in any number, and map files of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from selavpr_ros.evaluation.measure import alike_features
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.keyframe_index import Rows
from selavpr_ros.maps.local_codec import NONE, EncodedFeatures, encode
from selavpr_ros.models.footprint import Footprint
from selavpr_ros.pose import Pose

SELAVPR = Footprint(1024, 3721, 128, False)
WRITTEN_AT_ONCE = 500

# Parameters of the synthetic drive. With these values the similarity of a keyframe is 0.87 to the
# next one, 0.88 to the same place at another time, and below 0.5 to most others.
LATENT, INERTIA, SPREAD, NOISE, SHIFT = 48, 0.97, 1 / 7, 0.5, 0.6


class Drive:
    """Global descriptors of a long drive: neighbours are alike, and so are visits of a place.

    Args:
        count: number of keyframes.
        dim: length of the descriptors, D.
    """

    def __init__(self, count: int, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.dim = dim
        self._projection = rng.standard_normal((LATENT, dim), np.float32) * SPREAD
        self._places = rng.standard_normal((count, LATENT), np.float32)
        for before, place in zip(self._places[:-1], self._places[1:], strict=True):
            place *= math.sqrt(1 - INERTIA**2)
            place += INERTIA * before

    def __len__(self) -> int:
        return len(self._places)

    def describe(self, rows: Rows, visit: int = 0) -> np.ndarray:
        """(n, D) float32 unit rows of positive numbers, as generalised-mean pooling gives."""
        rng = np.random.default_rng((visit, int(rows[0])))
        seen = self._places[rows] @ self._projection
        seen += NOISE * rng.standard_normal(seen.shape, np.float32)
        np.maximum(seen + SHIFT, 1e-3, out=seen)
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        return seen

    def chunks(self, count: int) -> Iterator[np.ndarray]:
        """The first `count` descriptors, `WRITTEN_AT_ONCE` at a time."""
        for start in range(0, count, WRITTEN_AT_ONCE):
            yield self.describe(range(start, min(start + WRITTEN_AT_ONCE, count)))


SESSION = Session(SessionId(1))


def make_keyframe(
    number: int, descriptor: np.ndarray, local: EncodedFeatures | None = None,
    thumbnail: bytes = b'',
) -> NewKeyframe:
    """The keyframe of a row, one every second and every metre."""
    pose = Pose(np.array([number, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]))
    keyframe = Keyframe(KeyframeId(1, number + 1), number * 10**9, descriptor, pose,
                        float(number), has_local=local is not None)
    return NewKeyframe(keyframe, SESSION, local, thumbnail)


def random_features(footprint: Footprint, codec: str) -> EncodedFeatures | None:
    """Random local features, as many and as long as the system's."""
    features, _ = alike_features(0, footprint.local_count, footprint.local_dim)
    return encode(features, codec)


def write_map(
    path: Path, chunks: Iterable[np.ndarray], local: EncodedFeatures | None = None, *,
    every: int = 1, thumbnail: bytes = b'',
) -> None:
    """Write a map file.

    Args:
        path: of the new file.
        chunks: descriptors (n, D); each chunk is one transaction.
        local: local features, the same ones for every keyframe that has them.
        every: step from one keyframe with local features to the next; 1 gives them to all.
        thumbnail: JPEG of every keyframe.
    """
    written = 0
    with MapFile(path, new_manifest('none', local.codec if local else NONE)) as file:
        for rows in chunks:
            file.add([
                make_keyframe(number, row, None if number % every else local, thumbnail)
                for number, row in enumerate(rows, start=written)])
            written += len(rows)
