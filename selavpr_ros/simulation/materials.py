"""What surfaces are made of: brick, plaster, concrete, wood, stone, tiles, asphalt, grass."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.canvas import Colour, Picture, smooth_noise, to_picture

# these colours, and only these, shine at night
LIT_WINDOW: Colour = (244, 214, 142)
DOOR_LAMP: Colour = (250, 230, 170)
STREET_LAMP: Colour = (240, 232, 206)
TAIL_LAMP: Colour = (226, 60, 40)
SNOW: Colour = (232, 236, 242)
FALLEN_LEAVES: Colour = (158, 106, 48)

Material = Callable[[np.random.Generator, tuple[int, int], float, Colour], Picture]


def shining(picture: NDArray[np.generic]) -> NDArray[np.float32]:
    """(H, W) 1 where a picture (H, W, 3) has the colour of a lamp or a lit window, else 0."""
    shines = np.zeros(picture.shape[:2], np.float32)
    for lamp in (LIT_WINDOW, DOOR_LAMP, STREET_LAMP, TAIL_LAMP):
        # a narrow range, so that a yellow house does not shine
        low, high = (np.array(lamp) + side for side in (-3, 3))
        shines += cv2.inRange(picture, low, high) > 0
    return np.minimum(shines, 1.0)


def pick(rng: np.random.Generator, colours: list[Colour], spread: float = 14.0) -> Colour:
    """One of the colours, shifted a little so that no two houses are quite the same."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    shifted = base + rng.uniform(-spread, spread, 3) * 0.5 + rng.uniform(-spread, spread)
    red, green, blue = np.clip(shifted, 5.0, 250.0).tolist()
    return red, green, blue


def plain(
    rng: np.random.Generator, shape: tuple[int, int], colour: Colour, stain: float, grain: float
) -> Picture:
    """A colour with large stains and fine grain, both given in grey levels."""
    stains = smooth_noise(rng, shape, max(shape) / 3) * stain
    grains = rng.standard_normal(shape, dtype=np.float32) * grain
    return to_picture(np.asarray(colour, np.float32) + (stains + grains)[..., None])


def courses(
    rng: np.random.Generator,
    shape: tuple[int, int],
    unit_px: tuple[float, float],
    colour: Colour,
    *,
    variation: float,
    joint: float,
    joint_px: float = 1.0,
    stagger: float = 0.5,
) -> Picture:
    """Rows of equal units (height, width) with joints: bricks, stones, tiles, panels and boards.

    `variation` is the spread of the units' brightness in grey levels, `joint` the brightness of
    the joints relative to `colour`, and `stagger` the shift of each second row in units.
    """
    unit_height, unit_width = unit_px
    row = np.arange(shape[0], dtype=np.float32) / unit_height
    column = np.arange(shape[1], dtype=np.float32) / unit_width
    shifted = column[None, :] + (np.floor(row) % 2)[:, None] * stagger
    tones = rng.standard_normal((int(row[-1]) + 1, int(column[-1]) + 3)) * variation
    grey = tones[row.astype(int)[:, None], shifted.astype(int)].astype(np.float32)
    grey += smooth_noise(rng, shape, max(shape) / 4) * 8
    grey += rng.standard_normal(shape, dtype=np.float32) * 3
    is_joint = ((row % 1.0) < joint_px / unit_height)[:, None] | (
        (shifted % 1.0) < joint_px / unit_width
    )
    base = np.asarray(colour, np.float32)
    return to_picture(np.where(is_joint[..., None], base * joint, base + grey[..., None]))


