"""A row of the server that is not what was written."""

from __future__ import annotations

import pytest
from maps import assert_same_local, make_local

from selavpr_ros.errors import MapError
from selavpr_ros.maps.fleet.milvus_rows import local_of, local_row
from selavpr_ros.maps.local_codec import BINARY, FLOAT16, INT8


@pytest.mark.parametrize('codec', [FLOAT16, INT8, BINARY])
def test_local_features_that_are_damaged(codec):
    local = make_local(codec, (6, 16))
    row = local_row('1:7', local)
    assert_same_local(local_of(row, codec), local)
    for damage in ({'count': 5}, {'dim': 900}, {'data': ['AAA']}, {'data': ['words']}):
        with pytest.raises(MapError, match=r'local features of keyframe 1:7 are damaged \('):
            local_of({**row, **damage}, codec)
