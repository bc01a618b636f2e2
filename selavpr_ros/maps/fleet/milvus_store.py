"""The keyframes of many robots in Milvus, or in Milvus Lite on one machine.

Three collections: NAME has a row for every keyframe, NAME_local one for its local features,
NAME_sessions one for every session. The first two are apart because a search reads the first and
must not carry the second, and because a new pose writes a keyframe's row again.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.milvus_connection import Address, MilvusConnection
from selavpr_ros.maps.keyframe import (
    Hint,
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import EncodedFeatures, from_bytes
from selavpr_ros.pose import Pose

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# Written into the collections; another number means rows that this code does not read.
FORMAT = '1'

# Milvus has no type for bytes: base64 in strings, of which one has at most 65 535 bytes. A
# multiple of 4 keeps every string whole base64. Other ways are larger (numbers) or slower.
PART_BYTES = 65532
MAX_PARTS = 32
# A row above 2 MiB stalls a cluster on Pulsar: 1.5 MB are 2.0 MB in base64.
MAX_LOCAL_BYTES = 1_500_000
# Of a request: a megabit a second carries it in time.
REQUEST_BYTES = 2_000_000
# Features of SelaVPR as float16 are 1.3 MB a keyframe in base64; an answer has at most 64 MB.
LOCAL_IDS = 32
KEYS = 1000
# What Milvus returns at most.
MAX_TOP_K = 16384
# Milvus Lite looks at every row that is not flushed in Python: 0.1 ms a row in every search.
FLUSH_ROWS = 100
# What nobody waits for: deliveries, and collections that are made or loaded.
PATIENCE_S = 30.0

POSE = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')
MAP_POSE = tuple(f'map_{name}' for name in POSE)
NUMBERS = {'robot_id': 'INT32', 'session_id': 'INT64', 'keyframe_id': 'INT64',
           'stamp_ns': 'INT64', 'travelled_m': 'DOUBLE'}
# Milvus wants a vector in every row.
NO_VECTOR = [0.0, 0.0]
EXACT = 'Strong'  # consistency: what was written before is found

# ---- rows --------------------------------------------------------------------------------------


def _pose_values(pose: Pose | None) -> list[float] | list[None]:
    """The 7 columns of a pose."""
    return [None] * 7 if pose is None else [*pose.translation_m.tolist(), *pose.rotation.tolist()]


def _pose(row: Mapping[str, Any], columns: Sequence[str]) -> Pose | None:
    """The pose in 7 columns, which may all be empty."""
    values = [row[name] for name in columns]
    return None if values[0] is None else Pose(np.array(values[:3]), np.array(values[3:]))


def _map_pose_columns(map_pose: MapPose | None) -> dict[str, Any]:
    """The columns of what the back-end made of a pose."""
    values = _pose_values(map_pose.pose if map_pose else None)
    return {'map_frame': map_pose.frame if map_pose else None,
            **dict(zip(MAP_POSE, values, strict=True))}


def _row(keyframe: Keyframe) -> dict[str, Any]:
    """The row of a keyframe."""
    return {'key': str(keyframe.id), 'robot_id': keyframe.id.robot_id,
            'session_id': keyframe.id.session_id, 'keyframe_id': keyframe.id.keyframe_id,
            'stamp_ns': keyframe.stamp_ns, 'travelled_m': keyframe.travelled_m,
            'has_local': keyframe.has_local,
            **dict(zip(POSE, _pose_values(keyframe.pose), strict=True)),
            **_map_pose_columns(keyframe.map_pose), 'descriptor': keyframe.global_descriptor}


def _keyframe(row: Mapping[str, Any]) -> Keyframe:
    """The keyframe of a row."""
    map_pose = _pose(row, MAP_POSE)
    return Keyframe(
        KeyframeId(row['session_id'], row['keyframe_id'], row['robot_id']), row['stamp_ns'],
        np.array(row['descriptor'], np.float32), _pose(row, POSE), row['travelled_m'],
        MapPose(row['map_frame'], map_pose) if map_pose else None, row['has_local'])


def _local_row(key: str, local: EncodedFeatures) -> dict[str, Any]:
    """The row of local features."""
    text = base64.b64encode(local.data.tobytes()).decode('ascii')
    parts = [text[start:start + PART_BYTES] for start in range(0, len(text), PART_BYTES)]
    return {'key': key, 'count': len(local), 'dim': local.dim, 'data': parts,
            'descriptor': NO_VECTOR}


def _session_row(session: Session) -> dict[str, Any]:
    """The row of a session."""
    return {'key': str(session.id), 'robot_id': session.id.robot_id,
            'session_id': session.id.session_id, 'label': session.label,
            'started_ns': session.started_ns, 'frame': session.frame,
            'model_id': session.model_id, 'origin': session.origin, 'descriptor': NO_VECTOR}


def _session(row: Mapping[str, Any]) -> Session:
    """The session of a row."""
    return Session(
        SessionId(row['session_id'], row['robot_id']), row['label'], row['started_ns'],
        row['frame'], row['model_id'], row['origin'])


def _row_bytes(row: Mapping[str, Any]) -> int:
    """About the bytes of a row."""
    return sum(map(len, row.get('data', ()))) + 4 * len(row['descriptor'])


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in requests of REQUEST_BYTES, or of one larger row."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if batch and size + _row_bytes(row) > REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += _row_bytes(row)
    if batch:
        yield batch


def _slices(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    """Keys in lists of at most so many."""
    return (list(keys[start:start + size]) for start in range(0, len(keys), size))


# ---- filters -----------------------------------------------------------------------------------


def _excluding(sessions: Iterable[SessionId]) -> list[str]:
    """Conditions of the rows that are in none of the sessions."""
    by_robot: dict[int, list[int]] = {}
    for session in sorted(set(sessions)):
        by_robot.setdefault(session.robot_id, []).append(session.session_id)
    return [f'not (robot_id == {robot} and session_id in {ids})'
            for robot, ids in by_robot.items()]


def _around(hint: Hint, columns: Sequence[str]) -> str:
    """Condition of the rows whose position is in the box around a hint's circle."""
    return ' and '.join(
        f'{column} >= {centre - hint.radius_m} and {column} <= {centre + hint.radius_m}'
        for column, centre in zip(columns[:3], hint.position_m.tolist(), strict=True))


