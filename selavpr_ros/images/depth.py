"""Which topics are depth (REP 118), and so never the camera."""

from __future__ import annotations

from typing import Any

from selavpr_ros.errors import DepthError

# What drivers send depth as. The last two may be a camera's images, too.
DEPTH_ENCODINGS = ('32FC1', '16UC1', 'mono16')


def _encoding_of(message: Any) -> str:
    """Encoding of a raw image, or of the one that was compressed."""
    if hasattr(message, 'encoding'):
        return str(message.encoding)
    return str(message.format).partition(';')[0].strip()


def refuse_depth_topic(topic: str, message: Any) -> None:
    """Raise DepthError if an image is depth by the name of its topic and its encoding."""
    if 'depth' in topic and _encoding_of(message) in DEPTH_ENCODINGS:
        raise DepthError(f'{topic} is depth ({_encoding_of(message)}): choose the colour or mono '
                         'topic of the camera')
