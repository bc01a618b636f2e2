"""The collections of a shared map in Milvus: their columns, and how they are searched."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.milvus_connection import MilvusConnection
from selavpr_ros.maps.fleet.milvus_rows import MAP_POSE, NO_VECTOR, PART_BYTES, POSE

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# Written into the collections; another number means rows that this code does not read.
FORMAT = '1'
MAX_PARTS = 32
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
    """Compares every row, so no similar keyframe is missed, whatever a filter leaves over."""
    from pymilvus import MilvusClient

    index = MilvusClient.prepare_index_params()
    index.add_index('descriptor', index_type='FLAT', metric_type='IP')
    return index


_ADVICE = {
    'model_id': 'use the model that it was made with',
    'codec': "begin the robot's own map anew, with that map.local_codec (map.own_path)"}


def _check(
    connection: MilvusConnection, client: MilvusClient, name: str, facts: dict[str, str]
) -> str:
    """Refuse a collection that is for something else; returns its uuid."""
    kept = client.describe_collection(name, timeout=connection.wait_s()).get('properties', {})
    for fact, wanted in facts.items():
        if kept.get(fact) != wanted:
            what = fact.removeprefix('selavpr.')
            raise MapError(
                f"{connection.address}: its {what} is '{kept.get(fact, '')}', not '{wanted}': "
                f'{_ADVICE.get(what, "use the settings that it was made with")}, or another '
                'map: put #NAME behind its address')
    return str(kept.get('selavpr.uuid', ''))


class Collections:
    """The three collections of a map, which are made by whichever robot comes first.

    Args:
        name: of the map.

    Attributes:
        names: of its keyframes, their local features, and the sessions.
    """

    def __init__(self, name: str) -> None:
        self.names = (name, f'{name}_local', f'{name}_sessions')

    def open(
        self, connection: MilvusConnection, model_id: str, dim: int, codec: str, patience_s: float
    ) -> str:
        """Make the collections if they are missing, check what they are for, and load them.

        Returns:
            the uuid of the map.

        Raises:
            MapError: they are for another model, length of descriptors or codec.
        """
        facts = {'selavpr.format': FORMAT, 'selavpr.model_id': model_id, 'selavpr.dim': str(dim),
                 'selavpr.codec': codec}
        schemas = (_keyframe_schema(dim), _local_schema(), _session_schema())
        uuids = []
        for name, schema in zip(self.names, schemas, strict=True):
            with connection.asking(f"open its collection '{name}'") as client:
                if not client.has_collection(name, timeout=connection.wait_s()):
                    self._create(connection, client, name, schema, facts, patience_s)
                uuids.append(_check(connection, client, name, facts))
                # Also when one died between making the collection and its index. `sync` would
                # sleep half a second; loading waits for the index anyway.
                if not client.list_indexes(name, timeout=connection.wait_s()):
                    client.create_index(name, _index(), sync=False, timeout=patience_s)
                client.load_collection(name, timeout=patience_s)
        return uuids[0]

    def _create(
        self, connection: MilvusConnection, client: MilvusClient, name: str, schema: Any,
        facts: dict[str, str], patience_s: float,
    ) -> None:
        properties = {**facts, 'selavpr.uuid': uuid.uuid4().hex}
        if name == self.names[1]:  # large and seldom asked for: leave them on the server's disk
            properties['mmap.enabled'] = 'true'
        try:
            client.create_collection(name, schema=schema, properties=properties,
                                     consistency_level=EXACT, timeout=patience_s)
        except connection.failures:
            if not client.has_collection(name, timeout=connection.wait_s()):
                raise  # else another robot was faster
