"""From a world and a pose to a camera image.

1. Walls: for each image column a ray is cast in the plane; the nearest walls it meets are layers.
2. A layer covers the rows between its projected top and bottom; nearer layers cover farther ones.
3. Every covered pixel looks up its wall's picture, at a resolution that fits its distance.
4. Below the horizon the rest is ground, above it sky.
5. Sun, shadows and haze; then the things, from far to near; then weather and night.
6. The camera's own response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.pose import Pose
from selavpr_ros.simulation import sky as sky_module
from selavpr_ros.simulation.atlas import at_level, level_for
from selavpr_ros.simulation.camera import Camera
from selavpr_ros.simulation.canvas import Picture
from selavpr_ros.simulation.daylight import MAP_PIXELS_PER_M, daylight
from selavpr_ros.simulation.ground import Ground
from selavpr_ros.simulation.light import MORNING, Light, Season
from selavpr_ros.simulation.materials import FALLEN_LEAVES, SNOW, shining
from selavpr_ros.simulation.sprites import Sprite, Thing
from selavpr_ros.simulation.weather import add_weather, mirror_street
from selavpr_ros.simulation.world import Walls, World

LAYERS = 7  # walls behind each other in one column
NEAREST_M = 0.15
HAZE_COLOUR = 208.0
SKY_HAZE_M = 30.0  # the sky fades like a wall at this distance

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layers:
    """The walls along each image column, nearest first; arrays (LAYERS, W).

    Rows of a picture run linearly with image rows: picture row = first_row + slope * image row.
    """

    depth_m: Floats  # inf where there is no wall
    top_row: Floats
    snow_row: Floats  # the lowest row that snow can lie on
    bottom_row: Floats
    picture_column: Floats
    first_row: Floats
    slope: Floats
    sunlight: Floats


def _directions(camera: Camera, pose: Pose) -> Floats:
    """(2, W) rays in the plane whose component along the optical axis is one metre."""
    forward = np.array([np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)])
    right = np.array([forward[1], -forward[0]])
    return (forward[:, None] + right[:, None] * camera.columns()).astype(np.float32)


def _facing(walls: Walls, rays: Floats, pose: Pose) -> NDArray[np.int64]:
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


def cast(world: World, camera: Camera, pose: Pose, light: Light) -> Layers:
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
        snow_row=top_row + walls.snow_m[wall] * per_metre,
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
    """What is seen before sun, haze and camera: colour (H, W, 3) and four maps (H, W)."""

    colour: Picture
    depth_m: Floats  # along the optical axis; inf in the sky
    brightness: Floats
    cover: Floats  # share under snow or leaves
    shine: Floats  # 1 where lamps light the night

    def below(self, row: int) -> View:
        """The lower part, to be painted into."""
        return View(*(getattr(self, field.name)[row:] for field in fields(self)))


def look(world: World, camera: Camera, pose: Pose, light: Light) -> View:
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
    cover = (rows < _per_pixel(layers.snow_row, seen, -1.0)) * np.float32(light.snow)
    shine = shining(colour) if light.darkness > 0 else np.zeros_like(depth)
    is_open = seen >= len(layers.depth_m) * camera.width
    horizon = (camera.height + 1) // 2  # a row on the horizon itself is sky
    _add_sky(world, camera, pose, light, colour[:horizon], is_open[:horizon])
    view = View(colour, depth, brightness, cover, shine)
    _add_ground(world, camera, pose, light, view.below(horizon), is_open[horizon:])
    return view


def _add_sky(
    world: World,
    camera: Camera,
    pose: Pose,
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
    pose: Pose,
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
    scale = MAP_PIXELS_PER_M / ground.pixels_per_m
    maps = cv2.remap(
        daylight(world, light).ground,
        columns * scale,
        rows * scale,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    surface = _sample_ground(ground, columns, rows, levels)
    np.copyto(below.colour, surface, where=is_open[..., None])
    np.copyto(below.depth_m, depth, where=is_open)
    for number, target in enumerate((below.brightness, below.cover, below.shine)):
        np.copyto(target, maps[..., number], where=is_open)


def _add_things(
    things: Sequence[Thing],
    camera: Camera,
    pose: Pose,
    light: Light,
    view: View,
    lit: Floats,
) -> None:
    """Stage 5: sprites from far to near, hidden where a wall is nearer."""
    places = np.array([(thing.x_m, thing.y_m) for thing in things]).reshape(-1, 2)
    places -= [pose.x_m, pose.y_m]
    ahead = places @ [np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)]
    right = places @ [np.sin(pose.yaw_rad), -np.cos(pose.yaw_rad)]
    reach = np.tan(camera.horizontal_fov_rad / 2)
    visible = (ahead > 0.5) & (np.abs(right) < ahead * reach + 3.0)
    for number in np.flatnonzero(visible)[np.argsort(-ahead[visible])]:
        sprite = things[number].sprite.dressed(light)
        depth, aside = float(ahead[number]), float(right[number])
        _add_thing(sprite, camera, light, depth, aside, view, lit)


def _at_size(sprite: Sprite, per_metre: float) -> Floats:
    """The picture of the sprite at the resolution next to `per_metre` pixels a metre."""
    halvings = np.log2(sprite.pixels.shape[1] / (sprite.width_m * per_metre))
    return sprite.pyramid[int(np.clip(round(halvings), 0, len(sprite.pyramid) - 1))]


def _add_thing(
    sprite: Sprite,
    camera: Camera,
    light: Light,
    depth: float,
    right: float,
    view: View,
    lit: Floats,
) -> None:
    """Blends one sprite into the image `lit` (H,W,3), and into depth and lamps of the view."""
    centre_x, centre_y = camera.centre_px
    per_metre = camera.focal_px / depth
    width, height = sprite.width_m * per_metre, sprite.height_m * per_metre
    left = centre_x + right * per_metre - width / 2
    top = centre_y - (sprite.height_m - camera.height_m) * per_metre
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
    solid = drawn[..., 3] > 127.0
    view.depth_m[y0:y1, x0:x1][solid] = depth
    if light.darkness > 0:
        view.shine[y0:y1, x0:x1][solid] = shining(drawn[..., :3])[solid]


def _colour(view: View, light: Light) -> Floats | Picture:
    """(H, W, 3) the colours under their share of snow or leaves."""
    if light.season is Season.SUMMER or light.cover <= 0:
        return view.colour
    cover = SNOW if light.season is Season.WINTER else FALLEN_LEAVES
    share = view.cover[..., None]
    return view.colour * (1 - share) + np.array(cover, np.float32) * share


def _in_haze(view: View, light: Light) -> Floats:
    """(H,W,3) brightness after sun and shadow, faded with distance."""
    lost = 1.0 - np.exp(-np.minimum(view.depth_m, SKY_HAZE_M) / light.haze_range_m)
    kept = cv2.merge([view.brightness * (1.0 - lost)] * 3)
    lit = cv2.multiply(_colour(view, light), kept, dtype=cv2.CV_32F)
    return cv2.add(lit, cv2.merge([lost * HAZE_COLOUR] * 3))


def _is_ground(view: View, camera: Camera) -> NDArray[np.bool_]:
    """(H, W) whether the ground is seen, with nothing before it."""
    ground_m = camera.height_m / np.maximum(camera.rows(), 1e-6)[:, None]
    return (view.depth_m > 0.999 * ground_m) & np.isfinite(view.depth_m)


@lru_cache(maxsize=4)
def _vignette(camera: Camera, strength: float) -> Floats:
    """(H,W,3) the lens loses light towards the corners."""
    columns, rows = camera.columns(), camera.rows()[:, None]
    radius2 = columns**2 + rows**2
    return cv2.merge([(1.0 - strength * radius2 / radius2.max()).astype(np.float32)] * 3)


def render(
    world: World,
    camera: Camera,
    pose: Pose,
    light: Light = MORNING,
    rng: np.random.Generator | None = None,
    passers_by: Sequence[Thing] = (),
) -> Picture:
    """The camera image (H, W, 3), uint8 RGB.

    Effects of the moment (sensor noise, motion blur, rain drops and snow flakes) are added only if
    `rng` is given. `passers_by` are drawn in addition to the things of the world.
    """
    view = look(world, camera, pose, light)
    lit = _in_haze(view, light)
    if light.rain > 0:
        mirror_street(lit, _is_ground(view, camera), light.rain)
    _add_things((*world.things, *passers_by), camera, pose, light, view, lit)
    lit = add_weather(lit, view.depth_m, view.shine, light, rng)
    return light.develop(lit * _vignette(camera, light.vignette), rng)


def depth_map(world: World, camera: Camera, pose: Pose) -> Floats:
    """(H, W) metres along the optical axis to the wall or ground; inf in the sky.

    Things (trees, lamps, ...) are left out.
    """
    return look(world, camera, pose, MORNING).depth_m
