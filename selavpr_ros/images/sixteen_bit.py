"""Values of 16 bit -> 8 bit: what black and white stand for, and which values are depth.

Few cameras fill 16 bits. Those of 10, 12 or 14 bit leave the upper ones empty, and a thermal
camera shows a scene of 7200 to 8200, whose high bytes are 28 to 32: all of it one grey. So black
and white are the ends of the range that the values lie in.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from selavpr_ros.errors import DepthError

ALL = np.array([0.0, 2.0**16])
# Percentiles that are black and white: a hot spot or a dead pixel may lie outside.
ENDS = (1.0, 99.0)
# Counts between black and white at least: what varies less is the sensor's noise.
LEAST_WIDTH = 32.0
# Images whose ranges are remembered: a quarter of a minute of queries. That is long for somebody
# who walks by, and short for a camera that warms up.
KEPT = 31
# Share of the pixels that may lie outside; if more do, the camera has been readjusted.
MOST_OUTSIDE = 0.25
# Number of pixels that are looked at; a range needs no more.
LOOKED_AT = 100_000
# Depth has pixels without an echo, which are 0, and nothing nearer than this many millimetres.
LEAST_HOLES = 0.005
NEAREST = 64


def _some(values: np.ndarray) -> np.ndarray:
    """About LOOKED_AT of the (H, W, C) values, evenly spread, as one flat array."""
    # An odd step meets all colours of a Bayer mosaic.
    step = int((values.shape[0] * values.shape[1] / LOOKED_AT) ** 0.5) | 1
    return values[::step, ::step].reshape(-1)


def refuse_depth(values: np.ndarray) -> None:
    """Raise DepthError if (H, W, 1) uint16 values have the holes of a depth image."""
    seen = _some(values)
    holes, near = np.mean(seen == 0), np.mean((seen > 0) & (seen < NEAREST))
    if LEAST_HOLES < holes < 1 and near < LEAST_HOLES / 10:
        raise DepthError(
            f'the 16UC1 image is depth: {holes:.0%} of its pixels are 0, and the others '
            f'{NEAREST} and more; choose the colour or mono topic of the camera, or set '
            'image.encoding_override to mono16 if this is one')


def _range_of(seen: np.ndarray) -> np.ndarray:
    """(2,) black and white of one image."""
    low, high = np.percentile(seen, ENDS)
    wider = max(0.0, LEAST_WIDTH - (high - low)) / 2
    return np.array([low - wider, high + wider])


def _fill(ends: np.ndarray) -> np.ndarray:
    """All 16 bits for a range that takes half of them, and no jump on the way there."""
    share = np.clip((ends[1] - ends[0]) / (ALL[1] / 4) - 1, 0, 1)
    return (1 - share) * ends + share * ALL


class SteadyRange:
    """Brings the 16 bit values of one camera to 8 bit, steadily from image to image.

    Black and white are the medians of those of the last KEPT images. So they follow a camera
    that warms up, but not a hot object that passes. An image that has too many of its pixels
    outside, as after a shutter correction, is shown by its own range. Values that take half of
    the 16 bits or more keep their high byte. Zeros do not count: they are the border of a
    rectified image.
    """

    def __init__(self) -> None:
        self._ranges: deque[np.ndarray] = deque(maxlen=KEPT)

    def to_eight_bit(self, values: np.ndarray) -> np.ndarray:
        """(H, W, C) uint16 -> uint8; a fourth channel is alpha, and is not looked at."""
        low, high = _fill(self._follow(_some(values[..., :3])))
        levels = (np.arange(2**16) - low) * (256 / (high - low))
        table = np.clip(levels, 0, 255).astype(np.uint8)
        # Row by row: numpy makes 8 bytes of every index.
        return np.stack([table[row] for row in values])

    def _follow(self, seen: np.ndarray) -> np.ndarray:
        seen = seen[seen > 0]
        if not seen.size:
            return ALL
        own = _range_of(seen)
        self._ranges.append(own)
        steady = np.median(self._ranges, axis=0)
        is_outside = (seen < steady[0]) | (seen > steady[1])
        return own if is_outside.mean() > MOST_OUTSIDE else steady
