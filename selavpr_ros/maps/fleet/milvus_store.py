"""The keyframes of many robots in Milvus, or in Milvus Lite on one machine.

Three collections: NAME has a row for every keyframe, NAME_local one for its local features,
NAME_sessions one for every session. The first two are apart because a search reads the first and
must not carry the second, and because a new pose writes a keyframe's row again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.milvus_collections import Collections
from selavpr_ros.maps.fleet.milvus_connection import Address, MilvusConnection
from selavpr_ros.maps.fleet.milvus_rows import (
    batches,
    excluding,
    keyframe_of,
    keyframe_row,
    local_of,
    local_row,
    map_pose_columns,
    near,
    session_of,
    session_row,
    slices,
)
from selavpr_ros.maps.keyframe import (
    Hint,
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
    SessionSummary,
)
from selavpr_ros.maps.local_codec import EncodedFeatures

# A row above 2 MiB stalls a cluster on Pulsar: 1.5 MB are 2.0 MB in base64.
MAX_LOCAL_BYTES = 1_500_000
# Features of SelaVPR as float16 are 1.3 MB a keyframe in base64; an answer has at most 64 MB.
LOCAL_IDS = 32
KEYS = 1000


def _properties(address: Address, timeout_s: float) -> dict[str, str] | None:
    """Properties of a shared map; None if there is no such map."""
    with closing(MilvusConnection(address, timeout_s)) as connection:
        wait_s = connection.wait_s()
        with connection.asking('describe itself') as client:
            if not client.has_collection(address.name, timeout=wait_s):
                return None
            kept = client.describe_collection(address.name, timeout=wait_s)
            return dict(kept.get('properties', {}))


def exists(address: Address, timeout_s: float = 5.0) -> bool:
    """Tell whether there is a shared map; MapError if its server does not answer."""
    return _properties(address, timeout_s) is not None


def open_existing(address: Address, timeout_s: float = 5.0) -> MilvusStore:
    """Open a shared map with whatever model it was made for.

    Raises:
        MapError: there is none, or its server does not answer.
    """
    kept = _properties(address, timeout_s)
    if kept is None:
        raise MapError(f'{address}: there is no such map')
    facts = [kept.get(f'selavpr.{fact}', '') for fact in ('model_id', 'dim', 'codec')]
    if not all(facts):
        raise MapError(f'{address}: it is a collection of another program')
    model_id, dim, codec = facts
    return MilvusStore(address, model_id=model_id, dim=int(dim), codec=codec, timeout_s=timeout_s)


def _summary(session: Session, rows: Sequence[Mapping[str, Any]]) -> SessionSummary:
    return SessionSummary(
        session, len(rows), max((row['stamp_ns'] for row in rows), default=session.started_ns),
        sum(row['x'] is not None for row in rows), sum(row['map_x'] is not None for row in rows))


class MilvusStore:
    """Keyframes that many robots share; all of one model and one codec of local features.

    Every method asks the server at once and waits for it: call it from a thread that may wait.
    Methods may be called from several threads. What a method has written is on the server when
    it returns, and the next search, of whatever robot, finds it.

    Args:
        address: see `Address`.
        model_id: id of the model that made the global descriptors.
        dim: length of a global descriptor, D.
        codec: codec of local features; 'none' without.
        timeout_s: seconds until a search is given up.

    Raises:
        UnreachableError: the server does not answer in time; all methods raise it, too.
        MapError: the server refuses; all methods raise it, too. Here also: the map has another
            model, length of descriptors or codec.
    """

    def __init__(
        self, address: Address, *, model_id: str, dim: int, codec: str, timeout_s: float = 1.0,
    ) -> None:
        self.address, self.dim, self.codec, self.model_id = address, dim, codec, model_id
        self._known_sessions: set[Session] = set()
        self._collections = Collections(
            address, {'model_id': model_id, 'dim': str(dim), 'codec': codec}, dim, timeout_s)

    def reopen(self) -> None:
        """Check the collections, and make those that are not there, or not any more."""
        self._known_sessions.clear()
        self._collections.open()

    @property
    def uuid(self) -> str:
        """Identity of the map on the server."""
        return self._collections.uuid

    @property
    def name(self) -> str:
        """Its name and address, without user and password."""
        return str(self.address)

    def close(self) -> None:
        """Close the connection; for Lite, write everything to disk and free the folder."""
        self._collections.close()

    # ---- writing -------------------------------------------------------------------------------

    def add(self, added: Sequence[NewKeyframe]) -> None:
        """Keep keyframes; one that is there already is replaced, so twice does no harm.

        Sessions and local features go first: a keyframe that a search finds has them.

        Raises:
            MapError: also if a session's id belongs to another session on the server.
        """
        # A server keeps both rows, or refuses, when a key is twice in a request.
        latest = {str(new.keyframe.id): self._checked(new) for new in added}
        for session in {new.session: None for new in latest.values()}:
            self._announce(session)
        there = self._collections
        for batch in batches(local_row(key, new.local) for key, new in latest.items()
                             if new.local is not None):
            there.write(there.local, batch)
        for batch in batches(keyframe_row(new.keyframe) for new in latest.values()):
            there.write(there.keyframes, batch)

    def _announce(self, session: Session) -> None:
        """Write a session to the server; MapError if another session there has its id."""
        if session not in self._known_sessions:
            self._require_same(session)
            self._collections.write(self._collections.sessions, [session_row(session)])
            self._require_same(session)  # another robot may have been as fast
            self._known_sessions.add(session)

    def _require_same(self, session: Session) -> None:
        same = f'key == "{session.id}" or origin == "{session.origin}"'
        for kept in map(session_of, self._collections.sessions_where(same)):
            if (kept.id, kept.origin, kept.started_ns) != (
                    session.id, session.origin, session.started_ns):
                raise MapError(
                    f'{self.address}: session {kept.id} there is not session {session.id} here: '
                    'two robots with one robot_id, or a robot that lost its own map? Give this '
                    'one a robot_id that no other has')

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep the back-end's poses of keyframes; returns how many of the keyframes it has."""
        by_key = {str(each): pose for each, pose in poses.items()}
        there, count = self._collections, 0
        for keys in slices(list(by_key), KEYS):
            rows = [{'key': key, **map_pose_columns(by_key[key])} for key in self._known(keys)]
            if rows:  # `partial_update`: other columns stay; a server needs Milvus 2.6.2
                there.write(there.keyframes, rows, partial_update=True)
            count += len(rows)
        return count

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes; returns how many there were."""
        count = 0
        for keys in slices([str(each) for each in ids], KEYS):
            count += len(self._known(keys))
            self._collections.delete(keys)
        return count

    def drop(self) -> None:
        """Forget the whole map."""
        self._collections.drop()

    # ---- reading -------------------------------------------------------------------------------

    def search(
        self, global_descriptor: np.ndarray, top_k: int, exclude: Iterable[SessionId] = (),
        hint: Hint | None = None,
    ) -> list[tuple[Keyframe, float]]:
        """The most similar keyframes, best first.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: how many at most.
            exclude: sessions to leave out.
            hint: only keyframes in the box around its circle.

        Returns:
            Keyframes and cosine similarities, computed here from the returned descriptors.
        """
        query = self._descriptor(global_descriptor, 'the query')
        conditions = excluding(exclude) + ([near(hint)] if hint else [])
        rows = self._collections.search(query, top_k, ' and '.join(conditions))
        found = [keyframe_of(row) for row in rows]
        ranked = [(each, float(query @ each.global_descriptor)) for each in found]
        return sorted(ranked, key=lambda pair: -pair[1])

    def local_features(self, ids: Sequence[KeyframeId]) -> dict[KeyframeId, EncodedFeatures]:
        """Local features of keyframes; those without are missing in the answer.

        One request for every LOCAL_IDS keyframes.
        """
        by_key, there = {str(each): each for each in ids}, self._collections
        return {by_key[row['key']]: local_of(row, self.codec)
                for keys in slices(list(by_key), LOCAL_IDS)
                for row in there.get(there.local, keys, ['count', 'dim', 'data'])}

    def whole(self, ids: Sequence[KeyframeId]) -> list[NewKeyframe]:
        """Keyframes with what a shared map has of them; those that are not there are left out.

        Two requests for every LOCAL_IDS keyframes.
        """
        sessions = {session.id: session for session in self.sessions()}
        found: list[NewKeyframe] = []
        there = self._collections
        for some in slices(ids, LOCAL_IDS):
            local = self.local_features(some)
            rows = {row['key']: row for row in there.get(
                there.keyframes, [str(each) for each in some], ['*'])}
            found += [NewKeyframe(keyframe_of(rows[str(each)]), sessions[each.session],
                                  local.get(each)) for each in some if str(each) in rows]
        return found

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """Empty: a shared map has no thumbnails."""
        return b''

    def snapshot(self) -> AbstractContextManager[None]:
        """A block without effect: a server keeps no state for a reader."""
        return nullcontext()

    def describe(self) -> dict[str, Any]:
        """Empty: a server does not tell its size."""
        return {}

    def __len__(self) -> int:
        return self._collections.count()

    def __bool__(self) -> bool:
        """True also for an empty map, which would be false otherwise because its length is 0."""
        return True

    def sessions(self) -> list[Session]:
        """All sessions by robot and number."""
        return sorted(map(session_of, self._collections.sessions_where('')), key=lambda each: (
            each.id.robot_id, each.id.session_id))

    def summaries(self) -> list[SessionSummary]:
        """How much of each session there is, by robot and number."""
        rows: dict[SessionId, list[Mapping[str, Any]]] = {}
        for row in self._collections.scan('stamp_ns', 'x', 'map_x'):
            rows.setdefault(SessionId(row['session_id'], row['robot_id']), []).append(row)
        return [_summary(session, rows.get(session.id, [])) for session in self.sessions()]

    def stamps(self, *, with_thumbnail: bool = False) -> Iterator[tuple[KeyframeId, int]]:
        """Ids and stamps in ns of all keyframes, by robot, session and number.

        Args:
            with_thumbnail: only of keyframes that have one: none.
        """
        rows = [] if with_thumbnail else self._collections.scan('stamp_ns')
        for row in sorted(rows, key=lambda each: (
                each['robot_id'], each['session_id'], each['keyframe_id'])):
            yield (KeyframeId(row['session_id'], row['keyframe_id'], row['robot_id']),
                   row['stamp_ns'])

    def last_session_id(self, robot_id: int) -> int:
        """Number of a robot's last session; 0 without any."""
        rows = self._collections.sessions_where(f'robot_id == {robot_id}')
        return max((row['session_id'] for row in rows), default=0)

    # ---- checks --------------------------------------------------------------------------------

    def _descriptor(self, descriptor: np.ndarray, whose: str) -> np.ndarray:
        """A descriptor as (D,) float32; a server refuses NaN, Lite would keep it."""
        vector = np.ascontiguousarray(descriptor, np.float32)
        if vector.shape != (self.dim,) or not np.isfinite(vector).all():
            raise MapError(f'{whose} needs {self.dim} finite numbers in its global descriptor, '
                           f'got shape {vector.shape}')
        return vector

    def _checked(self, new: NewKeyframe) -> NewKeyframe:
        """A keyframe that fits into the map."""
        self._descriptor(new.keyframe.global_descriptor, f'keyframe {new.keyframe.id}')
        local = new.local
        if local is not None and local.codec != self.codec:
            raise MapError(f'keyframe {new.keyframe.id} has local features of codec '
                           f"'{local.codec}', the map of '{self.codec}': set map.local_codec")
        if local is not None and local.nbytes > MAX_LOCAL_BYTES:
            raise MapError(f'keyframe {new.keyframe.id} has {local.nbytes} bytes of local '
                           f'features, Milvus takes {MAX_LOCAL_BYTES}: set map.local_codec to '
                           'int8 or binary')
        return new

    def _known(self, keys: list[str]) -> list[str]:
        """Those of the keys that the server has."""
        return [row['key'] for row in self._collections.get(
            self._collections.keyframes, keys, [])]
