"""A map that many robots share: the own keyframes are here, those of the others on a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np

from selavpr_ros.deliveries import Deliveries, count_undelivered, forget_here
from selavpr_ros.errors import MapError, UnreachableError
from selavpr_ros.keyframe import Hint, Keyframe, KeyframeId
from selavpr_ros.keyframe_index import AUTO
from selavpr_ros.keyframe_map import KeyframeMap, Retrieval
from selavpr_ros.local_codec import EncodedFeatures
from selavpr_ros.map_file import MapFile
from selavpr_ros.milvus_store import MilvusStore

T = TypeVar('T')

# After a failure; twice as long after each further one.
RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
KEYFRAMES_AT_ONCE = 16
POSES_AT_ONCE = 1000
# What is left then is delivered by the next start.
LAST_DELIVERY_S = 5.0


class Courier:
    """Tells a shared map, in the background, what is new in the own one.

    Nothing is lost and nothing is there twice: what is waiting is in the file until the server
    has acknowledged it, and telling it twice is telling it once.

    Args:
        file: of the own map.
        connect: opens the shared map; MapError if that does not work now.

    Raises:
        MapError: the server refuses the map. One that does not answer is tried again later.

    Attributes:
        error: why the last attempt failed; empty if it did not.
        last_session_id: the number of each robot's last session, where it was asked for.
    """

    def __init__(self, file: MapFile, connect: Callable[[], MilvusStore]) -> None:
        self._file, self._connect = file, connect
        self._deliveries: Deliveries | None = None
        self._store: MilvusStore | None = None
        self._failures = 0
        self._is_reachable = False
        self._news, self._stopped = threading.Event(), threading.Event()
        self.error = ''
        try:
            self._open()
        except UnreachableError as error:
            self.error = str(error)
        self._news.set()
        self._thread = threading.Thread(target=self._run, name='vpr courier', daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def ask(self, question: Callable[[MilvusStore], T], otherwise: T) -> T:
        """What the server answers; `otherwise` where it does not, or did not a moment ago."""
        store = self._store
        if store is None or not self._is_reachable:
            return otherwise
        try:
            answer = question(store)
        except MapError as error:
            self._fail(error)
            return otherwise
        self._failures = 0
        return answer

    def close(self) -> None:
        """Deliver what can be delivered soon, and let go of the server."""
        until_s = time.monotonic() + LAST_DELIVERY_S
        with suppress(MapError):
            while (not self.error and count_undelivered(self._file)
                   and time.monotonic() < until_s):
                time.sleep(0.02)
        self._stopped.set()
        self._news.set()
        self._thread.join(LAST_DELIVERY_S)  # a request may wait longer for its answer
        self._disconnect()

    def _fail(self, error: MapError) -> None:
        self._failures += 1
        self.error = str(error)
        # What it refuses to keep is no reason not to ask.
        self._is_reachable = self._is_reachable and not isinstance(error, UnreachableError)
        self._news.set()

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self.error:
                self._stopped.wait(min(RETRY_S * 2.0**(self._failures - 1), LONGEST_RETRY_S))
            else:
                self._news.wait()
            self._news.clear()
            if not self._stopped.is_set():
                self._try()

    def _try(self) -> None:
        try:
            if not self._is_reachable:
                self._disconnect()
                self._open()
            self._deliver()
            self.error = ''
        except MapError as error:
            self._fail(error)
        except Exception as error:  # else it would deliver nothing any more, and not say so
            self._fail(MapError(f'internal error, please report it: {error!r}'))

    def _open(self) -> None:
        self._store = self._connect()
        self._deliveries = Deliveries(self._file, self._store.uuid)
        self._is_reachable = True

    def _disconnect(self) -> None:
        store, self._store = self._store, None
        if store:
            store.close()

    def _deliver(self) -> None:
        store, waiting = self._store, self._deliveries
        assert store
        assert waiting
        while not self._stopped.is_set() and (ids := waiting.new(KEYFRAMES_AT_ONCE)):
            added = [new for new in map(self._file.whole, ids) if new]
            store.upsert(added)
            waiting.mark_new(new.keyframe for new in added)
        while not self._stopped.is_set() and (poses := waiting.moved(POSES_AT_ONCE)):
            store.set_map_poses(poses)
            waiting.mark_moved(poses.items())
        while not self._stopped.is_set() and (gone := waiting.recalled(POSES_AT_ONCE)):
            store.remove(gone)
            waiting.mark_recalled(gone)


class SharedMap(KeyframeMap):
    """The map of one robot of a fleet.

    The robot's own keyframes are here as in any other map, and in a file; each is delivered to
    the server, too, at once or as soon as the server can be reached. A query is compared with
    the own keyframes here and with all others there. Without the server, the robot goes on with
    its own.

    Args:
        file: of the robot's own keyframes.
        connect: opens the shared map, see Courier.
        index, cache_bytes: see KeyframeMap.

    Raises:
        MapError: the server refuses the map.
    """

    def __init__(
        self, file: MapFile, connect: Callable[[], MilvusStore], *, index: str = AUTO,
        cache_bytes: int | None = None,
    ) -> None:
        super().__init__(file, index=index, cache_bytes=cache_bytes)
        self._file = file
        self._found: set[KeyframeId] = set()
        self._courier = Courier(file, connect)

    @property
    def shared_error(self) -> str:
        """Why keyframes of other robots are not searched now; empty if nothing is wrong."""
        return self._courier.error

    @property
    def undelivered(self) -> int:
        """How many keyframes other robots do not know yet."""
        with suppress(MapError):  # then `store_error` tells
            return count_undelivered(self._file) + self.unsaved
        return self.unsaved

    def last_session_id(self, robot_id: int) -> int:
        """The number of a robot's last session, also of one that is on the server alone."""
        there = self._courier.ask(lambda store: store.last_session_id(robot_id), 0)
        return max(there, super().last_session_id(robot_id))

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
        gone = set(forget_here(self._file, ids))
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
        nothing: list[tuple[Keyframe, float]] = []
        found = [
            (keyframe, similarity) for keyframe, similarity in self._courier.ask(
                lambda store: store.search(global_descriptor, top_k, list(self.sessions), hint),
                nothing)
            if hint is None or _is_within(keyframe, hint)]
        self._found = {keyframe.id for keyframe, _ in found if keyframe.has_local}
        return [Retrieval(keyframe, rank, similarity)
                for rank, (keyframe, similarity) in enumerate(found)]

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe here, or of one that the last search found elsewhere."""
        if keyframe_id in self._found and self._cache.get(keyframe_id) is None:
            self._fetch()
        return super().local_features(keyframe_id)

    def _fetch(self) -> None:
        """Get the features of all that was found at once."""
        missing = [each for each in self._found if self._cache.get(each) is None]
        self._found = set()
        nothing: dict[KeyframeId, EncodedFeatures] = {}
        for keyframe_id, local in self._courier.ask(
                lambda store: store.local_features(missing), nothing).items():
            self._cache.put(keyframe_id, local)


def _is_within(keyframe: Keyframe, hint: Hint) -> bool:
    place = keyframe.place
    return place is not None and float(
        np.linalg.norm(place.translation_m - hint.position_m)) <= hint.radius_m