def brick(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Running bond with light or dark mortar."""
    unit = (0.11 * pixels_per_m, 0.32 * pixels_per_m)
    joint = float(rng.choice([0.6, 1.35]))
    return courses(rng, shape, unit, colour, variation=13, joint=joint)


def stone(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Large cut blocks."""
    unit = (0.4 * pixels_per_m, rng.uniform(0.7, 1.1) * pixels_per_m)
    return courses(rng, shape, unit, colour, variation=9, joint=0.6, joint_px=1.5)


def concrete(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Panels of a storey's height with open joints."""
    unit = (1.5 * pixels_per_m, rng.uniform(1.6, 3.0) * pixels_per_m)
    return courses(rng, shape, unit, colour, variation=7, joint=0.55, joint_px=1.5, stagger=0.0)


def boards(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Wooden boards, lying or standing."""
    unit = (0.17 * pixels_per_m, 4.0 * pixels_per_m)
    if rng.random() < 0.5:
        return courses(rng, shape, unit, colour, variation=9, joint=0.5, stagger=0.37)
    turned = courses(rng, shape[::-1], unit, colour, variation=9, joint=0.5, stagger=0.37)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


def roof_tiles(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Overlapping tiles."""
    unit = (0.22 * pixels_per_m, 0.26 * pixels_per_m)
    return courses(rng, shape, unit, colour, variation=10, joint=0.6)


def plaster(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Painted render with rain stains."""
    surface = plain(rng, shape, colour, stain=16, grain=4).astype(np.float32)
    streaks = smooth_noise(rng, (2, shape[1]), 0.4 * pixels_per_m)[0]
    depth = np.linspace(1.0, 0.0, shape[0], dtype=np.float32)[:, None]
    return to_picture(surface - (np.clip(streaks, 0, 1) * depth * 26)[..., None])


def hedge(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Leaves: green noise at the scale of twigs."""
    leaves = smooth_noise(rng, shape, 0.3 * pixels_per_m, octaves=4) * 46
    return to_picture(np.asarray(colour, np.float32) + leaves[..., None])


def asphalt(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Worn tar with patches of another age."""
    surface = plain(rng, shape, colour, stain=12, grain=7)
    for _ in range(max(2, shape[1] // 250)):
        height, width = (rng.uniform(0.5, 2.5, 2) * pixels_per_m).astype(int)
        row, column = rng.integers(shape[0]), rng.integers(shape[1])
        patch = surface[row : row + height, column : column + width]
        patch[:] = to_picture(patch * rng.uniform(0.68, 1.15))
    return surface


def cobbles(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Paving stones."""
    unit = (0.2 * pixels_per_m, 0.26 * pixels_per_m)
    return courses(rng, shape, unit, colour, variation=12, joint=0.6)


def slabs(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """Pavement slabs."""
    unit = (0.5 * pixels_per_m, rng.uniform(0.5, 0.9) * pixels_per_m)
    return courses(rng, shape, unit, colour, variation=9, joint=0.7)


def grass(
    rng: np.random.Generator, shape: tuple[int, int], pixels_per_m: float, colour: Colour
) -> Picture:
    """A lawn with bare spots."""
    blades = smooth_noise(rng, shape, 1.5 * pixels_per_m, octaves=5) * 26
    return to_picture(np.asarray(colour, np.float32) + blades[..., None])


WALL_COLOURS: dict[Material, list[Colour]] = {
    brick: [(142, 74, 56), (168, 98, 70), (112, 66, 60), (186, 146, 104), (120, 104, 96)],
    plaster: [
        (222, 208, 178),
        (206, 166, 116),
        (214, 214, 208),
        (176, 196, 186),
        (204, 150, 136),
        (158, 176, 198),
        (232, 214, 140),
    ],
    concrete: [(158, 158, 152), (134, 136, 140), (180, 174, 160)],
    boards: [(126, 88, 58), (92, 112, 118), (158, 60, 50), (196, 190, 178), (84, 96, 72)],
    stone: [(188, 174, 148), (150, 146, 140), (170, 140, 116)],
}


def wall_material(rng: np.random.Generator) -> tuple[Material, Colour]:
    """A material for a house and the colour it comes in."""
    materials = list(WALL_COLOURS)
    material = materials[int(rng.choice(len(materials), p=[0.3, 0.34, 0.12, 0.12, 0.12]))]
    return material, pick(rng, WALL_COLOURS[material])
