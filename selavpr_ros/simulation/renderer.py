"""From a world and a pose to a camera image.

1. Walls: for each image column a ray is cast in the plane; the nearest walls it meets are layers.
2. A layer covers the rows between its projected top and bottom; nearer layers cover farther ones.
3. Every covered pixel looks up its wall's picture, at a resolution that fits its distance.
4. Below the horizon the rest is ground, above it sky.
5. Sun, shadows and haze; then the things, from far to near; then the camera's own response.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.simulation import sky as sky_module
from selavpr_ros.simulation.atlas import at_level, level_for
from selavpr_ros.simulation.camera import Camera, PlanarPose
from selavpr_ros.simulation.canvas import Picture
from selavpr_ros.simulation.ground import Ground
from selavpr_ros.simulation.light import MORNING, Light
from selavpr_ros.simulation.sprites import Sprite, Thing
from selavpr_ros.simulation.world import Walls, World

LAYERS = 7  # walls behind each other in one column
NEAREST_M = 0.15
SHADOW_PIXELS_PER_M = 6.0
HAZE_COLOUR = 208.0
SKY_HAZE_M = 30.0  # the sky fades like a wall at this distance

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Daylight:
    """What one light makes of a whole world: computed once, used for many images."""

    light: Light
    sky: Picture
    ground: Floats  # brightness of the ground from above at SHADOW_PIXELS_PER_M


def throw_shadows(world: World, light: Light) -> NDArray[np.uint8]:
    """255 where the ground lies in the shadow of a house, a lamp or a tree; seen from above."""
    ground = world.ground
    scale = SHADOW_PIXELS_PER_M / ground.pixels_per_m
    height, width = ground.image.shape[:2]
    shadow = np.zeros((round(height * scale), round(width * scale)), np.uint8)
    away = -np.array(light.sun_direction) / np.tan(light.sun_elevation_rad)
    for block in world.blocks:
        outline = np.vstack([block.lot.corners, block.lot.corners + away * block.height_m])
        hull = cv2.convexHull((ground.pixel(outline) * scale).astype(np.float32))
        cv2.fillConvexPoly(shadow, hull.round().astype(np.int32), 255)
    for thing in world.things:
        foot = np.array([thing.x_m, thing.y_m])
        ends = ground.pixel(np.array([foot, foot + away * thing.sprite.height_m])) * scale
        (x0, y0), (x1, y1) = ends.round().astype(int).tolist()
        cv2.line(shadow, (x0, y0), (x1, y1), 255, 1)
        if thing.sprite.width_m > 2.0:
            cv2.circle(shadow, (x1, y1), round(SHADOW_PIXELS_PER_M), 255, -1)
    return shadow


def sunlit_ground(world: World, light: Light) -> Floats:
    """Brightness of the ground from above: 1 under clouds, less in a shadow, more beside it."""
    shadow = cv2.GaussianBlur(throw_shadows(world, light), (3, 3), 0.8)
    return 1.0 + light.sun_strength * (0.25 - 1.05 / 255.0 * shadow.astype(np.float32))


_latest: WeakKeyDictionary[World, Daylight] = WeakKeyDictionary()


def daylight(world: World, light: Light) -> Daylight:
    """The world's sky and shadows; those of its latest light are kept for the next image."""
    known = _latest.get(world)
    if known is None or known.light != light:
        known = Daylight(light, world.sky.seen(light.cloud_shift_rad), sunlit_ground(world, light))
        _latest[world] = known
    return known


@dataclass(frozen=True, eq=False)
class Layers:
    """The walls along each image column, nearest first; arrays (LAYERS, W).

    Rows of a picture run linearly with image rows: picture row = first_row + slope * image row.
    """

    depth_m: Floats  # inf where there is no wall
    top_row: Floats
    bottom_row: Floats
    picture_column: Floats
    first_row: Floats
    slope: Floats
    sunlight: Floats


def _directions(camera: Camera, pose: PlanarPose) -> Floats:
    """(2, W) rays in the plane whose component along the optical axis is one metre."""
    forward = np.array([np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)])
    right = np.array([forward[1], -forward[0]])
    return (forward[:, None] + right[:, None] * camera.columns()).astype(np.float32)


