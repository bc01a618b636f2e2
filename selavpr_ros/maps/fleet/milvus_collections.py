"""The collections of a shared map in Milvus: their columns, and requests to them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.milvus_connection import Address, MilvusConnection
from selavpr_ros.maps.fleet.milvus_rows import MAP_POSE, NO_VECTOR, PART_BYTES, POSE

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# Written into the collections; another number means rows that this code cannot read.
FORMAT = '1'
MAX_PARTS = 32
# The most rows that Milvus returns.
MAX_ROWS = 16384
SCANNED_AT_ONCE = 10_000
# Milvus Lite looks at every row that is not flushed in Python: 0.1 ms a row in every search.
FLUSH_ROWS = 100
# Timeout where no query waits: for deliveries, and for collections that are made or loaded.
PATIENCE_S = 30.0
EXACT = 'Strong'  # consistency: what was written before is found
NUMBERS = {'robot_id': 'INT32', 'session_id': 'INT64', 'keyframe_id': 'INT64',
           'stamp_ns': 'INT64', 'travelled_m': 'DOUBLE'}


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
    """An index that compares every row, so that no similar keyframe is missed under a filter."""
    from pymilvus import MilvusClient

    index = MilvusClient.prepare_index_params()
    index.add_index('descriptor', index_type='FLAT', metric_type='IP')
    return index


_ADVICE = {
    'model_id': 'use the model that it was made with',
    'codec': "begin the robot's own map anew, with that map.local_codec (map.own_path)"}


class Collections:
    """The three collections of a map, and requests to them, each with a time limit.

    Args:
        address: address of the map.
        facts: what the collections are made for; a map that was made for others is refused.
        dim: length of the global descriptors.
        timeout_s: seconds until a question is given up.

    Attributes:
        keyframes, local, sessions: names of the collections.
        uuid: identity of the map on the server.
    """

    def __init__(
        self, address: Address, facts: dict[str, str], dim: int, timeout_s: float
    ) -> None:
        name = address.name
        self.names = self.keyframes, self.local, self.sessions = (
            name, f'{name}_local', f'{name}_sessions')
        self.uuid = ''
        self._address, self._dim, self._unflushed = address, dim, 0
        self._facts = {f'selavpr.{fact}': value
                       for fact, value in {'format': FORMAT, **facts}.items()}
        self._connection = MilvusConnection(address, timeout_s)
        self._wait_s, self._patience_s = map(
            self._connection.wait_s, (timeout_s, max(timeout_s, PATIENCE_S)))
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; for Lite, write everything to disk and free the folder."""
        self._connection.close()

    # ---- opening -------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the collections if they are missing, check what they are for, and load them."""
        schemas = (_keyframe_schema(self._dim), _local_schema(), _session_schema())
        for name, schema in zip(self.names, schemas, strict=True):
            with self._connection.asking(f"open its collection '{name}'") as client:
                if not client.has_collection(name, timeout=self._wait_s):
                    self._create(client, name, schema)
                self._check(client, name)
                # The index is also missing if a program died after making the collection. `sync`
                # would sleep half a second; loading waits for the index anyway.
                if not client.list_indexes(name, timeout=self._wait_s):
                    client.create_index(name, _index(), sync=False, timeout=self._patience_s)
                client.load_collection(name, timeout=self._patience_s)

    def _create(self, client: MilvusClient, name: str, schema: Any) -> None:
        properties = {**self._facts, 'selavpr.uuid': uuid.uuid4().hex}
        if name == self.local:  # large and seldom asked for: leave them on the server's disk
            properties['mmap.enabled'] = 'true'
        try:
            client.create_collection(name, schema=schema, properties=properties,
                                     consistency_level=EXACT, timeout=self._patience_s)
        except self._connection.failures:
            if not client.has_collection(name, timeout=self._wait_s):
                raise  # else another robot was faster

    def _check(self, client: MilvusClient, name: str) -> None:
        kept = client.describe_collection(name, timeout=self._wait_s).get('properties', {})
        for fact, wanted in self._facts.items():
            if kept.get(fact) != wanted:
                what = fact.removeprefix('selavpr.')
                raise MapError(
                    f"{self._address}: its {what} is '{kept.get(fact, '')}', not '{wanted}': "
                    f'{_ADVICE.get(what, "use the settings that it was made with")}, or another '
                    'map: put #NAME behind its address')
        if name == self.keyframes:
            self.uuid = kept.get('selavpr.uuid', '')

    def drop(self) -> None:
        """Forget the whole map."""
        with self._connection.asking('forget the map') as client:
            for name in self.names:
                client.drop_collection(name, timeout=self._patience_s)

    # ---- writing -------------------------------------------------------------------------------

    def write(
        self, name: str, rows: list[dict[str, Any]], *, partial_update: bool = False
    ) -> None:
        """Write rows; with `partial_update`, some columns of rows that are there."""
        with self._connection.asking('keep keyframes') as client:
            client.upsert(name, rows, timeout=self._patience_s, partial_update=partial_update)
            if self._address.is_lite and name == self.keyframes:
                self._flush(client, len(rows))

    def _flush(self, client: MilvusClient, rows: int) -> None:
        """Keep searches of Lite fast; a server flushes by itself, and limits such requests."""
        self._unflushed += rows
        if self._unflushed >= FLUSH_ROWS:
            client.flush(self.keyframes, timeout=self._patience_s)
            self._unflushed = 0

    def delete(self, keys: list[str]) -> None:
        """Forget keyframes and their local features."""
        for name in (self.keyframes, self.local):
            with self._connection.asking('delete keyframes') as client:
                client.delete(name, ids=keys, timeout=self._patience_s)

    # ---- reading -------------------------------------------------------------------------------

    def search(self, query: np.ndarray, limit: int, condition: str) -> list[dict[str, Any]]:
        """Rows of the keyframes nearest to a descriptor (D,), MAX_ROWS at most."""
        with self._connection.asking('search') as client:
            hits = client.search(
                self.keyframes, [query], anns_field='descriptor', limit=min(limit, MAX_ROWS),
                filter=condition, output_fields=['*'], timeout=self._wait_s,
                search_params={'metric_type': 'IP'}, consistency_level=EXACT)[0]
        return [hit['entity'] for hit in hits]

    def get(self, name: str, keys: list[str], columns: list[str]) -> list[dict[str, Any]]:
        """The rows of those keys that are there."""
        with self._connection.asking('read keyframes') as client:
            return list(client.get(name, keys, output_fields=['key', *columns],
                                   timeout=self._wait_s, consistency_level=EXACT))

    def sessions_where(self, condition: str) -> list[dict[str, Any]]:
        """Rows of sessions, MAX_ROWS at most."""
        with self._connection.asking('list its sessions') as client:
            return list(client.query(
                self.sessions, filter=condition, output_fields=['*'], timeout=self._wait_s,
                consistency_level=EXACT, limit=MAX_ROWS))

    def scan(self, *columns: str) -> list[Mapping[str, Any]]:
        """Ids and columns of all keyframes, read in pages because one answer is limited."""
        rows: list[Mapping[str, Any]] = []
        with self._connection.asking('list its keyframes') as client:
            pages = client.query_iterator(
                self.keyframes, batch_size=SCANNED_AT_ONCE, consistency_level=EXACT,
                output_fields=['robot_id', 'session_id', 'keyframe_id', *columns],
                timeout=self._patience_s)
            try:
                while page := pages.next():
                    rows += page
            finally:
                pages.close()
        return rows

    def count(self) -> int:
        """Number of keyframes."""
        with self._connection.asking('count keyframes') as client:
            rows = client.query(self.keyframes, filter='', output_fields=['count(*)'],
                                timeout=self._wait_s, consistency_level=EXACT)
            return int(rows[0]['count(*)'])
