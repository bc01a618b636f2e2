from __future__ import annotations

from types import SimpleNamespace

import pytest

from selavpr_ros.errors import DepthError
from selavpr_ros.images.depth import refuse_depth_topic


def raw(encoding):
    return SimpleNamespace(encoding=encoding)


def compressed(message_format):
    return SimpleNamespace(format=message_format)


@pytest.mark.parametrize('message', [
    raw('16UC1'), raw('mono16'), raw('32FC1'), compressed('16UC1; png compressed ')])
def test_depth_is_known_by_topic_and_encoding(message):
    with pytest.raises(DepthError, match='/camera/depth/image_raw is depth .*colour or mono'):
        refuse_depth_topic('/camera/depth/image_raw', message)
    refuse_depth_topic('/camera/ir/image_raw', message)


@pytest.mark.parametrize('message', [raw('rgb8'), raw('mono8'), compressed('jpeg')])
def test_the_colour_images_of_a_depth_camera_are_none(message):
    refuse_depth_topic('/depth_camera/image_raw', message)
