"""An overview of a simulated drive: the town from above and the same places in two laps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selavpr_ros.errors import VprError
from selavpr_ros.simulation.camera import Camera
from selavpr_ros.simulation.canvas import Colour, Picture, to_picture
from selavpr_ros.simulation.daylight import sunlit_ground
from selavpr_ros.simulation.light import LAP_LIGHTS, MORNING
from selavpr_ros.simulation.renderer import render
from selavpr_ros.simulation.robot import Trajectory
from selavpr_ros.simulation.world import World

PLACES = 6
GAP_PX = 8
MAP_MARGIN_M = 13.0
PAPER: Colour = (250, 250, 248)
LAP_COLOURS: list[Colour] = [(30, 110, 235), (245, 130, 20)]
ODOMETRY_COLOUR: Colour = (255, 255, 255)
ROOFS: list[Colour] = [(168, 92, 70), (134, 84, 74), (120, 120, 126), (156, 120, 88)]


def visits(trajectory: Trajectory) -> list[tuple[int, int]]:
    """Rows of the trajectory at some places of the first lap and the nearest of the second."""
    first, second = (np.flatnonzero(trajectory.laps == lap) for lap in (0, 1))
    if not len(second):
        raise VprError('the overview compares two laps: drive at least --laps 2')
    chosen = first[((np.arange(PLACES) + 0.5) / PLACES * len(first)).astype(int)]
    later = trajectory.true_poses[second, :2]
    return [
        (row, int(second[np.hypot(*(later - trajectory.true_poses[row, :2]).T).argmin()]))
        for row in chosen.tolist()
    ]


def write_text(image: Picture, text: str, corner: tuple[int, int], scale: float) -> None:
    """White letters with a dark rim, readable on anything."""
    rim = [(dx, dy, 20) for dx in (-2, 0, 2) for dy in (-2, 0, 2)]
    for dx, dy, grey in (*rim, (0, 0, 255)):
        colour = (grey, grey, grey)
        spot = (corner[0] + dx, corner[1] + dy)
        cv2.putText(image, text, spot, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def draw_town(world: World) -> Picture:
    """The ground with shadows, roofs and trees, north up, at the ground's scale."""
    ground = world.ground
    light = cv2.resize(sunlit_ground(world, MORNING), ground.image.shape[1::-1])
    town = to_picture(ground.image * light[..., None])
    rng = np.random.default_rng(world.seed)
    for block in sorted(world.blocks, key=lambda b: b.height_m):
        corners = ground.pixel(block.lot.corners)
        roof = np.array(ROOFS[int(rng.integers(len(ROOFS)))]) * rng.uniform(0.85, 1.15)
        inner = corners.mean(axis=0) * 0.3 + corners * 0.7
        for outline, tone in ((corners, 0.8), (inner, 1.0)):
            colour = np.clip(roof * tone, 0, 255).tolist()
            cv2.fillPoly(town, [outline.round().astype(np.int32)], colour, cv2.LINE_AA)
    for thing in world.things:
        if thing.sprite.width_m > 2.0:
            middle = ground.pixel(np.array([thing.x_m, thing.y_m])).round().astype(int)
            radius = round(thing.sprite.width_m * 0.4 * ground.pixels_per_m)
            cv2.circle(town, middle.tolist(), radius, (86, 122, 64), -1, cv2.LINE_AA)
    return town


def odometry_in_map(trajectory: Trajectory) -> NDArray[np.float64]:
    """(T, 2) the way by odometry, moved and turned to the true start."""
    start = trajectory.true_poses[0]
    cos, sin = np.cos(start[2]), np.sin(start[2])
    turn = np.array([[cos, sin], [-sin, cos]])
    return trajectory.odometry_poses[:, :2] @ turn + start[:2]