def _near(hint: Hint) -> str:
    """The same of `Keyframe.place`: by the back-end, else by odometry."""
    return (f'(({_around(hint, MAP_POSE)}) or '
            f'({MAP_POSE[0]} is null and {_around(hint, POSE)}))')


# ---- collections -------------------------------------------------------------------------------


def _schema(dim: int) -> Any:
    """Columns that every collection has: a key, and a vector of `dim` numbers."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field('key', DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field('descriptor', DataType.FLOAT_VECTOR, dim=dim)
    return schema


def _keyframe_schema(dim: int) -> Any:
    from pymilvus import DataType

    schema = _schema(dim)
    for name, kind in NUMBERS.items():
        schema.add_field(name, DataType[kind])
    schema.add_field('has_local', DataType.BOOL)
    for name in (*POSE, *MAP_POSE):
        schema.add_field(name, DataType.DOUBLE, nullable=True)
    schema.add_field('map_frame', DataType.VARCHAR, max_length=PART_BYTES, nullable=True)
    return schema


def _local_schema() -> Any:
    from pymilvus import DataType

    schema = _schema(len(NO_VECTOR))
    schema.add_field('count', DataType.INT64)
    schema.add_field('dim', DataType.INT64)
    schema.add_field('data', DataType.ARRAY, element_type=DataType.VARCHAR,
                     max_length=PART_BYTES, max_capacity=MAX_PARTS)
    return schema


def _session_schema() -> Any:
    from pymilvus import DataType

    schema = _schema(len(NO_VECTOR))
    for name, kind in {'robot_id': DataType.INT32, 'session_id': DataType.INT64,
                       'started_ns': DataType.INT64}.items():
        schema.add_field(name, kind)
    for name in ('label', 'frame', 'model_id', 'origin'):
        schema.add_field(name, DataType.VARCHAR, max_length=PART_BYTES)
    return schema


def _index() -> Any:
    """Compares every row, so no similar keyframe is missed, whatever a filter leaves over."""
    from pymilvus import MilvusClient

    index = MilvusClient.prepare_index_params()
    index.add_index('descriptor', index_type='FLAT', metric_type='IP')
    return index


_ADVICE = {
    'model_id': 'use the model that it was made with',
    'codec': "begin the robot's own map anew, with that map.local_codec (map.own_path)"}


@dataclass(frozen=True)
class SharedSession:
    """A session in a shared map, and how many keyframes of it are there."""

    session: Session
    keyframes: int


def open_existing(address: Address, timeout_s: float = 5.0) -> MilvusStore:
    """Open a shared map with whatever model it was made for.

    Raises:
        MapError: there is none, or its server does not answer.
    """
    with closing(MilvusConnection(address, timeout_s)) as connection:
        wait_s = connection.wait_s()
        with connection.asking('describe itself') as client:
            if not client.has_collection(address.name, timeout=wait_s):
                raise MapError(f'{address}: there is no such map')
            kept = client.describe_collection(address.name, timeout=wait_s).get('properties', {})
    facts = [kept.get(f'selavpr.{fact}', '') for fact in ('model_id', 'dim', 'codec')]
    if not all(facts):
        raise MapError(f'{address}: it is a collection of another program')
    model_id, dim, codec = facts
    return MilvusStore(address, model_id=model_id, dim=int(dim), codec=codec, timeout_s=timeout_s)


class MilvusStore:
    """Keyframes that many robots share; all of one model and one codec of local features.

    Every method asks the server at once and waits for it: call it from a thread that may wait.
    Methods may be called from several threads. What a method has written is on the server when
    it returns, and the next search, of whatever robot, finds it.

    Args:
        address: see `Address`.
        model_id: what made the global descriptors.
        dim: numbers of a global descriptor, D.
        codec: of local features; 'none' without.
        timeout_s: seconds until a search is given up.

    Attributes:
        uuid: of the map on the server.

    Raises:
        UnreachableError: here and by all methods: the server does not answer in time.
        MapError: it refuses; here also: the map has another model, length of descriptors or
            codec.
    """

    def __init__(
        self, address: Address, *, model_id: str, dim: int, codec: str, timeout_s: float = 1.0,
    ) -> None:
        self.address, self.dim, self.codec, self.model_id = address, dim, codec, model_id
        self.uuid = ''
        name = address.name
        self._names = (name, f'{name}_local', f'{name}_sessions')
        self._keyframes, self._local, self._sessions = self._names
        self._unflushed = 0
        self._known_sessions: set[Session] = set()
        self._connection = MilvusConnection(address, timeout_s)
        self._wait_s, self._patience_s = map(
            self._connection.wait_s, (timeout_s, max(timeout_s, PATIENCE_S)))
        try:
            self.reopen()
        except BaseException:
            self.close()
            raise

    def reopen(self) -> None:
        """Check the collections, and make those that are not there, or not any more."""
        self._known_sessions.clear()
        self._open({'selavpr.format': FORMAT, 'selavpr.model_id': self.model_id,
                    'selavpr.dim': str(self.dim), 'selavpr.codec': self.codec})

    def close(self) -> None:
        """Let go of the server; for Lite, write everything down and free the folder."""
        self._connection.close()

    # ---- writing -------------------------------------------------------------------------------

    def upsert(self, added: Sequence[NewKeyframe]) -> None:
        """Keep keyframes; one that is there already is replaced, so twice does no harm.

        Sessions and local features go first: a keyframe that a search finds has them.

        Raises:
            MapError: also if a session's id belongs to another session on the server.
        """
        # A server keeps both rows, or refuses, when a key is twice in a request.
        latest = {str(new.keyframe.id): self._checked(new) for new in added}
        for session in {new.session: None for new in latest.values()}:
            self._announce(session)
        for batch in _batches(_local_row(key, new.local) for key, new in latest.items()
                              if new.local is not None):
            self._write(self._local, batch)
        for batch in _batches(_row(new.keyframe) for new in latest.values()):
            self._write(self._keyframes, batch)

    def _announce(self, session: Session) -> None:
        """Let the server know a session, unless one there has its number."""
        if session not in self._known_sessions:
            self._require_same(session)
            self._write(self._sessions, [_session_row(session)])
            self._require_same(session)  # another robot may have been as fast
            self._known_sessions.add(session)

    def _require_same(self, session: Session) -> None:
        same = f'key == "{session.id}" or origin == "{session.origin}"'
        for kept in map(_session, self._query(self._sessions, same)):
            if (kept.id, kept.origin, kept.started_ns) != (
                    session.id, session.origin, session.started_ns):
                raise MapError(
                    f'{self.address}: session {kept.id} there is not session {session.id} here: '
                    'two robots with one robot_id, or a robot that lost its own map? Give this '
                    'one a robot_id that no other has')

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep what the back-end made of poses; returns how many of the keyframes there are."""
        by_key = {str(each): pose for each, pose in poses.items()}
        count = 0
        for keys in _slices(list(by_key), KEYS):
            rows = [{'key': key, **_map_pose_columns(by_key[key])} for key in self._known(keys)]
            if rows:  # `partial_update`: other columns stay; a server needs Milvus 2.6.2
                self._write(self._keyframes, rows, partial_update=True)
            count += len(rows)
        return count

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes; returns how many there were."""
        count = 0
        for keys in _slices([str(each) for each in ids], KEYS):
            count += len(self._known(keys))
            for name in (self._keyframes, self._local):
                with self._connection.asking('delete keyframes') as client:
                    client.delete(name, ids=keys, timeout=self._patience_s)
        return count

    # ---- reading -------------------------------------------------------------------------------

    def search(
        self, global_descriptor: np.ndarray, top_k: int, exclude: Iterable[SessionId] = (),
        hint: Hint | None = None,
    ) -> list[tuple[Keyframe, float]]:
        """The most similar keyframes, best first.

        Args:
            global_descriptor: (D,) float32, a unit vector.
            top_k: how many at most.
            exclude: sessions that are not wanted.
            hint: only keyframes in the box around its circle.

        Returns:
            keyframes and cosine similarities, computed here from the returned descriptors.
        """
        query = self._descriptor(global_descriptor, 'the query')
        conditions = _excluding(exclude) + ([_near(hint)] if hint else [])
        with self._connection.asking('search') as client:
            hits = client.search(
                self._keyframes, [query], anns_field='descriptor', limit=min(top_k, MAX_TOP_K),
                filter=' and '.join(conditions), output_fields=['*'], timeout=self._wait_s,
                search_params={'metric_type': 'IP'}, consistency_level=EXACT)[0]
        found = [_keyframe(hit['entity']) for hit in hits]
        ranked = [(each, float(query @ each.global_descriptor)) for each in found]
        return sorted(ranked, key=lambda pair: -pair[1])

    def local_features(self, ids: Sequence[KeyframeId]) -> dict[KeyframeId, EncodedFeatures]:
        """Local features of keyframes; those without are missing in the answer.

        One request for every LOCAL_IDS keyframes.
        """
        by_key = {str(each): each for each in ids}
        found = {}
        for keys in _slices(list(by_key), LOCAL_IDS):
            for row in self._get(self._local, keys, ['count', 'dim', 'data']):
                content = base64.b64decode(''.join(row['data']))
                found[by_key[row['key']]] = from_bytes(
                    self.codec, row['count'], row['dim'], content)
        return found

    def __len__(self) -> int:
        return self._count('')

    def __bool__(self) -> bool:
        """True, of an empty map as well: without this, it would count as none."""
        return True

    def sessions(self) -> list[SharedSession]:
        """All sessions by robot and number, with their keyframes: a request for each."""
        found = sorted(map(_session, self._query(self._sessions, '')), key=lambda each: (
            each.id.robot_id, each.id.session_id))
        return [SharedSession(each, self._count(
            f'robot_id == {each.id.robot_id} and session_id == {each.id.session_id}'))
            for each in found]

    def last_session_id(self, robot_id: int) -> int:
        """The number of a robot's last session; 0 without any."""
        rows = self._query(self._sessions, f'robot_id == {robot_id}')
        return max((row['session_id'] for row in rows), default=0)

    # ---- requests ------------------------------------------------------------------------------

    def _open(self, facts: dict[str, str]) -> None:
        """Make the collections if they are missing, check what they are for, and load them."""
        schemas: tuple[Callable[[], Any], ...] = (
            partial(_keyframe_schema, self.dim), _local_schema, _session_schema)
        for name, schema in zip(self._names, schemas, strict=True):
            with self._connection.asking(f"open its collection '{name}'") as client:
                if not client.has_collection(name, timeout=self._wait_s):
                    self._create(client, name, schema(), facts)
                self._check(client, name, facts)
                # Also when one died between making the collection and its index. `sync` would
                # sleep half a second; loading waits for the index anyway.
                if not client.list_indexes(name, timeout=self._wait_s):
                    client.create_index(name, _index(), sync=False, timeout=self._patience_s)
                client.load_collection(name, timeout=self._patience_s)

    def _create(
        self, client: MilvusClient, name: str, schema: Any, facts: dict[str, str]
    ) -> None:
        properties = {**facts, 'selavpr.uuid': uuid.uuid4().hex}
        if name == self._local:  # large and seldom asked for: leave them on the server's disk
            properties['mmap.enabled'] = 'true'
        try:
            client.create_collection(name, schema=schema, properties=properties,
                                     consistency_level=EXACT, timeout=self._patience_s)
        except self._connection.failures:
            if not client.has_collection(name, timeout=self._wait_s):
                raise  # else another robot was faster

    def _check(self, client: MilvusClient, name: str, facts: dict[str, str]) -> None:
        kept = client.describe_collection(name, timeout=self._wait_s).get('properties', {})
        for fact, wanted in facts.items():
            if kept.get(fact) != wanted:
                what = fact.removeprefix('selavpr.')
                raise MapError(
                    f"{self.address}: its {what} is '{kept.get(fact, '')}', not '{wanted}': "
                    f'{_ADVICE.get(what, "use the settings that it was made with")}, or another '
                    'map: put #NAME behind its address')
        if name == self._keyframes:
            self.uuid = kept.get('selavpr.uuid', '')

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

    def _write(
        self, name: str, rows: list[dict[str, Any]], *, partial_update: bool = False
    ) -> None:
        with self._connection.asking('keep keyframes') as client:
            client.upsert(name, rows, timeout=self._patience_s, partial_update=partial_update)
            if self.address.is_lite and name == self._keyframes:
                self._flush(client, len(rows))

    def _flush(self, client: MilvusClient, rows: int) -> None:
        """Keep searches of Lite fast; a server flushes by itself and limits who asks for it."""
        self._unflushed += rows
        if self._unflushed >= FLUSH_ROWS:
            client.flush(self._keyframes, timeout=self._patience_s)
            self._unflushed = 0

    def _get(self, name: str, keys: list[str], columns: list[str]) -> list[dict[str, Any]]:
        with self._connection.asking('read keyframes') as client:
            return list(client.get(name, keys, output_fields=['key', *columns],
                                   timeout=self._wait_s, consistency_level=EXACT))

    def _known(self, keys: list[str]) -> list[str]:
        """Those of the keys that there are."""
        return [row['key'] for row in self._get(self._keyframes, keys, [])]

    def _query(self, name: str, condition: str) -> list[dict[str, Any]]:
        with self._connection.asking('list its sessions') as client:
            return list(client.query(
                name, filter=condition, output_fields=['*'], timeout=self._wait_s,
                consistency_level=EXACT, limit=MAX_TOP_K))

    def _count(self, condition: str) -> int:
        with self._connection.asking('count keyframes') as client:
            rows = client.query(self._keyframes, filter=condition, output_fields=['count(*)'],
                                timeout=self._wait_s, consistency_level=EXACT)
            return int(rows[0]['count(*)'])