def _facing(walls: Walls, rays: Floats, pose: PlanarPose) -> NDArray[np.int64]:
    """Numbers of the walls that turn their front to the camera and reach into its view."""
    to_start = walls.start - np.array([pose.x_m, pose.y_m], np.float32)
    to_end = to_start + walls.along
    in_front = walls.along[:, 1] * to_start[:, 0] - walls.along[:, 0] * to_start[:, 1] < 0
    left, right = rays[:, 0], rays[:, -1]
    beyond = np.zeros(len(to_start), bool)
    for edge, sign in ((left, 1.0), (right, -1.0)):
        outside = [sign * (edge[0] * p[:, 1] - edge[1] * p[:, 0]) > 0 for p in (to_start, to_end)]
        beyond |= outside[0] & outside[1]
    return np.flatnonzero(in_front & ~beyond)


def cast(world: World, camera: Camera, pose: PlanarPose, light: Light) -> Layers:
    """Stage 1: meets every ray with every wall and keeps the nearest ones."""
    walls, rays = world.walls, _directions(camera, pose)
    numbers = _facing(walls, rays, pose)
    start = walls.start[numbers] - np.array([pose.x_m, pose.y_m], np.float32)
    along = walls.along[numbers]
    across = rays[0] * along[:, 1:] - rays[1] * along[:, :1]
    across = np.where(across < -1e-9, across, np.float32(-1e-9))
    depth = (start[:, :1] * along[:, 1:] - start[:, 1:] * along[:, :1]) / across
    share = (start[:, :1] * rays[1] - start[:, 1:] * rays[0]) / across
    depth[(share < 0) | (share >= 1) | (depth < NEAREST_M)] = np.inf
    columns = np.arange(camera.width)
    order = np.empty((min(LAYERS, len(numbers)), camera.width), np.intp)
    depths = np.empty(order.shape, np.float32)
    for layer in range(len(order)):
        order[layer] = depth.argmin(axis=0)
        depths[layer] = depth[order[layer], columns]
        depth[order[layer], columns] = np.inf
    picked = (numbers[order], depths, share[order, columns], across[order, columns])
    return _project(world, camera, light, *picked)


def _sunlight(walls: Walls, light: Light) -> Floats:
    """(N,) brightness by the cosine between a wall's normal and the sun; 1 under clouds."""
    sun_x, sun_y = light.sun_direction
    cosine = (walls.along[:, 1] * sun_x - walls.along[:, 0] * sun_y) / walls.length_m
    return (1.0 + light.sun_strength * (np.maximum(cosine, 0.0) - 0.45)).astype(np.float32)


def _project(
    world: World,
    camera: Camera,
    light: Light,
    wall: NDArray[np.int64],
    depth: Floats,
    share: Floats,
    across: Floats,
) -> Layers:
    """Stages 2 and 3: image rows, picture coordinates and sunlight of the walls met."""
    walls, atlas = world.walls, world.walls.atlas
    distance = np.where(np.isfinite(depth), depth, np.float32(1e6))
    per_metre = np.float32(camera.focal_px) / distance
    centre = np.float32(camera.centre_px[1])
    top, bottom, length = walls.top_m[wall], walls.bottom_m[wall], walls.length_m[wall]
    size, corner = atlas.sizes_px[walls.picture[wall]], atlas.corners_px[walls.picture[wall]]
    # how many texels fall on one image pixel
    incidence = np.maximum(-across / length, np.float32(0.02))
    texels_x = size[..., 0] / length / per_metre / incidence
    texels_z = size[..., 1] / (top - bottom) / per_metre
    texel = corner[..., 0] + share * size[..., 0] - np.float32(0.5)
    column, _ = at_level(texel, level_for(texels_x), atlas.width)
    # a picture row grows with the image row; image row `top_row` shows the picture's upper edge
    top_row = centre - (top - camera.height_m) * per_metre
    row, scale = at_level(corner[..., 1] - np.float32(0.5), level_for(texels_z), atlas.height)
    slope = texels_z * scale
    return Layers(
        depth_m=depth,
        top_row=np.where(np.isfinite(depth), top_row, np.float32(np.inf)),
        bottom_row=centre + (camera.height_m - bottom) * per_metre,
        picture_column=column,
        first_row=row - slope * top_row,
        slope=slope,
        sunlight=_sunlight(walls, light)[wall],
    )


def _cover(layers: Layers, camera: Camera) -> NDArray[np.intp]:
    """Stage 2: which layer is seen in each pixel, as flat index into (LAYERS + 1, W)."""
    rows = np.arange(camera.height, dtype=np.float32)[:, None]
    count = len(layers.depth_m)
    seen = np.full((camera.height, camera.width), count, np.uint8)
    for number in reversed(range(count)):
        inside = (rows >= layers.top_row[number]) & (rows < layers.bottom_row[number])
        np.copyto(seen, number, where=inside)
    return seen * np.intp(camera.width) + np.arange(camera.width)


