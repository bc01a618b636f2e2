"""Stage 3: the keyframes in memory, and the search for the most similar ones."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from selavpr_ros.errors import MapError
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
from selavpr_ros.maps.local_codec import EncodedFeatures

# A large map's search graph is written so often, besides at the end: a start after a crash then
# has at most so many keyframes to put in.
GRAPH_KEPT_EVERY = 5000
LOADED_AT_ONCE = 4096
UNRELATED_KEPT_EVERY = 20

REJECT_NEW, OLDEST_SESSION, DENSEST = 'reject_new', 'oldest_session', 'densest'
EVICTIONS = (REJECT_NEW, OLDEST_SESSION, DENSEST)
KEPT_NEWEST = 20  # they tell what is too recent


class KeyframeStore(Protocol):
    """Where a map outlives the program: `MapFile`."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be kept."""

    @property
    def codec(self) -> str:
        """How it keeps local features."""

    def add(self, added: Sequence[NewKeyframe]) -> None:
        """Keep keyframes, all or none; MapError if they cannot be kept now."""

    def sessions(self) -> list[Session]:
        """All sessions, in the order in which they came."""

    def keyframes(self) -> Iterator[Keyframe]:
        """All keyframes, in the order in which they came."""

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe; MapError if they cannot be read."""

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep poses of keyframes; returns how many of them there are."""

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes; returns how many there were."""

    def graph(self) -> bytes:
        """The search graph that was kept, or nothing."""

    def keep_graph(self, graph: bytes) -> None:
        """Keep the search graph of all keyframes."""

    def unrelated(self) -> str:
        """What was kept of unrelated images, or nothing."""

    def keep_unrelated(self, text: str) -> None:
        """Keep what is known of unrelated images."""

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        """Keep the back-end's names of keyframes; returns how many of them there are."""

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of the pose, or None, and the back-end's key, or 0."""

    def save_to(self, target: Path, *, overwrite: bool, without: Iterable[str]) -> int:
        """Write a copy while the map goes on growing; returns its bytes."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True)
class Retrieval:
    """One of the most similar keyframes; `rank` 0 is the most similar one."""

    keyframe: Keyframe
    rank: int
    similarity: float


class LocalCache:
    """The local features that were used last, up to a number of bytes; None is no limit."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.nbytes = 0
        self._features: OrderedDict[KeyframeId, EncodedFeatures] = OrderedDict()

    def put(self, keyframe_id: KeyframeId, local: EncodedFeatures) -> None:
        """Keep features as the newest ones, and let go of the oldest."""
        self.drop(keyframe_id)
        self._features[keyframe_id] = local
        self.nbytes += local.nbytes
        while self.limit is not None and self.nbytes > self.limit:
            self.drop(next(iter(self._features)))

    def get(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Features that are here, which become the newest ones; else None."""
        if keyframe_id in self._features:
            self._features.move_to_end(keyframe_id)
        return self._features.get(keyframe_id)

    def drop(self, keyframe_id: KeyframeId) -> None:
        """Forget features, if they are here."""
        local = self._features.pop(keyframe_id, None)
        self.nbytes -= local.nbytes if local else 0


class KeyframeMap:
    """The keyframes of one robot, or of several whose maps were merged.

    Descriptors and poses are in memory, local features in a store with a cache before it. What
    the store cannot take now (a full disk) waits in memory, and is tried again with every new
    keyframe. The keyframes of a session lie together and are ordered by time, those of the
    running session last: what is too recent is always the newest part.

    Args:
        store: an open MapFile, whose keyframes are loaded, and which `close` closes; None keeps
            everything in memory.
        index: kind of the search, see KeyframeIndex.
        cache_bytes: of local features, with a store; and of keyframes that it cannot take.

    Attributes:
        unrelated: what was learned of unrelated images on this map, as text; kept with it.
    """

    def __init__(
        self, store: KeyframeStore | None = None, *, index: str = AUTO,
        cache_bytes: int | None = None,
    ) -> None:
        self._store = store
        self._index_kind, self._cache_bytes = index, cache_bytes
        self._index: KeyframeIndex | None = None
        self._keyframes: list[Keyframe] = []
        self._row_of: dict[KeyframeId, int] = {}
        self._sessions: dict[SessionId, Session] = {}
        self._starts: dict[SessionId, int] = {}
        self._last_session_ids: dict[int, int] = {}  # by robot; of forgotten sessions, too
        self._cache = LocalCache(cache_bytes if store is not None else None)
        self._unsaved: dict[KeyframeId, NewKeyframe] = {}
        self._unsaved_bytes = 0  # kept count of: other threads ask while this one adds
        self._unsaved_poses: dict[KeyframeId, MapPose] = {}
        self._graph_of = 0  # how many keyframes the graph in the store has
        self.store_error = ''
        self.unrelated = ''
        if store is not None:
            self._load(store)

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def __contains__(self, keyframe_id: KeyframeId) -> bool:
        return keyframe_id in self._row_of

    def __getitem__(self, keyframe_id: KeyframeId) -> Keyframe:
        try:
            return self._keyframes[self._row_of[keyframe_id]]
        except KeyError:
            raise MapError(f'no keyframe {keyframe_id} in a map of {len(self)}') from None

    def find(self, keyframe_id: KeyframeId) -> Keyframe | None:
        """A keyframe, or None if it is not in this map."""
        row = self._row_of.get(keyframe_id)
        return None if row is None else self._keyframes[row]

    @property
    def newest(self) -> Keyframe | None:
        """The keyframe added last, or None."""
        return self._keyframes[-1] if self._keyframes else None

    @property
    def sessions(self) -> Mapping[SessionId, Session]:
        """The sessions that have keyframes, in the order in which they came."""
        return self._sessions

    @property
    def nbytes(self) -> int:
        """Bytes of memory: descriptors, their copy in the index, and local features."""
        descriptors = sum(k.global_descriptor.nbytes for k in self._keyframes[:1]) * len(self)
        index = self._index.nbytes if self._index else 0
        return descriptors + index + self._cache.nbytes + self._unsaved_bytes

    @property
    def keyframes_with_local(self) -> int:
        """How many keyframes have local features."""
        return sum(keyframe.has_local for keyframe in self._keyframes)

    @property
    def codec(self) -> str | None:
        """How the store keeps local features; None without a store."""
        return None if self._store is None else self._store.codec

    @property
    def unsaved(self) -> int:
        """How many keyframes wait for the store."""
        return len(self._unsaved)

    @property
    def why_closed(self) -> str:
        """Why no keyframe can be added; empty if one can."""
        if self._store is not None and self._store.read_only:
            return 'the map is read-only'
        if self._cache_bytes is not None and self._unsaved_bytes > self._cache_bytes:
            return f'{self.unsaved} keyframes wait to be written: {self.store_error}'
        return ''

    # ---- loading -------------------------------------------------------------------------------

    def _load(self, store: KeyframeStore) -> None:
        self._sessions = {session.id: session for session in store.sessions()}
        for session_id in self._sessions:
            self._count_session(session_id)
        self._keyframes = list(store.keyframes())
        self._number_rows()
        with suppress(MapError):  # damaged: it is learned again
            self.unrelated = store.unrelated()
        if self._keyframes:
            self._index = KeyframeIndex(
                len(self._keyframes[0].global_descriptor), self._index_kind)
            graph = store.graph()
            try:
                self._index.load(self._descriptors(), graph)
                self._graph_of = len(self) if graph else 0
            except MapError as error:
                self.store_error = str(error)

    def _descriptors(self) -> Iterator[np.ndarray]:
        """All global descriptors, (n, D) at a time."""
        rest = (keyframe.global_descriptor for keyframe in self._keyframes)
        while rows := list(islice(rest, LOADED_AT_ONCE)):
            yield np.stack(rows)

    def _number_rows(self) -> None:
        self._row_of = {keyframe.id: row for row, keyframe in enumerate(self._keyframes)}
        self._starts = {}
        for row, keyframe in enumerate(self._keyframes):
            self._starts.setdefault(keyframe.id.session, row)
        self._sessions = {session: self._sessions[session] for session in self._starts}

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
        self._require_order(keyframe.id)
        dim = len(keyframe.global_descriptor)
        if self._index is None:
            self._index = KeyframeIndex(dim, self._index_kind)
        if dim != self._index.dim:
            raise MapError(f'a global descriptor of length {dim} in a map of {self._index.dim}: '
                           'another model? start with an empty map')
        self._index.add(keyframe.global_descriptor[None])
        self._row_of[keyframe.id] = len(self)
        self._starts.setdefault(keyframe.id.session, len(self))
        self._keyframes.append(keyframe)
        self._sessions.setdefault(keyframe.id.session, new.session)
        self._count_session(keyframe.id.session)
        self._keep_local(new)

    def _count_session(self, session: SessionId) -> None:
        last = self._last_session_ids.get(session.robot_id, 0)
        self._last_session_ids[session.robot_id] = max(last, session.session_id)

    def _require_order(self, keyframe_id: KeyframeId) -> None:
        newest = self.newest
        if newest is None or keyframe_id.session not in self._starts:
            return
        if newest.id.session != keyframe_id.session or keyframe_id <= newest.id:
            raise MapError(f'keyframe {keyframe_id} comes after {newest.id}')

    def _keep_local(self, new: NewKeyframe) -> None:
        if self._store is not None:
            self._unsaved[new.keyframe.id] = new
            self._unsaved_bytes += new.nbytes
            self.flush()
            if len(self) % GRAPH_KEPT_EVERY == 0:
                self._keep_graph()
            if len(self) % UNRELATED_KEPT_EVERY == 0:
                self._keep_unrelated()
        if new.local is not None and new.keyframe.id not in self._unsaved:
            self._cache.put(new.keyframe.id, new.local)

    def flush(self) -> None:
        """Try to write what waits for the store; `store_error` says why it still does."""
        if self._store is None or self._store.read_only:
            return
        try:
            for keyframe_id in list(self._unsaved):
                self._store.add([self._unsaved[keyframe_id]])
                self._forget_unsaved(keyframe_id)
            if self._unsaved_poses:
                self._store.set_map_poses(self._unsaved_poses)
                self._unsaved_poses = {}
        except MapError as error:
            self.store_error = str(error)
        else:
            self.store_error = ''

    def _forget_unsaved(self, keyframe_id: KeyframeId) -> None:
        new = self._unsaved.pop(keyframe_id, None)
        self._unsaved_bytes -= new.nbytes if new else 0

    def _keep_graph(self) -> None:
        store, index = self._store, self._index
        if store is None or index is None or self._unsaved or len(self) == self._graph_of:
            return
        graph = index.graph_bytes()
        if graph and not store.read_only:
            try:
                store.keep_graph(graph)
                self._graph_of = len(self)
            except MapError as error:  # it is made again when the map is opened
                self.store_error = str(error)

    def _keep_unrelated(self) -> None:
        if self._store is None or self._store.read_only or not self.unrelated:
            return
        try:
            self._store.keep_unrelated(self.unrelated)
        except MapError as error:  # it is learned again
            self.store_error = str(error)

    def close(self) -> None:
        """Write what still can be written, and close the store."""
        self.flush()
        self._keep_graph()
        self._keep_unrelated()
        if self._store is not None:
            self._store.close()

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep what the back-end says of keyframes; returns how many of them there are."""
        known = {keyframe_id: pose for keyframe_id, pose in poses.items() if keyframe_id in self}
        for keyframe_id, pose in known.items():
            row = self._row_of[keyframe_id]
            self._keyframes[row] = replace(self._keyframes[row], map_pose=pose)
        if self._store is not None and not self._store.read_only:
            self._unsaved_poses |= known
            self.flush()
        return len(known)

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        """Keep the back-end's names of keyframes; returns how many of them there are.

        Raises:
            MapError: they cannot be kept.
        """
        return self._require_store().set_external_keys(keys)

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""
        if keyframe_id in self._unsaved or self._store is None:
            return self._unsaved[keyframe_id].thumbnail if keyframe_id in self._unsaved else b''
        return self._store.thumbnail(keyframe_id)

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of a keyframe's pose, or None, and the back-end's key, or 0."""
        if keyframe_id in self._unsaved:
            return self._unsaved[keyframe_id].covariance, self._unsaved[keyframe_id].external_key
        return self._require_store().details(keyframe_id)

    def save_to(
        self, target: Path, *, overwrite: bool = False, without: Iterable[str] = ()
    ) -> int:
        """Write a copy of the store, from any thread; see `MapFile.save_to`."""
        return self._require_store().save_to(target, overwrite=overwrite, without=without)

    def _require_store(self) -> KeyframeStore:
        if self._store is None:
            raise MapError('the map is in memory alone: open it with a file')
        return self._store

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes; returns how many there were.

        Raises:
            MapError: the store cannot forget them; then nothing is forgotten.
        """
        gone = {keyframe_id for keyframe_id in ids if keyframe_id in self}
        if not gone:
            return 0
        if self._store is not None:
            self._store.remove(gone - self._unsaved.keys())
        self._drop(gone)
        return len(gone)

    def _drop(self, gone: Collection[KeyframeId]) -> None:
        """Forget keyframes that the store has forgotten."""
        if not gone:
            return
        for keyframe_id in gone:
            self._cache.drop(keyframe_id)
            self._forget_unsaved(keyframe_id)
            self._unsaved_poses.pop(keyframe_id, None)
        assert self._index
        self._graph_of = 0
        self._index.remove([self._row_of[keyframe_id] for keyframe_id in gone])
        self._keyframes = [k for k in self._keyframes if k.id not in gone]
        self._number_rows()

    def evict(self, policy: str, session: SessionId) -> int:
        """Make room in a full map; returns how many keyframes went.

        Args:
            policy: 'oldest_session' takes the oldest session but `session`; 'densest' takes the
                hundredth that looks most like the keyframe before it; 'reject_new' takes none.
            session: the running one.
        """
        try:
            return self._let_go([self._keyframes[row].id for row in self._rows_to_evict(
                policy, session)])
        except MapError as error:
            self.store_error = str(error)
            return 0

    def _let_go(self, ids: Sequence[KeyframeId]) -> int:
        """Forget keyframes for want of room; returns how many went."""
        return self.remove(ids)

    def _rows_to_evict(self, policy: str, session: SessionId) -> list[int]:
        if policy == OLDEST_SESSION:
            oldest = next((s for s in self._starts if s != session), None)
            return [row for row, k in enumerate(self._keyframes) if k.id.session == oldest]
        if policy == DENSEST:
            count = max(1, len(self) // 100)
            return list(np.argsort(self._similarity_to_previous())[::-1][:count])
        return []

    def _similarity_to_previous(self) -> np.ndarray:
        """(n,): of each keyframe to the one before it in its session; the newest are left out."""
        rows = self._keyframes[: max(0, len(self) - KEPT_NEWEST)]
        return np.array([-1.0, *(
            float(before.global_descriptor @ keyframe.global_descriptor)
            if before.id.session == keyframe.id.session else -1.0
            for before, keyframe in pairwise(rows))])[: len(rows)]

    # ---- other robots --------------------------------------------------------------------------

    @property
    def shared_error(self) -> str:
        """Why keyframes of other robots are not searched now; empty if nothing is wrong."""
        return ''

    @property
    def undelivered(self) -> int:
        """How many keyframes other robots do not know yet."""
        return 0

    def last_session_id(self, robot_id: int) -> int:
        """The number of a robot's last session, of a forgotten one, too; 0 without any."""
        return self._last_session_ids.get(robot_id, 0)

    def has_other_sessions(self, session: SessionId) -> bool:
        """Whether there is a session besides this one."""
        return any(other != session for other in self._sessions)

    def search_shared(
        self, global_descriptor: np.ndarray, top_k: int, hint: Hint | None = None
    ) -> list[Retrieval]:
        """What `search` is for the keyframes of other robots; see SharedMap."""
        return []

    # ---- searching -----------------------------------------------------------------------------

    def session_start(self, session: SessionId) -> int:
        """Row of a session's first keyframe; the length of the map before there is one."""
        return self._starts.get(session, len(self))

    def first_recent(
        self, session: SessionId, stamp_ns: int, travelled_m: float,
        keyframes: int, seconds: float, metres: float,
    ) -> int:
        """Count the keyframes of the map that are old enough for a query.

        Args:
            session, stamp_ns, travelled_m: where the query is.
            keyframes, seconds, metres: keyframes of this session that are nearer than any of
                the three are too recent.

        Returns:
            Number of keyframes, from the oldest on, that the query may be compared with.
        """
        start = self.session_start(session)
        oldest_ns, nearest_m = stamp_ns - round(seconds * 1e9), travelled_m - metres
        by_time = bisect_left(self._keyframes, oldest_ns, lo=start, key=lambda k: k.stamp_ns)
        by_way = len(self)
        if travelled_m > 0.0:
            by_way = bisect_left(
                self._keyframes, nearest_m, lo=start, key=lambda k: k.travelled_m)
        return min(max(start, len(self) - keyframes), by_time, by_way)

    def search(
        self, global_descriptor: np.ndarray, top_k: int, among: Rows | None = None
    ) -> list[Retrieval]:
        """Find the most similar keyframes.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: at most so many.
            among: rows to search, from the oldest keyframe on; None for all.

        Returns:
            Retrievals, the most similar one first; their similarities are exact.
        """
        if self._index is None:
            return []
        rows = self._index.search(
            global_descriptor, top_k, range(len(self)) if among is None else among)
        found = [self._keyframes[row] for row in rows]
        if not found:  # NaN in the query
            return []
        similarities = np.stack([k.global_descriptor for k in found]) @ global_descriptor
        order = np.argsort(-similarities, kind='stable')
        return [Retrieval(found[i], rank, float(similarities[i])) for rank, i in enumerate(order)]

    def near(self, position_m: np.ndarray, radius_m: float) -> np.ndarray:
        """Rows of the keyframes within a distance of a position (3,), where the map has them."""
        return np.array([
            row for row, keyframe in enumerate(self._keyframes)
            if keyframe.place and np.linalg.norm(
                keyframe.place.translation_m - position_m) <= radius_m], np.int64)

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe; None where it has none, or they cannot be read."""
        if keyframe_id in self._unsaved:
            return self._unsaved[keyframe_id].local
        local = self._cache.get(keyframe_id)
        if local is None and self._store is not None and keyframe_id in self:
            try:
                local = self._store.local_features(keyframe_id)
            except MapError as error:
                self.store_error = str(error)
            if local is not None:
                self._cache.put(keyframe_id, local)
        return local
