"""Stage 3: the keyframes in memory, and the search for the most similar ones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import faiss
import numpy as np
import torch

from selavpr_ros.errors import MapError
from selavpr_ros.pose import Pose


@dataclass(frozen=True, order=True)
class KeyframeId:
    """Identity that stays: sessions count from 1, keyframes from 1 inside a session."""

    session_id: int
    keyframe_id: int

    def __str__(self) -> str:
        return f'{self.session_id}:{self.keyframe_id}'


@dataclass(frozen=True, eq=False)
class Keyframe:
    """An image kept in the map.

    Attributes:
        id: its identity.
        stamp_ns: stamp of the image.
        global_descriptor: (D,) float32, a unit vector.
        local_features: (N, d) float16 unit rows, or None.
        pose: of the robot in the session's odometry frame, or None.
        travelled_m: length of the way from the session's start to here; 0 without poses.
    """

    id: KeyframeId
    stamp_ns: int
    global_descriptor: np.ndarray
    local_features: torch.Tensor | None
    pose: Pose | None
    travelled_m: float

    @property
    def nbytes(self) -> int:
        """Bytes of both descriptors."""
        local = 0 if self.local_features is None else self.local_features.nbytes
        return self.global_descriptor.nbytes + local


@dataclass(frozen=True)
class Retrieval:
    """One of the most similar keyframes; `rank` 0 is the most similar one."""

    keyframe: Keyframe
    rank: int
    similarity: float


@contextmanager
def _single_thread() -> Iterator[None]:
    """Search on this thread alone: waking others costs more than a search of 10 000 keyframes."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class KeyframeMap:
    """The growing map of one robot.

    The index (faiss, exhaustive) holds the descriptors in float16, which halves the memory that
    a search has to read; the similarities of what it finds are computed again in float32.
    Keyframes are ordered by id, and so by time: what is too recent is always the newest part.
    """

    def __init__(self) -> None:
        self._index: faiss.IndexScalarQuantizer | None = None
        self._keyframes: list[Keyframe] = []
        self._row_of: dict[KeyframeId, int] = {}
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def __getitem__(self, keyframe_id: KeyframeId) -> Keyframe:
        try:
            return self._keyframes[self._row_of[keyframe_id]]
        except KeyError:
            raise MapError(f'no keyframe {keyframe_id} in a map of {len(self)}') from None

    @property
    def nbytes(self) -> int:
        """Bytes of memory: the keyframes' descriptors and their copy in the index."""
        index = 0 if self._index is None else self._index.code_size * len(self)
        return self._nbytes + index

    @property
    def newest(self) -> Keyframe | None:
        """The keyframe added last, or None."""
        return self._keyframes[-1] if self._keyframes else None

    def add(self, keyframe: Keyframe) -> None:
        """Keep a keyframe; its id has to be greater than all before.

        Raises:
            MapError: the id is not, or the descriptor has another length than those before.
        """
        if self.newest and keyframe.id <= self.newest.id:
            raise MapError(f'keyframe {keyframe.id} comes after {self.newest.id}')
        dim = len(keyframe.global_descriptor)
        if self._index is None:
            self._index = faiss.IndexScalarQuantizer(
                dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        if dim != self._index.d:
            raise MapError(f'a global descriptor of length {dim} in a map of {self._index.d}: '
                           'another model? start with an empty map')
        self._index.add(keyframe.global_descriptor[None])
        self._row_of[keyframe.id] = len(self._keyframes)
        self._keyframes.append(keyframe)
        self._nbytes += keyframe.nbytes

    def first_recent(
        self, session_id: int, stamp_ns: int, travelled_m: float,
        keyframes: int, seconds: float, metres: float,
    ) -> int:
        """Count the keyframes of the map that are old enough for a query.

        Args:
            session_id, stamp_ns, travelled_m: where the query is.
            keyframes, seconds, metres: keyframes of this session that are nearer than any of
                the three are too recent.

        Returns:
            Number of keyframes, from the oldest on, that the query may be compared with.
        """
        start = bisect_left(self._keyframes, session_id, key=lambda k: k.id.session_id)
        oldest_ns, nearest_m = stamp_ns - round(seconds * 1e9), travelled_m - metres
        by_time = bisect_left(self._keyframes, oldest_ns, lo=start, key=lambda k: k.stamp_ns)
        by_way = len(self)
        if travelled_m > 0.0:
            by_way = bisect_left(
                self._keyframes, nearest_m, lo=start, key=lambda k: k.travelled_m)
        return min(max(start, len(self) - keyframes), by_time, by_way)

    def search(
        self, global_descriptor: np.ndarray, top_k: int, among_first: int | None = None
    ) -> list[Retrieval]:
        """Find the most similar keyframes.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: at most so many.
            among_first: search only so many keyframes, from the oldest on (`first_recent`).

        Returns:
            Retrievals, the most similar one first.
        """
        count = len(self) if among_first is None else among_first
        if self._index is None or count <= 0:
            return []
        parameters = faiss.SearchParameters(  # type: ignore[call-arg]
            sel=faiss.IDSelectorRange(0, count))
        with _single_thread():
            _, rows = self._index.search(
                global_descriptor[None], min(top_k, count), params=parameters)
        found = [self._keyframes[row] for row in rows[0] if row >= 0]
        if not found:  # NaN in the query
            return []
        similarities = np.stack([k.global_descriptor for k in found]) @ global_descriptor
        order = np.argsort(-similarities, kind='stable')
        return [Retrieval(found[i], rank, float(similarities[i])) for rank, i in enumerate(order)]
