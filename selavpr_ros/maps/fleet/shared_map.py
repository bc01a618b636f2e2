"""The part of a robot's map that is on a server: the keyframes of all the other robots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.courier import Courier
from selavpr_ros.maps.fleet.milvus_store import MilvusStore
from selavpr_ros.maps.keyframe import Hint, Keyframe, KeyframeId, SessionId
from selavpr_ros.maps.local_cache import LocalCache
from selavpr_ros.maps.local_codec import EncodedFeatures
from selavpr_ros.maps.store import OwnStore

Found = list[tuple[Keyframe, float]]  # keyframes and similarities, the most similar one first


class SharedMap:
    """Search, local features and deliveries of a map that robots share.

    Each keyframe of the robot's own store is delivered to the server, at once or as soon as the
    server can be reached. A query is compared with the keyframes of others there. Without the
    server, the robot goes on with its own.

    Args:
        own: store of the robot's own keyframes.
        connect: opens the shared map, see Courier.
        fetch_s: seconds that a query spends at most on getting local features.

    Raises:
        MapError: the server refuses the map.
    """

    def __init__(
        self, own: OwnStore, connect: Callable[[], MilvusStore], *, fetch_s: float = 0.5
    ) -> None:
        self._own, self._fetch_s = own, fetch_s
        self._found: list[KeyframeId] = []  # by the last search, the most similar one first
        self._courier = Courier(own, connect)

    @property
    def error(self) -> str:
        """Why keyframes of other robots are not searched now; empty if nothing is wrong."""
        return self._courier.error

    @property
    def undelivered(self) -> int:
        """How many keyframes of the own store other robots do not know yet."""
        with suppress(MapError):  # the store reports its errors itself
            return self._own.undelivered
        return 0

    def wake(self) -> None:
        """Tell the courier that the own store has something to deliver."""
        self._courier.wake()

    def last_session_id(self, robot_id: int) -> int:
        """Number of a robot's last session on the server; 0 without any, or without an answer."""
        return self._courier.ask(lambda store: store.last_session_id(robot_id), 0)

    def close(self) -> None:
        """Deliver what can be delivered soon, and close the connection."""
        self._courier.close()

    # ---- searching -----------------------------------------------------------------------------

    def search(
        self, global_descriptor: np.ndarray, top_k: int, exclude: Iterable[SessionId],
        hint: Hint | None = None,
    ) -> Found:
        """Find the most similar keyframes.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: number of keyframes at most.
            exclude: sessions to leave out.
            hint: only keyframes within its circle.

        Returns:
            Keyframes and similarities, the most similar one first; none while the server does
            not answer.
        """
        found = self._search(global_descriptor, top_k, list(exclude), hint)
        self._found = [keyframe.id for keyframe, _ in found if keyframe.has_local]
        return found

    def _search(
        self, global_descriptor: np.ndarray, top_k: int, exclude: list[SessionId],
        hint: Hint | None,
    ) -> Found:
        nothing: Found = []
        limit = top_k
        while True:
            found = self._courier.ask(partial(
                MilvusStore.search, global_descriptor=global_descriptor, top_k=limit,
                exclude=exclude, hint=hint), nothing)
            near = [each for each in found if hint is None or _is_within(each[0], hint)]
            # The server knows boxes, not circles: keyframes in the corners may displace others.
            if len(near) >= top_k or len(found) < limit:
                return near[:top_k]
            limit *= 2

    def fetch(self, keyframe_id: KeyframeId, cache: LocalCache) -> None:
        """Get the features of a keyframe that the last search found, and of its neighbours.

        The most similar come first, while there is time: over a slow link one by one, else in
        growing batches. What the cache has is not requested.
        """
        if keyframe_id not in self._found or cache.get(keyframe_id) is not None:
            return
        missing = [each for each in self._found if cache.get(each) is None]
        self._found = []
        nothing: dict[KeyframeId, EncodedFeatures] = {}
        until_s, count = time.monotonic() + self._fetch_s, 1
        while missing and (begun_s := time.monotonic()) < until_s:
            wanted, missing = missing[:count], missing[count:]
            answer = self._courier.ask(partial(MilvusStore.local_features, ids=wanted), nothing)
            for found_id, local in answer.items():
                cache.put(found_id, local)
            is_quick = time.monotonic() - begun_s < 0.1 * self._fetch_s
            count = 2 * count if is_quick else max(1, count // 2)


def _is_within(keyframe: Keyframe, hint: Hint) -> bool:
    place = keyframe.place
    return place is not None and float(
        np.linalg.norm(place.translation_m - hint.position_m)) <= hint.radius_m
