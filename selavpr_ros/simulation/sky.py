"""The far surroundings: clouds and a skyline, as a panorama round the world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from selavpr_ros.simulation.canvas import Picture, smooth_noise, to_picture

WIDTH_PX = 2048
PIXELS_PER_RAD = WIDTH_PX / (2 * math.pi)
TOP_RAD = 1.0  # elevation of the upper edge
HEIGHT_PX = round(TOP_RAD * PIXELS_PER_RAD)


@dataclass(frozen=True, eq=False)
class Sky:
    """Panoramas by azimuth (counter-clockwise, from x) and elevation (0 in the lowest row)."""

    clouds: Picture  # (HEIGHT_PX, WIDTH_PX, 3)
    skyline: Picture  # the same with alpha as fourth channel

    def seen(self, cloud_shift_rad: float) -> Picture:
        """The skyline before the clouds, which are turned by an angle."""
        shift = round(cloud_shift_rad * PIXELS_PER_RAD)
        sky = np.roll(self.clouds, shift, axis=1)
        lower = sky[-self.skyline.shape[0] :]
        np.copyto(lower, self.skyline[..., :3], where=self.skyline[..., 3:] > 0)
        return sky


def paint_clouds(rng: np.random.Generator) -> Picture:
    """Blue above, pale at the horizon, with drifting clouds that close round the circle."""
    up = np.linspace(1.0, 0.0, HEIGHT_PX, dtype=np.float32)[:, None, None]
    blue = np.array([104, 152, 210], np.float32) * up + np.array([206, 216, 224]) * (1 - up)
    noise = smooth_noise(rng, (HEIGHT_PX, WIDTH_PX // 2), 170, octaves=6)
    noise = np.hstack([noise, noise[:, ::-1]])
    cover = np.clip((noise - rng.uniform(-0.15, 0.25)) * 2.2, 0, 1)[..., None]
    relief = np.roll(noise, 12, axis=0)[..., None]
    white = np.array([238, 240, 242], np.float32) - 34 * np.clip(relief - noise[..., None], 0, 1)
    return to_picture(blue * (1 - cover) + white * cover)


def paint_skyline(rng: np.random.Generator) -> Picture:
    """Hills, woods, towers, chimneys and cranes, blue with distance."""
    skyline = np.zeros((round(0.3 * PIXELS_PER_RAD), WIDTH_PX, 4), np.uint8)
    rows = skyline.shape[0]
    for far, colour in ((1.0, (150, 166, 186)), (0.6, (118, 134, 142))):
        ridge = smooth_noise(rng, (2, WIDTH_PX), 300 * far, octaves=6)[0]
        heights = rows * (0.1 * far + 0.06 + 0.1 * ridge)
        is_hill = np.arange(rows)[:, None] > rows - heights[None, :]
        skyline[is_hill] = (*colour, 255)
    for _ in range(40):
        x, width = int(rng.integers(WIDTH_PX)), int(rng.integers(6, 36))
        height = int(rng.uniform(0.15, 0.6) * rows * (1.4 if width < 12 else 1.0))
        tone = float(rng.uniform(0.8, 1.15))
        grey = round(tone * 140)
        cv2.rectangle(
            skyline, (x, rows - height), (x + width, rows), (grey, grey + 7, grey + 20, 255), -1
        )
        for row in range(rows - height + 3, rows, 5):
            cv2.line(skyline, (x + 1, row), (x + width - 1, row), (112, 120, 136, 255), 1)
        if rng.random() < 0.3:
            cv2.line(skyline, (x, rows - height), (x, rows - height - 14), (120, 120, 130, 255), 1)
    return skyline


def paint_sky(rng: np.random.Generator) -> Sky:
    """The sky of a world, with clouds and a skyline at random."""
    return Sky(clouds=paint_clouds(rng), skyline=paint_skyline(rng))