def draw_map(world: World, trajectory: Trajectory, places: list[int], height_px: int) -> Picture:
    """The town from above, cut to the streets, with both laps and the numbered places."""
    town, ground = draw_town(world), world.ground
    width = max(3, round(0.3 * ground.pixels_per_m))
    lines = [(odometry_in_map(trajectory), ODOMETRY_COLOUR, max(2, width // 3))]
    lines += [
        (trajectory.true_poses[trajectory.laps == lap, :2], colour, width)
        for lap, colour in enumerate(LAP_COLOURS)
    ]
    for points, colour, thickness in lines:
        pixels = ground.pixel(points).round().astype(np.int32)
        cv2.polylines(town, [pixels], False, colour, thickness, cv2.LINE_AA)
    points = ground.pixel(world.route.points)
    margin = MAP_MARGIN_M * ground.pixels_per_m
    low = np.maximum(points.min(axis=0) - margin, 0).astype(int)
    high = (points.max(axis=0) + margin).astype(int)
    cut = town[low[1] : high[1], low[0] : high[0]]
    scale = height_px / cut.shape[0]
    cut = cv2.resize(cut, (round(cut.shape[1] * scale), height_px), interpolation=cv2.INTER_AREA)
    draw_legend(cut)
    for number, row in enumerate(places):
        spot = (ground.pixel(trajectory.true_poses[row, :2]) - low) * scale
        draw_number(cut, number + 1, spot.round().astype(int).tolist())
    return cut


def draw_legend(image: Picture) -> None:
    """Draws the legend of the lines in the lower left corner."""
    lines = [*zip(('lap 1', 'lap 2'), LAP_COLOURS, strict=True), ('odometry', ODOMETRY_COLOUR)]
    for number, (name, colour) in enumerate(reversed(lines)):
        row = image.shape[0] - 24 - 32 * number
        cv2.line(image, (20, row), (64, row), (20, 20, 20), 9, cv2.LINE_AA)
        cv2.line(image, (20, row), (64, row), colour, 6, cv2.LINE_AA)
        write_text(image, name, (78, row + 7), 0.75)


def draw_number(image: Picture, number: int, spot: list[int]) -> None:
    """A numbered pin."""
    cv2.circle(image, spot, 15, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.circle(image, spot, 15, (255, 255, 255), 2, cv2.LINE_AA)
    write_text(image, str(number), (spot[0] - 6, spot[1] + 6), 0.6)


def draw_pair(
    world: World, camera: Camera, trajectory: Trajectory, rows: tuple[int, int]
) -> Picture:
    """A place in the first lap above the same place in the second."""
    views = []
    for lap, row in enumerate(rows):
        pose = trajectory.true_pose_at(int(trajectory.stamps_ns[row]))
        view = render(world, camera, pose, LAP_LIGHTS[lap], np.random.default_rng(row))
        cv2.rectangle(view, (0, 0), (camera.width - 1, camera.height - 1), LAP_COLOURS[lap], 4)
        write_text(view, f'lap {lap + 1}', (12, camera.height - 14), 0.6)
        views.append(view)
    return np.vstack(views)


def beside(pictures: list[Picture]) -> Picture:
    """Pictures of the same height in a row with gaps."""
    gap = np.full((pictures[0].shape[0], GAP_PX, 3), PAPER, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.hstack([*parts, gap])


def draw_overview(world: World, camera: Camera, trajectory: Trajectory) -> Picture:
    """Map on the left, on the right pairs of views of the numbered places."""
    rows = visits(trajectory)
    pairs = []
    for number, visit in enumerate(rows):
        pair = draw_pair(world, camera, trajectory, visit)
        draw_number(pair, number + 1, [24, 24])
        pairs.append(pair)
    half = PLACES // 2
    upper, lower = beside(pairs[:half]), beside(pairs[half:])
    gap = np.full((GAP_PX, upper.shape[1], 3), PAPER, np.uint8)
    views = np.vstack([gap, upper, gap, lower, gap])
    town = draw_map(world, trajectory, [first for first, _ in rows], len(views) - 2 * GAP_PX)
    town = cv2.copyMakeBorder(town, GAP_PX, GAP_PX, GAP_PX, 0, cv2.BORDER_CONSTANT, value=PAPER)
    return np.hstack([town, views])


def save_picture(path: Path, picture: Picture) -> None:
    """Writes an RGB picture; the suffix says in which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise VprError(f'cannot write the picture {path}: is its suffix .png or .jpg?')
