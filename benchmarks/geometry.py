"""How well and how fast the geometric check finds the movement between two images of a town.

  python benchmarks/geometry.py
  python benchmarks/geometry.py --side 31 --wrong 0.3

Local features lie on a grid. Each of the query's is paired with the cell in which the matched
image shows the same point of the town, and a share of the pairs is wrong. The errors are medians
over the places: of the rotation, of the direction of the movement, and with depth of the position;
'honest' is the share of positions or directions whose error is within two standard deviations of
the covariance.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from selavpr_ros.evaluation.measure import median_ms
from selavpr_ros.images.camera import Camera
from selavpr_ros.matching.geometry import FUNDAMENTAL, PNP, verify
from selavpr_ros.matching.relative_pose import RelativePose
from selavpr_ros.simulation import Camera as TownCamera
from selavpr_ros.simulation import World, depth_map
from selavpr_ros.text import line

TOWN = TownCamera(width=640, height=480)
SIZE = (TOWN.height, TOWN.width)
MATRIX = np.array([[TOWN.focal_px, 0.0, TOWN.centre_px[0]],
                   [0.0, TOWN.focal_px, TOWN.centre_px[1]], [0.0, 0.0, 1.0]])
CAMERA = Camera(MATRIX, np.zeros(5), SIZE)
AHEAD_M, ASIDE_M, TURN_RAD = 0.6, 0.7, 0.08
LENGTH_M, STEP_M, FARTHEST_M = 120.0, 6.0, 60.0
COLUMNS = ('features', 'check', 'ms', 'rotation', 'direction', 'position', 'honest')
WIDTHS = (12,) * len(COLUMNS)


@dataclass(frozen=True)
class View:
    """Two images of one place.

    Attributes:
        depth_m: (H, W) depth of the query image in metres.
        pairs: (P, 2) cells of the grid, of the query image and of the matched one.
        rotation, translation: of the query camera in the frame of the matched one.
    """

    depth_m: np.ndarray
    pairs: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


def grid(side: int) -> np.ndarray:
    """(side * side, 2) centres of the cells, shares of width and height."""
    at = (np.arange(side) + 0.5) / side
    return np.stack([np.tile(at, side), np.repeat(at, side)], axis=1)


def view(world: World, way_m: float, side: int, wrong: float, rng: np.random.Generator) -> View:
    """A query that is ahead and to the left of the matched image, and turned a little left."""
    matched = world.route.pose_at(way_m)
    cos, sin = math.cos(matched.yaw_rad), math.sin(matched.yaw_rad)
    query = type(matched)(matched.x_m + cos * AHEAD_M - sin * ASIDE_M,
                          matched.y_m + sin * AHEAD_M + cos * ASIDE_M, matched.yaw_rad + TURN_RAD)
    rotation = cv2.Rodrigues(np.array([0.0, -TURN_RAD, 0.0]))[0]
    translation = np.array([-ASIDE_M, 0.0, AHEAD_M])
    depth_m = depth_map(world, TOWN, query)
    pixels = grid(side) * SIZE[::-1]
    depth = depth_m[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    rays = np.hstack([(pixels - TOWN.centre_px) / TOWN.focal_px, np.ones((len(pixels), 1))])
    seen = np.flatnonzero(depth < FARTHEST_M)
    there = (rays[seen] * depth[seen, None]) @ rotation.T + translation
    ahead = there[:, 2] > 0.3
    at = there[ahead, :2] / there[ahead, 2:] * TOWN.focal_px + TOWN.centre_px
    inside = ((at >= 0) & (at < SIZE[::-1])).all(1)
    cell = (at[inside] / SIZE[::-1] * side).astype(int)
    pairs = np.stack([seen[ahead][inside], cell[:, 1] * side + cell[:, 0]], axis=1)
    chance = rng.random(len(pairs)) < wrong
    pairs[chance, 1] = rng.integers(0, side * side, chance.sum())
    return View(np.where(np.isfinite(depth_m), depth_m, np.nan).astype(np.float32), pairs,
                rotation, translation)


def views(side: int, wrong: float, seeds: int) -> Iterator[View]:
    """Places along the ways of some towns."""
    for seed in range(seeds):
        world, rng = World.generate(seed, LENGTH_M), np.random.default_rng(seed)
        for way_m in np.arange(0.0, LENGTH_M, STEP_M):
            yield view(world, float(way_m), side, wrong, rng)


def errors(pose: RelativePose, truth: View) -> tuple[float, float, float, bool]:
    """Degrees of rotation and of direction, metres (NaN without scale), and whether honest."""
    turn = np.linalg.norm(cv2.Rodrigues(pose.rotation @ truth.rotation.T)[0])
    ahead = truth.translation / np.linalg.norm(truth.translation)
    told = pose.translation / np.linalg.norm(pose.translation)
    angle = math.degrees(math.acos(float(np.clip(ahead @ told, -1.0, 1.0))))
    off = pose.translation - (truth.translation if pose.is_metric else ahead)
    normalised = float(off @ np.linalg.solve(pose.covariance[:3, :3], off))
    metres = float(np.linalg.norm(off)) if pose.is_metric else math.nan
    return math.degrees(turn), angle, metres, normalised < 3 * 2.0**2


def row(name: str, side: int, seen: list[View]) -> tuple[str, ...]:
    """Cells of one line."""
    camera = None if name == 'pixels' else CAMERA
    method = PNP if name == 'depth' else FUNDAMENTAL
    positions, found, times = grid(side), [], []
    for each in tqdm(seen, desc=f'{side} x {side}, {name}', unit='view', leave=False):
        depth_m = each.depth_m if name == 'depth' else None

        def check(each: View = each, depth_m: np.ndarray | None = depth_m) -> None:
            verify(each.pairs, positions, SIZE, method, camera, depth_m)

        times.append(median_ms(check, 3))
        pose = verify(each.pairs, positions, SIZE, method, camera, depth_m).pose
        if pose:
            found.append(errors(pose, each))
    cells = (f'{side} x {side}', name, f'{np.median(times):.1f}')
    if not found:
        return (*cells, '-', '-', '-', '-')
    turn, angle, metres, honest = np.array(found, float).T
    position = '-' if np.isnan(metres).all() else f'{np.median(metres):.2f} m'
    return (*cells, f'{np.median(turn):.1f} deg', f'{np.median(angle):.0f} deg', position,
            f'{honest.mean():.0%} of {len(found)}')


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--side', type=int, nargs='+', default=[31, 61], metavar='N',
                        help='features along a side: 31 embedded, 61 SelaVPR (default: both)')
    parser.add_argument('--wrong', type=float, default=0.3, metavar='SHARE',
                        help='share of wrong pairs (default: %(default)g)')
    parser.add_argument('--seeds', type=int, default=3,
                        help='number of towns (default: %(default)s)')
    args = parser.parse_args()
    print(line(COLUMNS, WIDTHS, 0))
    for side in args.side:
        seen = list(views(side, args.wrong, args.seeds))
        for name in ('pixels', 'camera', 'depth'):
            print(line(row(name, side, seen), WIDTHS, 0), flush=True)


if __name__ == '__main__':
    main()
