"""Walls of houses, vans, fences and hedges on their lots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selavpr_ros.simulation.canvas import Picture
from selavpr_ros.simulation.facades import (
    BRIGHT,
    PIXELS_PER_M,
    FacadeStyle,
    paint_awning,
    paint_front,
    paint_roof,
    paint_side,
    paint_sign_board,
    paint_van,
)
from selavpr_ros.simulation.materials import boards, brick, hedge, pick, stone
from selavpr_ros.simulation.streets import Lot, Vector


@dataclass(frozen=True, eq=False)
class Wall:
    """An upright rectangle, visible from the side from which `start` is its left end."""

    start: Vector
    end: Vector
    bottom_m: float
    top_m: float
    picture: Picture
    snow_m: float = 0.0  # how far below its top snow can lie


def box(
    lot: Lot, bottom_m: float, top_m: float, pictures: list[Picture], snow_m: float = 0.0
) -> list[Wall]:
    """Four walls round a lot; pictures of the front, right, back and left side."""
    corners = np.vstack([lot.corners, lot.corners[:1]])
    return [
        Wall(corners[i], corners[i + 1], bottom_m, top_m, picture, snow_m)
        for i, picture in enumerate(pictures)
    ]


def inset(lot: Lot, margin_m: float) -> Lot:
    """The same lot without a strip along its border."""
    return Lot(
        lot.point(0.0, margin_m),
        lot.right,
        lot.inward,
        lot.width_m - 2 * margin_m,
        lot.depth_m - 2 * margin_m,
    )


def build_house(rng: np.random.Generator, lot: Lot, height_m: float) -> list[Wall]:
    """A house: four walls, perhaps a roof, an awning and a sign that stands out."""
    style = FacadeStyle.draw(rng)
    front = paint_front(rng, style, lot.width_m, height_m)
    side = paint_side(rng, style, lot.depth_m, height_m)
    walls = box(lot, 0.0, height_m, [front, side, side, side])
    if rng.random() < 0.6 and min(lot.width_m, lot.depth_m) > 3.5:
        rise = rng.uniform(1.2, 2.2)
        roof = paint_roof(rng, lot.width_m, rise)
        walls += box(inset(lot, 0.9), height_m, height_m + rise, [roof] * 4, snow_m=rise)
    if rng.random() < 0.35:
        walls += build_awning(rng, lot, style.storey_m)
    if rng.random() < 0.5:
        walls += build_sign(rng, lot, style.storey_m)
    return walls


def build_awning(rng: np.random.Generator, lot: Lot, storey_m: float) -> list[Wall]:
    """Striped cloth in front of the ground floor, a little lower than the upper floor."""
    depth, height = rng.uniform(0.5, 1.1), rng.uniform(0.4, 0.7)
    width = lot.width_m * rng.uniform(0.5, 0.95)
    cloth = paint_awning(rng, width, height)
    porch = Lot(lot.point(0.0, -depth), lot.right, lot.inward, width, depth)
    bottom = storey_m - 0.8
    return box(porch, bottom, bottom + height, [cloth] * 4, snow_m=0.7 * height)


def build_sign(rng: np.random.Generator, lot: Lot, storey_m: float) -> list[Wall]:
    """A board across the pavement, painted on both sides."""
    width, height = rng.uniform(0.5, 0.9), rng.uniform(0.5, 1.3)
    place = rng.uniform(-0.45, 0.45) * lot.width_m
    inner, outer = lot.point(place, -0.1), lot.point(place, -0.1 - width)
    bottom = storey_m - 0.3
    boards_painted = [paint_sign_board(rng, width, height) for _ in range(2)]
    return [
        Wall(inner, outer, bottom, bottom + height, boards_painted[0]),
        Wall(outer, inner, bottom, bottom + height, boards_painted[1]),
    ]


def build_fence(rng: np.random.Generator, lot: Lot) -> list[Wall]:
    """A garden wall, a board fence or a hedge along the front and the sides."""
    height = rng.uniform(0.7, 2.0)
    material = [hedge, boards, stone, brick][int(rng.integers(4))]
    colour = pick(rng, [(62, 96, 44)] if material is hedge else [(150, 120, 96), (120, 70, 56)])
    shape = (round(height * PIXELS_PER_M), round(lot.width_m * PIXELS_PER_M))
    picture = material(rng, shape, PIXELS_PER_M, colour)
    front = inset(lot, 0.1)
    strip = Lot(front.front, front.right, front.inward, front.width_m, 0.3)
    return box(strip, 0.0, height, [picture] * 4, snow_m=0.15)


def van_lot(rng: np.random.Generator, middle: Vector, along: Vector) -> tuple[Lot, float]:
    """The place that a van takes, its flank parallel to `along`, and its height."""
    length, width = rng.uniform(3.8, 5.2), rng.uniform(1.7, 1.9)
    inward = np.array([-along[1], along[0]])
    right = np.array([inward[1], -inward[0]])
    lot = Lot(middle - inward * width / 2, right, inward, length, width)
    return lot, float(rng.uniform(1.7, 2.4))


def build_van(rng: np.random.Generator, lot: Lot, height_m: float) -> list[Wall]:
    """A parked van: two flanks, front and rear."""
    colour = pick(rng, BRIGHT, 30)
    flank = paint_van(rng, lot.width_m, height_m, colour, is_flank=True)
    end = paint_van(rng, lot.depth_m, height_m, colour, is_flank=False)
    return box(lot, 0.0, height_m, [flank, end, flank, end], snow_m=0.2)
