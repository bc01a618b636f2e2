"""Flat pictures with transparency for what stands in the street: trees, lamps, signs, people."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.canvas import Canvas, Colour, Picture, smooth_noise, to_picture
from selavpr_ros.simulation.facades import BRIGHT, paint_glyphs, paint_poster
from selavpr_ros.simulation.materials import pick

PIXELS_PER_M = 40.0
LEAVES: list[Colour] = [
    (76, 108, 48),
    (102, 124, 50),
    (56, 88, 56),
    (170, 122, 44),
    (120, 60, 52),
]


@dataclass(frozen=True, eq=False)
class Sprite:
    """A picture (H,W,4), RGB multiplied by alpha, that always faces the camera."""

    pixels: Picture
    width_m: float
    height_m: float

    @cached_property
    def pyramid(self) -> list[NDArray[np.float32]]:
        """The picture at full, half, quarter ... resolution."""
        levels = [self.pixels.astype(np.float32)]
        while min(levels[-1].shape[:2]) > 8 and len(levels) < 5:
            height, width = levels[-1].shape[:2]
            half = (width // 2, height // 2)
            levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
        return levels


@dataclass(frozen=True)
class Thing:
    """A sprite at a place. Metres; `bottom_m` is the height of its lower edge."""

    x_m: float
    y_m: float
    sprite: Sprite
    bottom_m: float = 0.0


def _blank(width_m: float, height_m: float) -> Canvas:
    return Canvas(width_m, height_m, PIXELS_PER_M, transparent=True)


def _sprite(canvas: Canvas) -> Sprite:
    return Sprite(canvas.pixels, canvas.width_m, canvas.height_m)


def paint_tree(rng: np.random.Generator) -> Sprite:
    """A trunk with branches and a crown of leaf clouds, lit from above."""
    width, height = rng.uniform(2.6, 4.2), rng.uniform(4.0, 6.5)
    canvas = _blank(width, height)
    bark = pick(rng, [(84, 66, 50), (110, 100, 88), (64, 52, 46)])
    middle, thick = width / 2, rng.uniform(0.16, 0.32)
    lean = rng.uniform(-0.3, 0.3)
    canvas.line(middle, 0, middle + lean, height * 0.7, thick, bark)
    for _ in range(4):
        x, z = rng.uniform(0.2, 0.8) * width, rng.uniform(0.6, 0.85) * height
        canvas.line(middle + lean * 0.6, height * 0.42, x, z, thick * 0.4, bark)
    leaves = pick(rng, LEAVES, 8)
    noise = smooth_noise(rng, canvas.shape, 0.7 * PIXELS_PER_M, octaves=4)
    rows, columns = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    across = (columns / canvas.shape[1] - 0.5) / 0.42
    up = (rows / canvas.shape[0] - 0.34) / 0.31
    crown = across**2 + up**2 + noise * 0.75 < 0.8
    tones = np.asarray(leaves, np.float32) * (1.05 - 0.3 * up + 0.55 * noise)[..., None]
    opaque = np.full((*canvas.shape, 1), 255.0)
    canvas.pixels[crown] = to_picture(np.dstack([tones, opaque]))[crown]
    return _sprite(canvas)


def paint_lamp(rng: np.random.Generator) -> Sprite:
    """A street lamp with one or two heads."""
    height = rng.uniform(3.6, 5.2)
    canvas = _blank(1.6, height)
    metal = pick(rng, [(50, 56, 58), (94, 104, 100), (36, 60, 50)])
    canvas.rectangle(0.72, 0, 0.88, height - 0.3, metal)
    canvas.rectangle(0.64, 0, 0.96, 0.6, metal)
    sides = (1,) if rng.random() < 0.5 else (-1, 1)
    for side in sides:
        canvas.line(0.8, height - 0.4, 0.8 + side * 0.6, height - 0.2, 0.08, metal)
        canvas.ellipse(0.8 + side * 0.55, height - 0.32, 0.24, 0.17, (240, 232, 206))
    if rng.random() < 0.4:
        paint_poster(canvas, rng, (0.5, 1.8, 1.1, 2.6))
    return _sprite(canvas)


def paint_road_sign(rng: np.random.Generator) -> Sprite:
    """A pole with one or two road signs."""
    canvas = _blank(0.8, 2.7)
    canvas.rectangle(0.37, 0, 0.43, 2.4, (130, 132, 136))
    border, ground = (BRIGHT[i] for i in rng.permutation(5)[:2])
    if rng.random() < 0.5:
        canvas.ellipse(0.4, 2.3, 0.34, 0.34, border)
        canvas.ellipse(0.4, 2.3, 0.26, 0.26, ground)
    else:
        canvas.polygon([(0.04, 2.0), (0.76, 2.0), (0.4, 2.66)], border)
        canvas.polygon([(0.17, 2.08), (0.63, 2.08), (0.4, 2.5)], ground)
    paint_glyphs(canvas, rng, (0.12, 2.12, 0.9, 2.45), (20, 20, 24))
    if rng.random() < 0.5:
        canvas.rectangle(0.1, 1.55, 0.7, 1.88, ground)
        paint_glyphs(canvas, rng, (0.1, 1.55, 0.75, 1.88), border)
    return _sprite(canvas)


def paint_column(rng: np.random.Generator) -> Sprite:
    """An advertising column full of posters."""
    canvas = _blank(1.3, 3.1)
    canvas.rectangle(0.1, 0, 1.2, 2.8, (150, 146, 138))
    canvas.rectangle(0, 2.7, 1.3, 2.9, (70, 90, 80))
    canvas.ellipse(0.65, 2.88, 0.5, 0.2, (70, 90, 80))
    canvas.rectangle(0.1, 0, 1.2, 0.35, (90, 88, 84))
    for z in (0.45, 1.55):
        for x in (0.14, 0.68):
            paint_poster(canvas, rng, (x, z, x + rng.uniform(0.4, 0.52), z + 1.0))
    return _sprite(canvas)


def paint_bin(rng: np.random.Generator) -> Sprite:
    """A litter bin or a plant tub."""
    canvas = _blank(0.7, 1.1)
    body = pick(rng, [(60, 92, 66), (196, 96, 40), (110, 110, 112), (150, 110, 84)])
    canvas.polygon([(0.12, 0), (0.58, 0), (0.66, 0.75), (0.04, 0.75)], body)
    canvas.rectangle(0.1, 0.3, 0.6, 0.36, (40, 40, 40))
    if rng.random() < 0.5:
        for _ in range(14):
            x, z = rng.uniform(0.1, 0.6), rng.uniform(0.72, 1.0)
            canvas.ellipse(x, z, 0.1, 0.09, pick(rng, [(70, 116, 54), (196, 70, 90)], 30))
    return _sprite(canvas)


def paint_person(rng: np.random.Generator) -> Sprite:
    """Somebody standing about."""
    height = rng.uniform(1.55, 1.9)
    canvas = _blank(0.8, height)
    coat, trousers = pick(rng, BRIGHT, 30), pick(rng, [(40, 44, 60), (90, 80, 66), (30, 30, 32)])
    canvas.line(0.32, 0, 0.37, height * 0.5, 0.15, trousers)
    canvas.line(0.5, 0, 0.44, height * 0.5, 0.15, trousers)
    canvas.polygon(
        [(0.24, 0.44 * height), (0.56, 0.44 * height), (0.6, 0.84 * height), (0.2, 0.84 * height)],
        coat,
    )
    canvas.line(0.2, 0.82 * height, 0.14, 0.5 * height, 0.1, coat)
    canvas.line(0.6, 0.82 * height, 0.66, 0.5 * height, 0.1, coat)
    skin = pick(rng, [(226, 184, 156), (150, 104, 78), (96, 66, 52)])
    canvas.ellipse(0.4, 0.92 * height, 0.1, 0.13, skin)
    canvas.ellipse(0.4, 0.96 * height, 0.11, 0.08, pick(rng, [(50, 40, 34), (150, 110, 60)]))
    return _sprite(canvas)
