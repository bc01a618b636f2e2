"""The ground seen from above: roads, pavements, markings, gardens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.canvas import Canvas, Colour, Picture, to_picture
from selavpr_ros.simulation.materials import (
    asphalt,
    cobbles,
    grass,
    pick,
    plain,
    slabs,
)
from selavpr_ros.simulation.streets import Lot, Street

MARGIN_M = 30.0
WHITE: Colour = (214, 212, 204)


@dataclass(frozen=True, eq=False)
class Ground:
    """A map picture, north up; its upper left corner lies at (left_m, top_m)."""

    image: Picture
    left_m: float
    top_m: float
    pixels_per_m: float

    def pixel(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 2) column and row of world points (..., 2)."""
        offsets = (points - [self.left_m, self.top_m]) * [1.0, -1.0]
        return offsets * self.pixels_per_m - 0.5

    @cached_property
    def pyramid(self) -> list[Picture]:
        """The picture at full, half, quarter and eighth resolution."""
        levels = [self.image]
        for _ in range(3):
            height, width = levels[-1].shape[:2]
            half = (width // 2, height // 2)
            levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
        return levels


def _blank_ground(rng: np.random.Generator, streets: list[Street], pixels_per_m: float) -> Ground:
    """Bare earth and yards as far as the eye reaches."""
    ends = np.array([street.start for street in streets])
    low, high = ends.min(axis=0) - MARGIN_M, ends.max(axis=0) + MARGIN_M
    width, height = np.ceil((high - low) * pixels_per_m).astype(int)
    coarse = plain(rng, (height // 4 + 1, width // 4 + 1), (128, 122, 104), stain=22, grain=7)
    image = cv2.resize(coarse, (int(width), int(height)), interpolation=cv2.INTER_LINEAR)
    return Ground(image, float(low[0]), float(high[1]), pixels_per_m)


def _lay(ground: Ground, picture: Picture, corners: NDArray[np.float64]) -> None:
    """Puts a picture on the ground; `corners` of its upper left, upper right and lower left."""
    height, width = picture.shape[:2]
    source = np.array([[0, 0], [width, 0], [0, height]], np.float32) - 0.5
    target = ground.pixel(corners).astype(np.float32)
    fourth = target[1] + target[2] - target[0]
    outline = np.vstack([target, fourth[None]])
    left, top = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int) + 1
    view = ground.image[top:bottom, left:right]
    shift = np.array([left, top], np.float32)
    matrix = cv2.getAffineTransform(source, target - shift)
    size = (view.shape[1], view.shape[0])
    laid = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=1)
    mask = np.zeros(view.shape[:2], np.uint8)
    cv2.fillConvexPoly(
        mask, (outline[[0, 1, 3, 2]] - shift).round().astype(np.int32), 255, cv2.LINE_AA
    )
    np.copyto(view, laid, where=mask[..., None] > 127)


def _lay_strip(ground: Ground, street: Street, canvas: Canvas) -> None:
    """Puts a strip of street on the ground; x of the canvas runs along the street."""
    half_width_m = canvas.height_m / 2
    over = (canvas.width_m - street.length_m) / 2
    corners = np.array(
        [
            street.point(-over, half_width_m),
            street.point(street.length_m + over, half_width_m),
            street.point(-over, -half_width_m),
        ]
    )
    _lay(ground, canvas.pixels, corners)


def _strip(ground: Ground, street: Street, half_width_m: float) -> Canvas:
    """An empty strip that reaches round the corners at both ends."""
    return Canvas(street.length_m + 2 * half_width_m, 2 * half_width_m, ground.pixels_per_m)


def paint_pavement(ground: Ground, rng: np.random.Generator, street: Street) -> None:
    """Slabs from house to house; the roadway comes on top."""
    canvas = _strip(ground, street, street.half_width_m + 2.5)
    colour = pick(rng, [(158, 154, 146), (140, 130, 122), (168, 150, 132)], 8)
    canvas.pixels[:] = slabs(rng, canvas.shape, canvas.pixels_per_m, colour)
    _lay_strip(ground, street, canvas)


def paint_kerb(ground: Ground, street: Street) -> None:
    """A light rim of stone, which the roadway leaves free at its sides."""
    canvas = _strip(ground, street, street.road_m + 0.18)
    canvas.pixels[:] = (178, 174, 166)
    _lay_strip(ground, street, canvas)


def paint_road(ground: Ground, rng: np.random.Generator, street: Street) -> None:
    """The roadway with markings and manholes."""
    canvas = _strip(ground, street, street.road_m)
    is_cobbled = rng.random() < 0.3
    material = cobbles if is_cobbled else asphalt
    colour = pick(rng, [(124, 114, 104)] if is_cobbled else [(84, 84, 86), (104, 102, 98)], 8)
    canvas.pixels[:] = material(rng, canvas.shape, canvas.pixels_per_m, colour)
    if not is_cobbled:
        paint_markings(canvas, rng, street.road_m + 1.0)
    for _ in range(3):
        paint_manhole(canvas, rng)
    _lay_strip(ground, street, canvas)


def paint_markings(canvas: Canvas, rng: np.random.Generator, end_m: float) -> None:
    """Centre line, and at random a zebra crossing, an arrow or parking boxes.

    The last `end_m` at both ends, where streets meet, stay free.
    """
    middle, width = canvas.height_m / 2, canvas.width_m
    for x in np.arange(end_m, width - end_m - 1.5, 3.0):
        canvas.rectangle(x, middle - 0.07, x + 1.5, middle + 0.07, WHITE)
    if rng.random() < 0.6:
        x = float(rng.choice([end_m + 1.0, width - end_m - 1.0]))
        for z in np.arange(0.4, canvas.height_m - 0.5, 0.9):
            canvas.rectangle(x - 1.2, z, x + 1.2, z + 0.45, WHITE)
    if rng.random() < 0.5:
        x, z = rng.uniform(0.3, 0.6) * width, middle - 1.3
        canvas.line(x, z, x + 1.6, z, 0.15, WHITE)
        canvas.polygon([(x + 1.5, z - 0.35), (x + 1.5, z + 0.35), (x + 2.2, z)], WHITE)
    if rng.random() < 0.4:
        for x in np.arange(end_m, width - end_m, 2.6):
            canvas.line(x, canvas.height_m, x + 0.6, canvas.height_m - 1.8, 0.1, WHITE)


def paint_manhole(canvas: Canvas, rng: np.random.Generator) -> None:
    """An iron lid."""
    x, z = rng.uniform(0, canvas.width_m), rng.uniform(0.3, 0.7) * canvas.height_m
    canvas.ellipse(x, z, 0.38, 0.38, (58, 56, 54))
    canvas.ellipse(x, z, 0.3, 0.3, (82, 78, 74))
    canvas.line(x - 0.25, z, x + 0.25, z, 0.06, (50, 48, 46))


def paint_garden(ground: Ground, rng: np.random.Generator, lot: Lot) -> None:
    """A lawn or a paved yard on a lot without a house."""
    canvas = Canvas(lot.width_m, lot.depth_m, ground.pixels_per_m)
    is_lawn = rng.random() < 0.7
    material = grass if is_lawn else cobbles
    colour = pick(rng, [(92, 116, 62)] if is_lawn else [(140, 130, 118)])
    canvas.pixels[:] = material(rng, canvas.shape, canvas.pixels_per_m, colour)
    corners = lot.corners
    _lay(ground, canvas.pixels, corners[[3, 2, 0]])


def darken_around(ground: Ground, outlines: list[NDArray[np.float64]]) -> None:
    """Less light falls on the ground close to walls."""
    scale = 8.0 / ground.pixels_per_m
    size = (round(ground.image.shape[1] * scale), round(ground.image.shape[0] * scale))
    mask = np.zeros(size[::-1], np.uint8)
    for outline in outlines:
        cv2.fillConvexPoly(mask, (ground.pixel(outline) * scale).round().astype(np.int32), 255)
    near = cv2.GaussianBlur(mask, (0, 0), 3.0).astype(np.float32) / 255.0
    factor = cv2.resize(1.0 - 0.5 * near, ground.image.shape[1::-1])
    for start in range(0, ground.image.shape[0], 256):  # in bands, to save memory
        band = ground.image[start : start + 256]
        band[:] = to_picture(band * factor[start : start + 256, :, None])


def paint_ground(
    rng: np.random.Generator,
    streets: list[Street],
    gardens: list[Lot],
    outlines: list[NDArray[np.float64]],
    pixels_per_m: float,
) -> Ground:
    """The whole map picture; `outlines` (4, 2) are the walls that stand on it."""
    ground = _blank_ground(rng, streets, pixels_per_m)
    for street in streets:
        paint_pavement(ground, rng, street)
    for lot in gardens:
        paint_garden(ground, rng, lot)
    for street in streets:
        paint_kerb(ground, street)
    for street in streets:
        paint_road(ground, rng, street)
    darken_around(ground, outlines)
    return ground
