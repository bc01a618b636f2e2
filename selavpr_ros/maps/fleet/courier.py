"""Delivers a robot's keyframes to a shared map in the background, and asks that map."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from selavpr_ros.errors import MapError, UnreachableError
from selavpr_ros.maps.fleet.milvus_store import MilvusStore
from selavpr_ros.maps.keyframe import NewKeyframe
from selavpr_ros.maps.store import Deliveries, OwnStore

T = TypeVar('T')

# Seconds until the next attempt after a failure; doubled after each further failure.
RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
# Size of a parcel, which is one request and marked as a whole: a bad link carries it in time.
PARCEL_BYTES = 1_500_000
KEYFRAMES_AT_ONCE = 64
POSES_AT_ONCE = 1000
# Seconds to deliver what is left at the end; the rest is delivered after the next start.
CLOSING_S = 5.0


class Courier:
    """Delivers, in the background, what is new in a robot's own store to a shared map.

    Nothing is lost or duplicated: the store knows what waits until the server has acknowledged
    it, and a second delivery replaces the first.

    Args:
        own: the robot's own store.
        connect: opens the shared map; MapError if that does not work now.

    Raises:
        MapError: the server refuses the map. One that does not answer is tried again later.

    Attributes:
        error: why the last attempt failed; empty if it did not.
    """

    def __init__(self, own: OwnStore, connect: Callable[[], MilvusStore]) -> None:
        self._own, self._connect = own, connect
        self._deliveries: Deliveries | None = None
        self._store: MilvusStore | None = None
        self._failures = self._unanswered = 0  # in a row: rounds of delivery, and questions
        self._is_reachable = False
        self._news, self._stopped = threading.Event(), threading.Event()
        self.error = ''
        try:
            self._open()
        except UnreachableError as error:
            self._fail(error)
        self._news.set()
        self._thread = threading.Thread(target=self._run, name='vpr courier', daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Tell the thread that there is something to deliver."""
        self._news.set()

    def ask(self, question: Callable[[MilvusStore], T], otherwise: T) -> T:
        """The server's answer; `otherwise` if it does not answer, or did not a moment ago."""
        store = self._store
        if store is None or not self._is_reachable:
            return otherwise
        try:
            answer = question(store)
        except MapError as error:
            self._unanswered += 1
            self._fail(error)
            return otherwise
        self._unanswered = 0
        return answer

    def close(self) -> None:
        """Deliver what can be delivered soon, and close the connection."""
        until_s = time.monotonic() + CLOSING_S
        with suppress(MapError):
            while (not self.error and self._own.undelivered
                   and time.monotonic() < until_s):
                time.sleep(0.02)
        self._stopped.set()
        self._news.set()
        # A request may wait longer for its answer; it is made again after the next start.
        self._thread.join(max(until_s - time.monotonic(), 0.1))
        self._disconnect()

    def _fail(self, error: MapError) -> None:
        self.error = str(error)
        # A server that refuses to keep something can still be asked.
        self._is_reachable = self._is_reachable and not isinstance(error, UnreachableError)
        self._news.set()

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self.error:
                failures = max(self._failures, self._unanswered, 1)
                self._stopped.wait(min(RETRY_S * 2.0**(failures - 1), LONGEST_RETRY_S))
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
            elif self.error and self._store:  # the collections may have been deleted
                self._store.reopen()
                self._deliveries = self._own.deliveries(self._store.uuid)
            self._deliver()
        except MapError as error:
            self._failures += 1
            self._fail(error)
        except Exception as error:  # else the thread would end without a report
            self._failures += 1
            self._fail(MapError(f'internal error, please report it: {error!r}'))
        else:
            self._failures, self.error = 0, ''

    def _open(self) -> None:
        self._store = self._connect()
        self._deliveries = self._own.deliveries(self._store.uuid)
        self._is_reachable = True

    def _disconnect(self) -> None:
        store, self._store = self._store, None
        if store:
            store.close()

    def _deliver(self) -> None:
        store, waiting = self._store, self._deliveries
        if store is None or waiting is None:
            return
        # Removals go before new keyframes, because an id may be used again.
        while not self._stopped.is_set() and (gone := waiting.recalled(POSES_AT_ONCE)):
            store.remove(gone)
            waiting.mark_recalled(gone)
        refusals = self._deliver_new(store, waiting)
        while not self._stopped.is_set() and (poses := waiting.moved(POSES_AT_ONCE)):
            store.set_map_poses(poses)
            waiting.mark_moved(poses.items())
        if refusals:
            raise refusals[0]

    def _deliver_new(self, store: MilvusStore, waiting: Deliveries) -> list[MapError]:
        """Send all keyframes that wait; returns what the server said of those it refused."""
        refusals: list[MapError] = []
        after = 0
        while not self._stopped.is_set() and (parcel := self._pack(waiting, after)):
            after = max(parcel)
            try:
                self._send(store, waiting, list(parcel.values()))
            except UnreachableError:
                raise
            except MapError:  # at least one was refused: the others shall arrive
                for new in parcel.values():
                    try:
                        self._send(store, waiting, [new])
                    except UnreachableError:
                        raise
                    except MapError as error:
                        refusals.append(error)
        return refusals

    def _pack(self, waiting: Deliveries, after: int) -> dict[int, NewKeyframe]:
        """The next keyframes that wait, by their numbers in the store, as many as fit."""
        parcel: dict[int, NewKeyframe] = {}
        nbytes = 0
        for number, keyframe_id in waiting.new(KEYFRAMES_AT_ONCE, after).items():
            for new in self._own.whole([keyframe_id]):  # unless forgotten in the meantime
                nbytes += new.nbytes
                if parcel and nbytes > PARCEL_BYTES:
                    return parcel
                parcel[number] = new
        return parcel

    def _send(
        self, store: MilvusStore, waiting: Deliveries, parcel: Sequence[NewKeyframe]
    ) -> None:
        store.add(parcel)
        waiting.mark_new(new.keyframe for new in parcel)
