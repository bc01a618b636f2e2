"""A place for the newest message, between the thread that receives and the one that works."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    """One slot: a new item replaces one that still waits, so nothing ever queues."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._open = True

    def put(self, item: T) -> T | None:
        """Leave an item; returns the one that it replaces, which is lost, or None."""
        with self._changed:
            lost, self._item = self._item, item
            self._changed.notify()
            return lost

    def take(self) -> T | None:
        """Wait for an item and take it; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or not self._open)
            item, self._item = self._item, None
            return item if self._open else None

    def close(self) -> None:
        """Let `take` return None from now on."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
