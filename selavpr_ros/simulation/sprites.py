"""Flat pictures with transparency for what stands in the street: trees, lamps, signs, people."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.canvas import (
    Canvas,
    Colour,
    Picture,
    shaded,
    smooth_noise,
    to_picture,
)
from selavpr_ros.simulation.facades import BRIGHT, paint_glyphs, paint_poster
from selavpr_ros.simulation.light import Light, Season
from selavpr_ros.simulation.materials import SNOW, STREET_LAMP, TAIL_LAMP, pick

PIXELS_PER_M = 40.0
LEAVES: list[Colour] = [
    (76, 108, 48),
    (102, 124, 50),
    (56, 88, 56),
    (170, 122, 44),
    (120, 60, 52),
]
# columns: what red, green, blue and alpha are made of
GREEN_TO_GOLD = np.array(
    [[0.3, 0.1, 0.0, 0.0], [1.5, 1.0, 0.3, 0.0], [0.0, 0.0, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
SNOW_PX = 3  # how thick snow lies


@dataclass(frozen=True, eq=False)
class Sprite:
    """A picture (H,W,4), RGB multiplied by alpha, that always faces the camera."""

    pixels: Picture
    width_m: float
    height_m: float
    bare: Picture | None = None  # without its leaves
    is_lamp: bool = False

    @cached_property
    def pyramid(self) -> list[NDArray[np.float32]]:
        """The picture at full, half, quarter ... resolution."""
        levels = [self.pixels.astype(np.float32)]
        while min(levels[-1].shape[:2]) > 8 and len(levels) < 5:
            height, width = levels[-1].shape[:2]
            half = (width // 2, height // 2)
            levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
        return levels

    @cached_property
    def _in_autumn(self) -> Sprite:
        """With leaves of the same brightness, from green to gold."""
        leaves = (self.pixels != self.bare).any(axis=2, keepdims=True)
        gold = to_picture(self.pixels @ GREEN_TO_GOLD)
        return replace(self, pixels=np.where(leaves, gold, self.pixels))

    @cached_property
    def _in_winter(self) -> Sprite:
        """Without leaves."""
        return self if self.bare is None else replace(self, pixels=self.bare)

    @cached_property
    def _snowed_in(self) -> Sprite:
        """Without leaves, white on top of all that has open air above."""
        winter = self._in_winter.pixels
        above = np.vstack([np.zeros_like(winter[:SNOW_PX]), winter[:-SNOW_PX]])[..., 3:] / 255.0
        snow = winter[..., 3:] / 255.0 * (*SNOW, 255.0)
        return replace(self, pixels=to_picture(np.rint(winter * above + snow * (1.0 - above))))

    def dressed(self, light: Light) -> Sprite:
        """As it looks in this season: with its leaves, golden, bare, or under snow."""
        if light.season is Season.WINTER:
            return self._snowed_in if light.snow > 0 else self._in_winter
        is_golden = light.season is Season.AUTUMN and self.bare is not None
        return self._in_autumn if is_golden else self


@dataclass(frozen=True)
class Thing:
    """A sprite at a place."""

    x_m: float
    y_m: float
    sprite: Sprite


def _blank(width_m: float, height_m: float) -> Canvas:
    return Canvas(width_m, height_m, PIXELS_PER_M, transparent=True)


def _sprite(canvas: Canvas) -> Sprite:
    return Sprite(canvas.pixels, canvas.width_m, canvas.height_m)


def paint_twigs(canvas: Canvas, x_m: float, height_m: float, bark: Colour) -> Picture:
    """The same picture with forking twigs, which the leaves hide."""
    wooden = _blank(canvas.width_m, canvas.height_m)
    wooden.pixels[:] = canvas.pixels
    # a generator of its own, so that the twigs do not change the rest of the town
    rng = np.random.default_rng(round(1e6 * height_m))

    def fork(x: float, z: float, angle: float, length: float, width: float) -> None:
        x1, z1 = x + length * math.sin(angle), z + length * math.cos(angle)
        wooden.line(x, z, x1, z1, width, bark)
        for turn in rng.uniform(0.1, 0.6, 2) * (1, -1) if length > 0.2 else ():
            fork(x1, z1, angle + turn, length * rng.uniform(0.65, 0.8), width * 0.65)

    for angle in (-0.55, -0.2, 0.2, 0.55):
        fork(x_m, 0.42 * height_m, angle, 0.16 * height_m, 0.1)
    return wooden.pixels


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
    bare = paint_twigs(canvas, middle + lean * 0.6, height, bark)
    leaves = pick(rng, LEAVES, 8)
    noise = smooth_noise(rng, canvas.shape, 0.7 * PIXELS_PER_M, octaves=4)
    rows, columns = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    across = (columns / canvas.shape[1] - 0.5) / 0.42
    up = (rows / canvas.shape[0] - 0.34) / 0.31
    crown = across**2 + up**2 + noise * 0.75 < 0.8
    tones = np.asarray(leaves, np.float32) * (1.05 - 0.3 * up + 0.55 * noise)[..., None]
    opaque = np.full((*canvas.shape, 1), 255.0)
    canvas.pixels[crown] = to_picture(np.dstack([tones, opaque]))[crown]
    return replace(_sprite(canvas), bare=bare)


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
        canvas.ellipse(0.8 + side * 0.55, height - 0.32, 0.24, 0.17, STREET_LAMP)
    if rng.random() < 0.4:
        paint_poster(canvas, rng, (0.5, 1.8, 1.1, 2.6))
    return replace(_sprite(canvas), is_lamp=True)


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
    """A person who stands in the street."""
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


def paint_car_end(rng: np.random.Generator) -> Sprite:
    """A car seen from behind or from the front."""
    canvas = _blank(1.8, 1.5)
    body, lamp = pick(rng, BRIGHT, 40), (STREET_LAMP, TAIL_LAMP)[int(rng.integers(2))]
    for x in (0.12, 1.43):
        canvas.rectangle(x, 0, x + 0.25, 0.4, (22, 22, 24))
    canvas.polygon([(0.2, 0.85), (1.6, 0.85), (1.38, 1.47), (0.42, 1.47)], shaded(body, 0.85))
    canvas.polygon([(0.33, 0.9), (1.47, 0.9), (1.3, 1.38), (0.5, 1.38)], (52, 64, 74))
    canvas.polygon([(0.02, 0.25), (1.78, 0.25), (1.72, 0.95), (0.08, 0.95)], body)
    canvas.rectangle(0.05, 0.2, 1.75, 0.4, shaded(body, 0.5))
    canvas.rectangle(0.64, 0.44, 1.16, 0.56, (236, 236, 230))
    for x in (0.1, 1.4):
        canvas.rectangle(x, 0.66, x + 0.3, 0.86, lamp)
    return _sprite(canvas)


def paint_car_flank(rng: np.random.Generator) -> Sprite:
    """A car from its side, driving to the left or to the right."""
    length = rng.uniform(3.8, 4.6)
    canvas = _blank(length, 1.5)
    body, x = pick(rng, BRIGHT, 40), length / 10
    roof = [(2.2 * x, 0.85), (3.8 * x, 1.47), (7.6 * x, 1.47), (9.4 * x, 0.85)]
    canvas.polygon(roof, shaded(body, 0.9))
    glass = [(2.9 * x, 0.9), (4.0 * x, 1.38), (7.4 * x, 1.38), (8.7 * x, 0.9)]
    canvas.polygon(glass, (52, 64, 74))
    canvas.rectangle(5.5 * x, 0.8, 5.7 * x, 1.4, body)
    canvas.polygon(
        [(0, 0.25), (length, 0.25), (length, 0.9), (2 * x, 0.92), (0.1 * x, 0.7)], body
    )
    canvas.rectangle(0, 0.2, length, 0.4, shaded(body, 0.5))
    canvas.rectangle(0, 0.55, 0.4 * x, 0.7, STREET_LAMP)
    canvas.rectangle(length - 0.3 * x, 0.6, length, 0.8, TAIL_LAMP)
    for wheel in (2 * x, 8 * x):
        canvas.ellipse(wheel, 0.32, 0.33, 0.32, (22, 22, 24))
        canvas.ellipse(wheel, 0.32, 0.18, 0.17, (150, 150, 152))
    mirrored = np.ascontiguousarray(canvas.pixels[:, :: int(rng.choice([1, -1]))])
    return Sprite(mirrored, canvas.width_m, canvas.height_m)
