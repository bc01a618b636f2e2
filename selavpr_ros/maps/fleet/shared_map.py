"""A map that many robots share: the own keyframes are here, those of the others on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.fleet.courier import Courier
from selavpr_ros.maps.fleet.milvus_store import MilvusStore
from selavpr_ros.maps.keyframe import Hint, Keyframe, KeyframeId, SessionId
from selavpr_ros.maps.keyframe_index import AUTO
from selavpr_ros.maps.keyframe_map import KeyframeMap, Retrieval
from selavpr_ros.maps.local_codec import EncodedFeatures


class SharedMap(KeyframeMap):
    """The map of one robot of a fleet.

    The robot's own keyframes are here as in any other map, and in a file; each is delivered to
    the server, too, at once or as soon as the server can be reached. A query is compared with
    the own keyframes here and with all others there. Without the server, the robot goes on with
    its own.

    Args:
        file: of the robot's own keyframes.
        connect: opens the shared map, see Courier.
        fetch_s: seconds that a query spends at most on getting local features.
        index, cache_bytes: see KeyframeMap.

    Raises:
        MapError: the server refuses the map.
    """

    def __init__(
        self, file: MapFile, connect: Callable[[], MilvusStore], *, fetch_s: float = 0.5,
        index: str = AUTO, cache_bytes: int | None = None,
    ) -> None:
        super().__init__(file, index=index, cache_bytes=cache_bytes)
        self._file, self._fetch_s = file, fetch_s
        self._found: list[KeyframeId] = []  # by the last search, the most similar one first
        self._courier = Courier(file, connect)

    @property
    def shared_error(self) -> str:
        """Why keyframes of other robots are not searched now; empty if nothing is wrong."""
        return self._courier.error

    @property
    def undelivered(self) -> int:
        """How many keyframes other robots do not know yet."""
        with suppress(MapError):  # then `store_error` tells
            return self._file.undelivered + self.unsaved
        return self.unsaved

    def last_session_id(self, robot_id: int) -> int:
        """The number of a robot's last session, also of one that is on the server alone."""
        there = self._courier.ask(lambda store: store.last_session_id(robot_id), 0)
        return max(there, super().last_session_id(robot_id))

    def has_other_sessions(self, session: SessionId) -> bool:
        """True: other robots may have some at any time."""
        return True

    # ---- growing -------------------------------------------------------------------------------

    def flush(self) -> None:
        """Try to write what waits for the file, and have it delivered."""
        super().flush()
        self._courier.wake()

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes, here and on the server."""
        count = super().remove(ids)
        self._courier.wake()
        return count

    def _let_go(self, ids: Sequence[KeyframeId]) -> int:
        """Forget keyframes here alone; those that are nowhere else yet stay."""
        gone = set(self._file.forget_delivered(ids))
        self._drop(gone)
        return len(gone)

    def close(self) -> None:
        """Write and deliver what can be, and close the file."""
        self.flush()
        self._courier.close()
        super().close()

    # ---- searching -----------------------------------------------------------------------------

    def search_shared(
        self, global_descriptor: np.ndarray, top_k: int, hint: Hint | None = None
    ) -> list[Retrieval]:
        """Find the most similar keyframes of sessions that are not here.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: at most so many.
            hint: only keyframes within its circle.

        Returns:
            Retrievals, the most similar one first; none while the server does not answer.
        """
        found = self._search_there(global_descriptor, top_k, hint)
        self._found = [keyframe.id for keyframe, _ in found if keyframe.has_local]
        return [Retrieval(keyframe, rank, similarity)
                for rank, (keyframe, similarity) in enumerate(found)]

    def _search_there(
        self, global_descriptor: np.ndarray, top_k: int, hint: Hint | None
    ) -> list[tuple[Keyframe, float]]:
        nothing: list[tuple[Keyframe, float]] = []
        limit = top_k
        while True:
            found = self._courier.ask(partial(
                MilvusStore.search, global_descriptor=global_descriptor, top_k=limit,
                exclude=list(self.sessions), hint=hint), nothing)
            near = [each for each in found if hint is None or _is_within(each[0], hint)]
            # The server knows boxes, not circles: those in the corners may have taken the places.
            if len(near) >= top_k or len(found) < limit:
                return near[:top_k]
            limit *= 2

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe here, or of one that the last search found elsewhere."""
        if keyframe_id in self._found and self._cache.get(keyframe_id) is None:
            self._fetch()
        return super().local_features(keyframe_id)

    def _fetch(self) -> None:
        """Get the features of what was found, the most similar first, while there is time.

        Over a slow link that is one by one, else ever more at once.
        """
        missing = [each for each in self._found if self._cache.get(each) is None]
        self._found = []
        nothing: dict[KeyframeId, EncodedFeatures] = {}
        until_s, count = time.monotonic() + self._fetch_s, 1
        while missing and (begun_s := time.monotonic()) < until_s:
            wanted, missing = missing[:count], missing[count:]
            answer = self._courier.ask(partial(MilvusStore.local_features, ids=wanted), nothing)
            for keyframe_id, local in answer.items():
                self._cache.put(keyframe_id, local)
            is_quick = time.monotonic() - begun_s < 0.1 * self._fetch_s
            count = 2 * count if is_quick else max(1, count // 2)


def _is_within(keyframe: Keyframe, hint: Hint) -> bool:
    place = keyframe.place
    return place is not None and float(
        np.linalg.norm(place.translation_m - hint.position_m)) <= hint.radius_m
