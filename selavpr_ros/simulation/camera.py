"""A level pinhole camera on a robot that moves in the plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """An ideal camera that looks straight ahead, `height_m` above the ground.

    Pixel centres have whole coordinates, so the optical axis meets the image at
    ((width - 1) / 2, (height - 1) / 2). Pixels are square.
    """

    width: int = 320
    height: int = 240
    horizontal_fov_rad: float = math.radians(80.0)
    height_m: float = 1.2

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(self.horizontal_fov_rad / 2)

    @property
    def centre_px(self) -> tuple[float, float]:
        """Column and row of the optical axis."""
        return (self.width - 1) / 2, (self.height - 1) / 2

    def columns(self) -> NDArray[np.float32]:
        """(W,) metres to the right at one metre ahead, for each image column."""
        offsets = np.arange(self.width) - self.centre_px[0]
        return (offsets / self.focal_px).astype(np.float32)

    def rows(self) -> NDArray[np.float32]:
        """(H,) metres downwards at one metre ahead, for each image row."""
        offsets = np.arange(self.height) - self.centre_px[1]
        return (offsets / self.focal_px).astype(np.float32)
