"""Effects of one light on a whole world, seen from above: shadows, snow, leaves, lamplight."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation.canvas import Picture, smooth_noise
from selavpr_ros.simulation.ground import Ground
from selavpr_ros.simulation.light import Light, Season
from selavpr_ros.simulation.world import World

MAP_PIXELS_PER_M = 6.0

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Daylight:
    """Effects of one light on a whole world: computed once, used for many images."""

    light: Light
    sky: Picture
    ground: Floats  # (h, w, 3) brightness, cover and lamplight of the ground, MAP_PIXELS_PER_M


def _map_pixels(ground: Ground, points: NDArray[np.float64]) -> list[list[int]]:
    """(N, 2) column and row of world points (N, 2) on the map of Daylight."""
    scale = MAP_PIXELS_PER_M / ground.pixels_per_m
    pixels: list[list[int]] = (ground.pixel(points) * scale).round().astype(int).tolist()
    return pixels


def throw_shadows(world: World, light: Light) -> NDArray[np.uint8]:
    """255 where the ground lies in the shadow of a house, a lamp or a tree; seen from above."""
    ground = world.ground
    scale = MAP_PIXELS_PER_M / ground.pixels_per_m
    height, width = ground.image.shape[:2]
    shadow = np.zeros((round(height * scale), round(width * scale)), np.uint8)
    away = -np.array(light.sun_direction) / np.tan(light.sun_elevation_rad)
    for block in world.blocks:
        outline = np.vstack([block.lot.corners, block.lot.corners + away * block.height_m])
        hull = cv2.convexHull((ground.pixel(outline) * scale).astype(np.float32))
        cv2.fillConvexPoly(shadow, hull.round().astype(np.int32), 255)
    for thing in world.things:
        foot = np.array([thing.x_m, thing.y_m])
        ends = np.array([foot, foot + away * thing.sprite.height_m])
        near, far = _map_pixels(ground, ends)
        cv2.line(shadow, near, far, 255, 1)
        if thing.sprite.width_m > 2.0:
            cv2.circle(shadow, far, round(MAP_PIXELS_PER_M), 255, -1)
    return shadow


def sunlit_ground(world: World, light: Light) -> Floats:
    """Brightness of the ground from above: 1 under clouds, less in a shadow, more beside it."""
    shadow = cv2.GaussianBlur(throw_shadows(world, light), (3, 3), 0.8)
    sunlit = 1.0 + light.sun_strength * (0.25 - 1.05 / 255.0 * shadow.astype(np.float32))
    return sunlit * np.float32(1.0 - 0.4 * light.rain)  # wet stone is dark


def ground_cover(world: World, light: Light, shape: tuple[int, int]) -> Floats:
    """Share of the ground under snow or leaves; patchy, and thin where wheels roll."""
    if light.season is Season.SUMMER or light.cover <= 0:
        return np.zeros(shape, np.float32)
    # seeded by the sky, so that the patches differ from day to day
    rng = np.random.default_rng(round(1e6 * abs(light.cloud_shift_rad)))
    patches = smooth_noise(rng, shape, 2.0 * MAP_PIXELS_PER_M, octaves=5)
    traffic = np.zeros(shape, np.float32)
    for street in world.streets:
        ruts = [(left_m, 0.5, 0.9) for left_m in (-1.8, -0.5, 0.5, 1.8)]
        for left_m, width_m, strength in [(0.0, 2 * street.road_m, 0.5), *ruts]:
            ends = np.array([street.point(m, left_m) for m in (0.0, street.length_m)])
            start, end = _map_pixels(world.ground, ends)
            cv2.line(traffic, start, end, strength, round(width_m * MAP_PIXELS_PER_M))
    return np.clip(2.5 * (1.6 * light.cover - 0.2 - traffic + 0.4 * patches), 0.0, 0.95)


def lamplight(world: World, light: Light, shape: tuple[int, int]) -> Floats:
    """Pools of light round the street lamps at night, from above; 1 in the middle of each."""
    pools = np.zeros(shape, np.float32)
    if light.darkness <= 0:
        return pools
    for thing in world.things:
        if thing.sprite.is_lamp:
            [foot] = _map_pixels(world.ground, np.array([[thing.x_m, thing.y_m]]))
            cv2.circle(pools, foot, round(1.8 * MAP_PIXELS_PER_M), 1.0, -1)
    return cv2.GaussianBlur(pools, (0, 0), 1.2 * MAP_PIXELS_PER_M)


_latest: WeakKeyDictionary[World, Daylight] = WeakKeyDictionary()


def daylight(world: World, light: Light) -> Daylight:
    """The world's sky and shadows; those of its latest light are kept for the next image."""
    known = _latest.get(world)
    if known is None or known.light != light:
        sunlit = sunlit_ground(world, light)
        others = [make(world, light, sunlit.shape) for make in (ground_cover, lamplight)]
        maps = cv2.merge([sunlit, *others])
        known = Daylight(light, world.sky.seen(light.cloud_shift_rad), maps)
        _latest[world] = known
    return known
