"""A store of keyframes that keeps in memory what cannot be written now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.keyframe import KeyframeId, MapPose, NewKeyframe
from selavpr_ros.maps.local_cache import LocalCache
from selavpr_ros.maps.local_codec import EncodedFeatures
from selavpr_ros.maps.store import OwnStore


class PatientStore:
    """A store that may fail for a while: what it cannot take (a full disk) waits in memory.

    Args:
        store: None keeps everything in memory.
        cache_bytes: limit of the cache of local features if there is a store, and of the keyframes
            that wait; None is no limit.

    Attributes:
        error: why the last attempt failed; empty if it did not.
        cache: local features that are in memory.
    """

    def __init__(self, store: OwnStore | None, cache_bytes: int | None) -> None:
        self.store = store
        self.error = ''
        self.cache = LocalCache(cache_bytes if store is not None else None)
        self._limit = cache_bytes
        self._unsaved: dict[KeyframeId, NewKeyframe] = {}
        self._unsaved_bytes = 0  # a counter, because other threads ask while this one adds
        self._unsaved_poses: dict[KeyframeId, MapPose] = {}

    @property
    def required(self) -> OwnStore:
        """The store; MapError if there is none."""
        if self.store is None:
            raise MapError('the map is in memory alone: open it with a file')
        return self.store

    @property
    def _writable(self) -> OwnStore | None:
        return None if self.store is None or self.store.read_only else self.store

    @property
    def unsaved(self) -> int:
        """How many keyframes wait to be written."""
        return len(self._unsaved)

    @property
    def nbytes(self) -> int:
        """Bytes in memory: cached local features, and keyframes that wait."""
        return self.cache.nbytes + self._unsaved_bytes

    @property
    def why_closed(self) -> str:
        """Why no keyframe can be added; empty if one can."""
        if self.store is not None and self.store.read_only:
            return 'the map is read-only'
        if self._limit is not None and self._unsaved_bytes > self._limit:
            return f'{self.unsaved} keyframes wait to be written: {self.error}'
        return ''

    # ---- writing -------------------------------------------------------------------------------

    def add(self, new: NewKeyframe) -> None:
        """Keep a keyframe, or let it wait."""
        if self.store is not None:
            self._unsaved[new.keyframe.id] = new
            self._unsaved_bytes += new.nbytes
            self.flush()
        if new.local is not None and new.keyframe.id not in self._unsaved:
            self.cache.put(new.keyframe.id, new.local)

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> None:
        """Keep the back-end's poses of keyframes, or let them wait."""
        if self._writable:
            self._unsaved_poses.update(poses)
            self.flush()

    def flush(self) -> None:
        """Try to write what waits; `error` says why it still does."""
        store = self._writable
        if store is None:
            return
        try:
            for keyframe_id in list(self._unsaved):
                store.add([self._unsaved[keyframe_id]])
                self._forget_unsaved(keyframe_id)
            if self._unsaved_poses:
                store.set_map_poses(self._unsaved_poses)
                self._unsaved_poses = {}
        except MapError as error:
            self.error = str(error)
        else:
            self.error = ''

    def keep(self, write: Callable[[OwnStore], None]) -> bool:
        """Try to write what can be made again and need not wait; tells whether that worked."""
        if self._writable:
            try:
                write(self._writable)
            except MapError as error:
                self.error = str(error)
            else:
                return True
        return False

    def remove(self, ids: Iterable[KeyframeId]) -> None:
        """Forget keyframes in the store; after a MapError, the store still has all of them."""
        if self.store is not None:
            self.store.remove(set(ids) - self._unsaved.keys())

    def drop(self, keyframe_id: KeyframeId) -> None:
        """Forget what is in memory of a keyframe that is not in the store, or no longer."""
        self.cache.drop(keyframe_id)
        self._forget_unsaved(keyframe_id)
        self._unsaved_poses.pop(keyframe_id, None)

    def _forget_unsaved(self, keyframe_id: KeyframeId) -> None:
        new = self._unsaved.pop(keyframe_id, None)
        self._unsaved_bytes -= new.nbytes if new else 0

    def close(self) -> None:
        """Close the store."""
        if self.store is not None:
            self.store.close()

    # ---- reading -------------------------------------------------------------------------------

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe; None where it has none, or they cannot be read."""
        if keyframe_id in self._unsaved:
            return self._unsaved[keyframe_id].local
        local = self.cache.get(keyframe_id)
        if local is None and self.store is not None:
            try:
                local = self.store.local_features(keyframe_id)
            except MapError as error:
                self.error = str(error)
            if local is not None:
                self.cache.put(keyframe_id, local)
        return local

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""
        if keyframe_id in self._unsaved or self.store is None:
            return self._unsaved[keyframe_id].thumbnail if keyframe_id in self._unsaved else b''
        return self.store.thumbnail(keyframe_id)

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of a keyframe's pose, or None, and the back-end's key, or 0."""
        if keyframe_id in self._unsaved:
            return self._unsaved[keyframe_id].covariance, self._unsaved[keyframe_id].external_key
        return self.required.details(keyframe_id)
