"""Effects of weather and night on an image: wet streets, dark with lamps, fog, rain, flakes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.light import CLEAR_M, Light

FOG_COLOUR = (205.0, 209.0, 213.0)
NIGHT = (0.26, 0.3, 0.41)  # what remains of red, green and blue without the sun
LAMPLIGHT = (1.0, 0.88, 0.66)
SKY_M = 1000.0  # the sky fades in fog like a wall at this distance

Floats = NDArray[np.float32]


def mirror_street(lit: Floats, is_ground: NDArray[np.bool_], rain: float) -> None:
    """Wet ground mirrors what stands behind it; the flatter the view, the clearer the image.

    `lit` (H,W,3) is changed where `is_ground` (H,W). A house is mirrored at its foot, which is
    where the ground ends in its column.
    """
    height, width = is_ground.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    feet = height - is_ground.sum(axis=0, dtype=np.float32)
    columns = np.broadcast_to(np.arange(width, dtype=np.float32), is_ground.shape)
    mirrored = cv2.remap(lit, columns, 2 * feet - rows, cv2.INTER_LINEAR)
    mirrored = cv2.blur(mirrored, (1, max(1, height // 20)))
    below = (rows - height / 2) / (height / 2)  # 0 at the horizon, 1 at the lower border
    share = 0.65 * rain * np.exp(-2.0 * below) * is_ground
    lit += (mirrored - lit) * share[..., None]


def _night(darkness: float) -> Floats:
    """(3,) shares of red, green and blue that remain."""
    return 1.0 - darkness * (1.0 - np.array(NIGHT, np.float32))


def darken(lit: Floats, shine: Floats, darkness: float) -> Floats:
    """Darkens `lit` (H,W,3) for the night; lamps, where `shine` (H,W) is 1, stay with a halo."""
    lamps = lit * shine[..., None] * np.array(LAMPLIGHT, np.float32)
    halo = cv2.GaussianBlur(lamps, (0, 0), lit.shape[1] / 50)
    return lit * _night(darkness) + darkness * (0.85 * lamps + 0.6 * halo)


def fade(lit: Floats, depth_m: Floats, light: Light) -> Floats:
    """Fog takes the contrast away with distance: (H,W,3), (H,W) -> (H,W,3)."""
    kept: Floats = np.exp(-np.minimum(depth_m, SKY_M) / np.float32(light.sight_m))[..., None]
    fog = np.array(FOG_COLOUR, np.float32) * _night(light.darkness)
    return lit * kept + (1.0 - kept) * fog


def _scattered(
    rng: np.random.Generator, shape: tuple[int, ...], count: float, stamp: Floats
) -> Floats:
    """(H, W) about `count` stamps at random places, at most 1."""
    seeds = (rng.random(shape, np.float32) < count / (shape[0] * shape[1])).astype(np.float32)
    return np.minimum(cv2.filter2D(seeds, -1, stamp, borderType=cv2.BORDER_CONSTANT), 1.0)


def _disc(radius_px: float) -> Floats:
    """A soft round stamp."""
    profile = cv2.getGaussianKernel(2 * int(np.ceil(2 * radius_px)) + 1, radius_px, cv2.CV_32F)
    return np.outer(profile, profile).astype(np.float32) / profile.max() ** 2


def let_fall(lit: Floats, light: Light, rng: np.random.Generator) -> Floats:
    """Streaks of rain and drops on the lens, or flakes near and far: (H,W,3) -> (H,W,3)."""
    unit = lit.shape[0] / 240.0
    if light.rain > 0:
        length = round(24 * unit)
        streak = np.zeros((length, length), np.float32)
        slant = length // 2 + round(rng.uniform(-4, 4) * unit)
        cv2.line(streak, (length // 2, length - 1), (slant, 0), 0.3, 1, cv2.LINE_AA)
        streaks = _scattered(rng, lit.shape[:2], 400 * light.rain, streak)
        lit = lit + streaks[..., None] * (235.0 - lit)
        drops = _scattered(rng, lit.shape[:2], 9 * light.rain, 1.6 * _disc(4 * unit))
        lit += (cv2.GaussianBlur(lit, (0, 0), 8 * unit) * 1.1 - lit) * drops[..., None]
    for count, radius in ((700, 0.8), (120, 1.7)) if light.snowfall > 0 else ():
        flakes = _scattered(rng, lit.shape[:2], count * light.snowfall, _disc(radius * unit))
        lit = lit + 0.85 * flakes[..., None] * (240.0 - lit)
    return lit


def add_weather(
    lit: Floats, depth_m: Floats, shine: Floats, light: Light, rng: np.random.Generator | None
) -> Floats:
    """Adds night, fog, and rain or snow to an image (H,W,3) with depth and lamps (H,W).

    Falling rain and snow come from `rng`; without it there are none.
    """
    if light.darkness > 0:
        lit = darken(lit, shine, light.darkness)
    if light.sight_m < CLEAR_M:
        lit = fade(lit, depth_m, light)
    return lit if rng is None else let_fall(lit, light, rng)
