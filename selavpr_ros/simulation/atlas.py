"""All wall pictures in one image, at several resolutions, so that one remap textures a view."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.canvas import Picture

LEVELS = 4
CELL_PX = 2**LEVELS  # cells start on multiples, so that each level keeps them apart
WIDTH_PX = 4096


@dataclass(frozen=True, eq=False)
class Atlas:
    """Pictures side by side, halved independently along x and y ("ripmap").

    A facade seen at a flat angle shrinks along x much more than along z; with one resolution for
    both it would either flicker or blur. `image` holds the level (i, j) at the column
    `offset(width, i)` and the row `offset(height, j)`, where offset(n, i) = n (2 - 2^(1 - i)).
    """

    image: Picture
    width: int
    height: int
    corners_px: NDArray[np.float32]  # (N, 2) left and top of each picture at full resolution
    sizes_px: NDArray[np.float32]  # (N, 2) width and height

    @classmethod
    def pack(cls, pictures: list[Picture]) -> Atlas:
        """Lays the pictures out on shelves, the tallest first, and computes the resolutions."""
        corners = np.zeros((len(pictures), 2), np.float32)
        column = row = shelf = 0
        for index in sorted(range(len(pictures)), key=lambda i: -pictures[i].shape[0]):
            height, width = _cell(pictures[index])
            if column + width > WIDTH_PX:
                column, row, shelf = 0, row + shelf, 0
            corners[index] = column + CELL_PX // 2, row + CELL_PX // 2
            column, shelf = column + width, max(shelf, height)
        base = np.zeros((row + shelf, WIDTH_PX, 3), np.uint8)
        for picture, (left, top) in zip(pictures, corners.astype(int), strict=True):
            _paste(base, picture, left, top)
        sizes = np.array([picture.shape[1::-1] for picture in pictures], np.float32)
        ripmap = _halvings(_halvings(base, axis=1), axis=0)
        return cls(ripmap, base.shape[1], base.shape[0], corners, sizes)


def _cell(picture: Picture) -> tuple[int, int]:
    """Height and width of a picture with its border, as multiples of the cell size."""
    height, width = (-(-(side + CELL_PX) // CELL_PX) * CELL_PX for side in picture.shape[:2])
    return height, width


def _paste(base: Picture, picture: Picture, left: int, top: int) -> None:
    """Puts a picture into its cell and repeats its edge into the border."""
    height, width = _cell(picture)
    border = CELL_PX // 2
    below = height - picture.shape[0] - border
    beside = width - picture.shape[1] - border
    base[top - border : top - border + height, left - border : left - border + width] = (
        cv2.copyMakeBorder(picture, border, below, border, beside, cv2.BORDER_REPLICATE)
    )


def _halvings(picture: Picture, axis: int) -> Picture:
    """The picture and its halvings along one axis, one after the other."""
    levels = [picture]
    for _ in range(LEVELS - 1):
        height, width = levels[-1].shape[:2]
        half = (width, height // 2) if axis == 0 else (width // 2, height)
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return np.concatenate(levels, axis=axis)


def level_for(texels_per_pixel: NDArray[np.float32]) -> NDArray[np.float32]:
    """How often to halve a picture of which this many texels fall on one image pixel."""
    halvings = np.log2(np.maximum(texels_per_pixel, 1e-3)) + 0.2
    return np.clip(np.round(halvings), 0, LEVELS - 1).astype(np.float32)


def at_level(
    texel: NDArray[np.float32], level: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Offset and scale of a full-resolution coordinate along one axis at a level."""
    scale = np.exp2(-level)
    offset = size * (2.0 - 2.0 * scale)
    return (offset + (texel + 0.5) * scale - 0.5).astype(np.float32), scale.astype(np.float32)
