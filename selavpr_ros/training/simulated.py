"""Simulated streets as a training folder: one walk a world, every spot in two kinds of light."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from selavpr_ros.simulation import Camera, Light, World, render

SPOT_SPACING_M = 3.0
LATERAL_SIGMA_M = 0.5
HEADING_SIGMA_RAD = 0.08
CAMERA = Camera(width=256, height=256)


def render_world(folder: Path, seed: int) -> None:
    """Drive once through a world; write two images a spot: 00000.jpg, 00001.jpg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    world = World.generate(seed=seed)
    ways_m = np.arange(0, world.route.length_m, SPOT_SPACING_M).repeat(2)
    for number, way_m in enumerate(ways_m):
        lateral_m, heading_rad = rng.normal(size=2) * (LATERAL_SIGMA_M, HEADING_SIGMA_RAD)
        pose = world.route.pose_at(
            way_m=way_m, lateral_m=lateral_m, heading_offset_rad=heading_rad
        )
        image = render(world, CAMERA, pose, Light.draw(rng), rng)
        cv2.imwrite(str(folder / f'{number:05d}.jpg'), image[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('output', type=Path)
    parser.add_argument('--worlds', type=int, default=20)
    arguments = parser.parse_args()
    for seed in tqdm(range(1000, 1000 + arguments.worlds), unit='world'):
        render_world(arguments.output / f'world_{seed}', seed)


if __name__ == '__main__':
    main()