def _per_pixel(values: Floats, seen: NDArray[np.intp], elsewhere: float) -> Floats:
    """(H, W) the value of the layer that is seen, or `elsewhere`."""
    rest = np.full((1, values.shape[1]), elsewhere, np.float32)
    return np.vstack([values, rest]).ravel().take(seen)


@dataclass(frozen=True, eq=False)
class View:
    """What meets the eye before sun, haze and camera: (H,W,3), (H,W) and (H,W)."""

    colour: Picture
    depth_m: Floats  # along the optical axis; inf in the sky
    brightness: Floats


def look(world: World, camera: Camera, pose: PlanarPose, light: Light) -> View:
    """Stages 1 to 4: colour, depth and brightness of walls, ground and sky."""
    layers = cast(world, camera, pose, light)
    seen = _cover(layers, camera)
    rows = np.arange(camera.height, dtype=np.float32)[:, None]
    colour = cv2.remap(
        world.walls.atlas.image,
        _per_pixel(layers.picture_column, seen, 0.0),
        _per_pixel(layers.first_row, seen, 0.0) + rows * _per_pixel(layers.slope, seen, 0.0),
        cv2.INTER_LINEAR,
    )
    depth = _per_pixel(layers.depth_m, seen, np.inf)
    brightness = _per_pixel(layers.sunlight, seen, 1.0)
    is_open = seen >= len(layers.depth_m) * camera.width
    horizon = (camera.height + 1) // 2  # a row on the horizon itself is sky
    _add_sky(world, camera, pose, light, colour[:horizon], is_open[:horizon])
    below = View(colour[horizon:], depth[horizon:], brightness[horizon:])
    _add_ground(world, camera, pose, light, below, is_open[horizon:])
    return View(colour, depth, brightness)


