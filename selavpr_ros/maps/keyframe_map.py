"""Stage 3: the keyframes in memory, and the search for the most similar ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.shared_map import SharedMap
from selavpr_ros.maps.keyframe import (
    Hint,
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.keyframe_index import AUTO, KeyframeIndex, Rows
from selavpr_ros.maps.keyframe_table import KeyframeTable
from selavpr_ros.maps.local_codec import EncodedFeatures
from selavpr_ros.maps.patient_store import PatientStore
from selavpr_ros.maps.store import OwnStore
from selavpr_ros.settings import MapSettings

# The search graph of a large map is written after this many keyframes, and at the end: a start
# after a crash has at most that many keyframes to add to it.
GRAPH_KEPT_EVERY = 5000
UNRELATED_KEPT_EVERY = 20

REJECT_NEW, OLDEST_SESSION, DENSEST = 'reject_new', 'oldest_session', 'densest'
KEPT_NEWEST = 20  # that 'densest' never takes, because they tell what is too recent


@dataclass(frozen=True)
class Retrieval:
    """One of the most similar keyframes; `rank` 0 is the most similar one."""

    keyframe: Keyframe
    rank: int
    similarity: float


class KeyframeMap:
    """The keyframes of one robot, or of several whose maps were merged.

    Descriptors and poses are in memory, local features in a store with a cache before it. What
    the store cannot take now (a full disk) waits in memory, and is tried again with every new
    keyframe. The keyframes of a session lie together and are ordered by time, those of the
    running session last: what is too recent is always the newest part.

    Args:
        store: an open store, whose keyframes are loaded, and which `close` closes; None keeps
            everything in memory.
        shared: the part with the keyframes of other robots, which delivers those of `store`.
        index: kind of the search, see KeyframeIndex.
        cache_bytes: limit of the cache of local features if there is a store, and of the keyframes
            that it cannot take; None is no limit.

    Attributes:
        unrelated: what was learned of unrelated images on this map, as text; kept with it.
    """

    def __init__(
        self, store: OwnStore | None = None, shared: SharedMap | None = None, *,
        index: str = AUTO, cache_bytes: int | None = None,
    ) -> None:
        self._store = PatientStore(store, cache_bytes)
        self._shared = shared
        self._index_kind = index
        self._index: KeyframeIndex | None = None
        self._table = KeyframeTable()
        self._graph_of = 0  # how many keyframes the graph in the store has
        self.unrelated = ''
        if store is not None:
            self._load(store)

    def _load(self, store: OwnStore) -> None:
        self._table = KeyframeTable(store.keyframes(), store.sessions())
        with suppress(MapError):  # damaged: it is learned again
            self.unrelated = store.unrelated()
        if len(self):
            self._index = KeyframeIndex(
                len(self._table[0].global_descriptor), self._index_kind)
            graph = store.graph()
            try:
                self._index.load(self._table.descriptors(), graph)
                self._graph_of = len(self) if graph else 0
            except MapError as error:
                self._store.error = str(error)

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._table)

    def __contains__(self, keyframe_id: KeyframeId) -> bool:
        return keyframe_id in self._table.row_of

    def __getitem__(self, keyframe_id: KeyframeId) -> Keyframe:
        found = self.find(keyframe_id)
        if found is None:
            raise MapError(f'no keyframe {keyframe_id} in a map of {len(self)}')
        return found

    def find(self, keyframe_id: KeyframeId) -> Keyframe | None:
        """A keyframe, or None if it is not in this map."""
        row = self._table.row_of.get(keyframe_id)
        return None if row is None else self._table[row]

    @property
    def newest(self) -> Keyframe | None:
        """The keyframe added last, or None."""
        return self._table[-1] if len(self) else None

    @property
    def sessions(self) -> Mapping[SessionId, Session]:
        """The sessions that have keyframes, in the order in which they came."""
        return self._table.sessions

    @property
    def nbytes(self) -> int:
        """Bytes of memory: descriptors, their copy in the index, and local features."""
        newest = self.newest
        descriptors = newest.global_descriptor.nbytes * len(self) if newest else 0
        return descriptors + (self._index.nbytes if self._index else 0) + self._store.nbytes

    @property
    def keyframes_with_local(self) -> int:
        """How many keyframes have local features."""
        return sum(keyframe.has_local for keyframe in self._table)

    @property
    def codec(self) -> str | None:
        """How the store keeps local features; None without a store."""
        return None if self._store.store is None else self._store.store.codec

    @property
    def store_error(self) -> str:
        """Why the store failed the last time; empty if it did not."""
        return self._store.error

    @property
    def unsaved(self) -> int:
        """How many keyframes wait for the store."""
        return self._store.unsaved

    @property
    def why_closed(self) -> str:
        """Why no keyframe can be added; empty if one can."""
        return self._store.why_closed

    # ---- growing -------------------------------------------------------------------------------

    def add(self, new: NewKeyframe) -> None:
        """Keep a keyframe: it continues the newest session, or begins one.

        With a store it is durable when this returns, unless `store_error` says why it is not;
        it is in the map in any case.

        Raises:
            MapError: its id is not after the newest one's, its session is an older one, or its
                descriptor has another length.
        """
        keyframe = new.keyframe
        self._table.require_order(keyframe.id)
        dim = len(keyframe.global_descriptor)
        if self._index is None:
            self._index = KeyframeIndex(dim, self._index_kind)
        if dim != self._index.dim:
            raise MapError(f'a global descriptor of length {dim} in a map of {self._index.dim}: '
                           'another model? start with an empty map')
        self._index.add(keyframe.global_descriptor[None])
        self._table.add(keyframe, new.session)
        self._store.add(new)
        self._tell_others()
        if len(self) % GRAPH_KEPT_EVERY == 0:
            self._keep_graph()
        if len(self) % UNRELATED_KEPT_EVERY == 0:
            self._keep_unrelated()

    def flush(self) -> None:
        """Try to write what waits for the store, and have it delivered to other robots.

        `store_error` says why it still waits.
        """
        self._store.flush()
        self._tell_others()

    def _tell_others(self) -> None:
        if self._shared:
            self._shared.wake()

    def _keep_graph(self) -> None:
        if self._index is None or self.unsaved or len(self) == self._graph_of:
            return
        graph = self._index.graph_bytes()
        if graph and self._store.keep(lambda store: store.keep_graph(graph)):
            self._graph_of = len(self)

    def _keep_unrelated(self) -> None:
        if self.unrelated:
            self._store.keep(lambda store: store.keep_unrelated(self.unrelated))

    def close(self) -> None:
        """Write and deliver what still can be, and close the store."""
        self.flush()
        if self._shared:
            self._shared.close()
        self.flush()
        self._keep_graph()
        self._keep_unrelated()
        self._store.close()

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep the back-end's poses of keyframes; returns how many of the keyframes are here."""
        known = {keyframe_id: pose for keyframe_id, pose in poses.items() if keyframe_id in self}
        for keyframe_id, pose in known.items():
            self._table.set_map_pose(keyframe_id, pose)
        self._store.set_map_poses(known)
        self._tell_others()
        return len(known)

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        """Keep the back-end's keys of keyframes; returns how many of the keyframes are here.

        Raises:
            MapError: they cannot be kept.
        """
        return self._store.required.set_external_keys(keys)

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""
        return self._store.thumbnail(keyframe_id)

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of a keyframe's pose, or None, and the back-end's key, or 0."""
        return self._store.details(keyframe_id)

    def save_to(
        self, target: Path, *, overwrite: bool = False, without: Iterable[str] = ()
    ) -> int:
        """Write a copy of the store, from any thread; see `MapFile.save_to`."""
        return self._store.required.save_to(target, overwrite=overwrite, without=without)

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes, here and in a shared map; returns how many there were.

        Raises:
            MapError: the store cannot forget them; then nothing is forgotten.
        """
        gone = {keyframe_id for keyframe_id in ids if keyframe_id in self}
        if gone:
            self._store.remove(gone)
            self._drop(gone)
            self._tell_others()
        return len(gone)

    def _drop(self, gone: Collection[KeyframeId]) -> None:
        """Forget keyframes that the store has forgotten."""
        if not gone:
            return
        for keyframe_id in gone:
            self._store.drop(keyframe_id)
        assert self._index
        self._graph_of = 0
        self._index.remove([self._table.row_of[keyframe_id] for keyframe_id in gone])
        self._table.remove(gone)

    def evict(self, policy: str, session: SessionId) -> int:
        """Make room in a full map; returns how many keyframes were forgotten here.

        A shared map keeps them; keyframes that it does not have yet stay here.

        Args:
            policy: 'oldest_session' takes the oldest session but `session`; 'densest' takes the
                hundredth of keyframes that look most like the one before; 'reject_new' none.
            session: the running session.
        """
        ids = [self._table[row].id for row in self._rows_to_evict(policy, session)]
        try:
            if not self._shared:
                return self.remove(ids)
            gone = set(self._store.required.forget_delivered(ids))
        except MapError as error:
            self._store.error = str(error)
            return 0
        self._drop(gone)
        return len(gone)

    def make_room(self, settings: MapSettings, session: SessionId) -> bool:
        """Evict keyframes of a full map, see `evict`; returns whether there is room now."""
        if len(self) >= settings.max_keyframes and settings.eviction != REJECT_NEW:
            self.evict(settings.eviction, session)
        return len(self) < settings.max_keyframes

    def _rows_to_evict(self, policy: str, session: SessionId) -> list[int]:
        if policy == OLDEST_SESSION:
            return self._table.rows_of_oldest(session)
        if policy == DENSEST:
            return self._table.rows_of_densest(max(1, len(self) // 100), KEPT_NEWEST)
        return []

    # ---- other robots --------------------------------------------------------------------------

    @property
    def shared_error(self) -> str:
        """Why keyframes of other robots are not searched now; empty if nothing is wrong."""
        return self._shared.error if self._shared else ''

    @property
    def undelivered(self) -> int:
        """How many keyframes other robots do not know yet."""
        return self._shared.undelivered + self.unsaved if self._shared else 0

    def last_session_id(self, robot_id: int) -> int:
        """Number of a robot's last session, even if that is forgotten; 0 without any."""
        there = self._shared.last_session_id(robot_id) if self._shared else 0
        return max(there, self._table.last_session_id(robot_id))

    def has_other_sessions(self, session: SessionId) -> bool:
        """Whether there is a session besides this one; other robots may have some at any time."""
        return self._shared is not None or any(other != session for other in self.sessions)

    def search_shared(
        self, global_descriptor: np.ndarray, top_k: int, hint: Hint | None = None
    ) -> list[Retrieval]:
        """Find the most similar keyframes of sessions that are not here.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: number of keyframes at most.
            hint: only keyframes within its circle.

        Returns:
            Retrievals, the most similar one first; none while the server does not answer.
        """
        if not self._shared:
            return []
        found = self._shared.search(global_descriptor, top_k, list(self.sessions), hint)
        return [Retrieval(keyframe, rank, similarity)
                for rank, (keyframe, similarity) in enumerate(found)]

    # ---- searching -----------------------------------------------------------------------------

    def session_start(self, session: SessionId) -> int:
        """Row of a session's first keyframe; the length of the map before there is one."""
        return self._table.starts.get(session, len(self))

    def first_recent(
        self, session: SessionId, stamp_ns: int, travelled_m: float,
        keyframes: int, seconds: float, metres: float,
    ) -> int:
        """Count the keyframes of the map that are old enough for a query.

        Args:
            session, stamp_ns, travelled_m: where the query is.
            keyframes, seconds, metres: limits; a keyframe of this session that is nearer to the
                query than any of them is too recent.

        Returns:
            Number of keyframes, from the oldest on, that the query may be compared with.
        """
        return self._table.first_recent(
            session, stamp_ns, travelled_m, keyframes, seconds, metres)

    def search(
        self, global_descriptor: np.ndarray, top_k: int, among: Rows | None = None
    ) -> list[Retrieval]:
        """Find the most similar keyframes.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: number of keyframes at most.
            among: rows to search, from the oldest keyframe on; None for all.

        Returns:
            Retrievals, the most similar one first; their similarities are exact.
        """
        if self._index is None:
            return []
        rows = self._index.search(
            global_descriptor, top_k, range(len(self)) if among is None else among)
        found = [self._table[row] for row in rows]
        if not found:  # NaN in the query
            return []
        similarities = np.stack([k.global_descriptor for k in found]) @ global_descriptor
        order = np.argsort(-similarities, kind='stable')
        return [Retrieval(found[i], rank, float(similarities[i])) for rank, i in enumerate(order)]

    def near(self, position_m: np.ndarray, radius_m: float) -> np.ndarray:
        """Rows of the keyframes whose `place` is within `radius_m` of a position (3,)."""
        return self._table.near(position_m, radius_m)

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe here, or of one that the last shared search found.

        None if it has none, or they cannot be read.
        """
        cache = self._store.cache
        if self._shared:
            self._shared.fetch(keyframe_id, cache)
        return self._store.local_features(keyframe_id) if keyframe_id in self else cache.get(
            keyframe_id)
