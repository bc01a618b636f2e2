"""Simulated streets for training; every visit has a season, weather and passers-by of its own.

    python -m selavpr_ros.training.simulated OUTPUT --worlds 20 --visits 4
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from selavpr_ros.files import appearing
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.image_folders import POSE_COLUMNS, POSES
from selavpr_ros.simulation import Camera, Light, World, draw_passers_by, render

FIRST_WORLD = 1000  # the worlds below are for tests and demos
SPOT_SPACING_M = 3.0
LATERAL_SIGMA_M = 0.5
HEADING_SIGMA_RAD = 0.08
FARTHEST_SIGMAS = 2.0  # no offset is larger

_world = lru_cache(maxsize=4)(World.generate)  # each takes seconds and 150 MB


@dataclass(frozen=True)
class SimulatedPlaces:
    """Images drawn afresh from any number of worlds; equal arguments give equal pixels."""

    camera: Camera = Camera(width=256, height=256)
    length_m: float = 160.0
    ground_pixels_per_m: float = 16.0  # as fine as a camera of this size can see

    def world(self, seed: int) -> World:
        """The town of a seed; the latest few are kept."""
        return _world(seed, self.length_m, self.ground_pixels_per_m)

    def spots_m(self, world_seed: int) -> NDArray[np.float64]:
        """(N,) metres along the route at which the places lie, `SPOT_SPACING_M` apart."""
        return np.arange(0.0, self.world(world_seed).route.length_m, SPOT_SPACING_M)

    def read(
        self, world_seed: int, way_m: float, visit_seed: int
    ) -> tuple[NDArray[np.uint8], Pose]:
        """(H, W, 3) uint8 RGB near a point of the route, and where exactly the camera stood.

        A visit has one season, weather and light. Passers-by, noise, and the offsets from the
        route (`LATERAL_SIGMA_M`, `HEADING_SIGMA_RAD`) change from image to image.
        """
        world = self.world(world_seed)
        light = Light.draw(np.random.default_rng([visit_seed, world_seed]))
        rng = np.random.default_rng([visit_seed, world_seed, round(1000 * way_m)])
        sigmas = np.clip(rng.standard_normal(2), -FARTHEST_SIGMAS, FARTHEST_SIGMAS)
        lateral_m, heading_rad = (sigmas * (LATERAL_SIGMA_M, HEADING_SIGMA_RAD)).tolist()
        pose = world.route.pose_at(way_m, lateral_m, heading_rad)
        passers_by = draw_passers_by(rng, world, pose)
        return render(world, self.camera, pose, light, rng, passers_by), pose


def write_world(folder: Path, places: SimulatedPlaces, seed: int, visits: int) -> None:
    """Write all visits to a world as visit_00_0000.jpg ..., and their poses as poses.csv.

    The poses come last: a folder that has them is finished, and left as it is.
    """
    if (folder / POSES).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for visit in range(visits):
        for spot, way_m in enumerate(places.spots_m(seed).tolist()):
            image, pose = places.read(seed, way_m, visit)
            name = f'visit_{visit:02d}_{spot:04d}.jpg'
            cv2.imwrite(str(folder / name), image[..., ::-1])
            rows.append((name, pose.x_m, pose.y_m, pose.yaw_rad))
    with appearing(folder / POSES) as unfinished, unfinished.open('w', newline='') as file:
        csv.writer(file).writerows([POSE_COLUMNS, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('output', type=Path, help='folder; existing worlds are skipped')
    parser.add_argument('--worlds', type=int, default=20, help='default: %(default)s')
    parser.add_argument('--visits', type=int, default=2, help='default: %(default)s')
    arguments = parser.parse_args()
    places = SimulatedPlaces()
    for seed in tqdm(range(FIRST_WORLD, FIRST_WORLD + arguments.worlds), unit='world'):
        write_world(arguments.output / f'world_{seed}', places, seed, arguments.visits)


if __name__ == '__main__':
    main()