def _add_sky(
    world: World,
    camera: Camera,
    pose: PlanarPose,
    light: Light,
    colour: Picture,
    is_open: NDArray[np.bool_],
) -> None:
    """Stage 4: the panorama above the horizon."""
    columns, rows = camera.columns(), camera.rows()[: len(colour), None]
    azimuth = (pose.yaw_rad - np.arctan(columns)) % (2 * np.pi)
    elevation = np.arctan(-rows / np.hypot(columns, 1.0))
    map_x = np.broadcast_to(azimuth * sky_module.PIXELS_PER_RAD, elevation.shape)
    map_y = np.maximum(sky_module.HEIGHT_PX - 1 - elevation * sky_module.PIXELS_PER_RAD, 0)
    panorama = cv2.remap(
        daylight(world, light).sky,
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    np.copyto(colour, panorama, where=is_open[..., None])


def _sample_ground(ground: Ground, columns: Floats, rows: Floats, levels: Floats) -> Picture:
    """Colours at map pixels (R,W); each image row has its own resolution level."""
    surface = np.empty((*columns.shape, 3), np.uint8)
    for level in np.unique(levels).astype(int).tolist():
        band, scale = levels == level, np.float32(0.5**level)
        surface[band] = cv2.remap(
            ground.pyramid[level],
            (columns[band] + 0.5) * scale - 0.5,
            (rows[band] + 0.5) * scale - 0.5,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    return surface


def _add_ground(
    world: World,
    camera: Camera,
    pose: PlanarPose,
    light: Light,
    below: View,
    is_open: NDArray[np.bool_],
) -> None:
    """Stage 4: each row below the horizon is a line on the ground at one depth."""
    ground, (ray_x, ray_y) = world.ground, _directions(camera, pose)
    depth = (camera.height_m / camera.rows()[-len(is_open) :])[:, None]
    columns = (pose.x_m - ground.left_m + depth * ray_x) * ground.pixels_per_m - 0.5
    rows = (ground.top_m - pose.y_m - depth * ray_y) * ground.pixels_per_m - 0.5
    # a pixel covers depth / f across and depth^2 / (f h) along: their geometric mean
    footprint_m = depth[:, 0] / camera.focal_px * np.sqrt(depth[:, 0] / camera.height_m)
    levels = level_for(footprint_m * ground.pixels_per_m)
    scale = SHADOW_PIXELS_PER_M / ground.pixels_per_m
    sunlit = cv2.remap(
        daylight(world, light).ground,
        columns * scale,
        rows * scale,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    surface = _sample_ground(ground, columns, rows, levels)
    np.copyto(below.colour, surface, where=is_open[..., None])
    np.copyto(below.depth_m, depth, where=is_open)
    np.copyto(below.brightness, sunlit, where=is_open)


def _add_things(world: World, camera: Camera, pose: PlanarPose, view: View, lit: Floats) -> None:
    """Stage 5: sprites from far to near, hidden where a wall is nearer."""
    places = np.array([(thing.x_m, thing.y_m) for thing in world.things]).reshape(-1, 2)
    places -= [pose.x_m, pose.y_m]
    ahead = places @ [np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)]
    right = places @ [np.sin(pose.yaw_rad), -np.cos(pose.yaw_rad)]
    reach = np.tan(camera.horizontal_fov_rad / 2)
    visible = (ahead > 0.5) & (np.abs(right) < ahead * reach + 3.0)
    for number in np.flatnonzero(visible)[np.argsort(-ahead[visible])]:
        thing = world.things[number]
        _add_thing(thing, camera, float(ahead[number]), float(right[number]), view, lit)


def _at_size(sprite: Sprite, per_metre: float) -> Floats:
    """The picture of the sprite at the resolution next to `per_metre` pixels a metre."""
    halvings = np.log2(sprite.pixels.shape[1] / (sprite.width_m * per_metre))
    return sprite.pyramid[int(np.clip(round(halvings), 0, len(sprite.pyramid) - 1))]


def _add_thing(
    thing: Thing, camera: Camera, depth: float, right: float, view: View, lit: Floats
) -> None:
    """Blends one sprite into the image `lit` (H,W,3)."""
    sprite, (centre_x, centre_y) = thing.sprite, camera.centre_px
    per_metre = camera.focal_px / depth
    width, height = sprite.width_m * per_metre, sprite.height_m * per_metre
    left = centre_x + right * per_metre - width / 2
    top = centre_y - (thing.bottom_m + sprite.height_m - camera.height_m) * per_metre
    x0, y0 = max(int(np.floor(left)), 0), max(int(np.floor(top)), 0)
    x1 = min(int(np.ceil(left + width)) + 1, camera.width)
    y1 = min(int(np.ceil(top + height)) + 1, camera.height)
    if x1 <= x0 or y1 <= y0:
        return
    picture = _at_size(sprite, per_metre)
    scale_x, scale_y = width / picture.shape[1], height / picture.shape[0]
    matrix = np.array(
        [[scale_x, 0, left + scale_x / 2 - x0], [0, scale_y, top + scale_y / 2 - y0]]
    )
    drawn = cv2.warpAffine(picture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    drawn *= (view.depth_m[y0:y1, x0:x1] > depth)[..., None]
    target = lit[y0:y1, x0:x1]
    target *= 1.0 - drawn[..., 3:] / 255.0
    target += drawn[..., :3]


def _in_haze(view: View, light: Light) -> Floats:
    """(H,W,3) brightness after sun and shadow, faded with distance."""
    lost = 1.0 - np.exp(-np.minimum(view.depth_m, SKY_HAZE_M) / light.haze_range_m)
    kept = cv2.merge([view.brightness * (1.0 - lost)] * 3)
    lit = cv2.multiply(view.colour, kept, dtype=cv2.CV_32F)
    return cv2.add(lit, cv2.merge([lost * HAZE_COLOUR] * 3))


@lru_cache(maxsize=4)
def _vignette(camera: Camera, strength: float) -> Floats:
    """(H,W,3) the lens loses light towards the corners."""
    columns, rows = camera.columns(), camera.rows()[:, None]
    radius2 = columns**2 + rows**2
    return cv2.merge([(1.0 - strength * radius2 / radius2.max()).astype(np.float32)] * 3)


def render(
    world: World,
    camera: Camera,
    pose: PlanarPose,
    light: Light = MORNING,
    rng: np.random.Generator | None = None,
) -> Picture:
    """The camera image (H, W, 3), uint8 RGB. Sensor noise is added only if `rng` is given."""
    view = look(world, camera, pose, light)
    lit = _in_haze(view, light)
    _add_things(world, camera, pose, view, lit)
    return light.develop(lit * _vignette(camera, light.vignette), rng)


def depth_map(world: World, camera: Camera, pose: PlanarPose) -> Floats:
    """(H, W) metres along the optical axis to the wall or ground; inf in the sky.

    Things (trees, lamps ...) are looked through.
    """
    return look(world, camera, pose, MORNING).depth_m
