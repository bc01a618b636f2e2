from __future__ import annotations

import pytest

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.milvus_connection import Address, is_address


@pytest.mark.parametrize(('text', 'address', 'shown'), [
    ('milvus://host:19530', Address('http://host:19530', 'selavpr', False),
     "map 'selavpr' on http://host:19530"),
    ('https://robot:secret@host#hall_2', Address('https://robot:secret@host', 'hall_2', False),
     "map 'hall_2' on https://host"),
    ('http://host:1/site', Address('http://host:1/site', 'selavpr', False),
     "map 'selavpr' on http://host:1/site"),
    ('milvus:///data/fleet.db/#a', Address('/data/fleet.db', 'a', True),
     "map 'a' on /data/fleet.db"),
])
def test_addresses(text, address, shown):
    assert is_address(text)
    assert Address.parse(text) == address
    assert str(address) == shown


def test_the_home_of_a_lite_folder(monkeypatch):
    monkeypatch.setenv('HOME', '/home/robot')
    assert Address.parse('milvus://~/fleet.db').uri == '/home/robot/fleet.db'


@pytest.mark.parametrize('text', [
    'map', 'ftp://host:1', 'http://', 'milvus://host#a b', 'milvus://host#1', 'fleet.db',
    'milvus:///data/fleet', 'http://robot:a#secret@host:1'])
def test_what_is_no_address(text):
    with pytest.raises(MapError) as refused:
        Address.parse(text)
    assert 'secret' not in str(refused.value)


@pytest.mark.parametrize('path', ['', 'office.vprmap', '/data/milvus.db', 'milvus', 'c://x'])
def test_paths_of_files(path):
    assert not is_address(path)
