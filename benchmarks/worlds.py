"""Simulated worlds that a robot revisits: towns, days, and wings and floors that look alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from selavpr_ros.cli.simulate import DAY_NS, SEEDS_BETWEEN, START_SHARE
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PoseTruth
from selavpr_ros.simulation import (
    Camera,
    DriveSettings,
    Light,
    Trajectory,
    World,
    drive,
    take_images,
)
from selavpr_ros.simulation.light import LAP_LIGHTS, MORNING

CAMERA = Camera(width=320, height=240)
WING_M, STOREY_M = 200.0, 4.0
LAP_NS = 10**12


class Visit(NamedTuple):
    """An image, its stamp in ns, and the robot's pose by odometry and by the truth."""

    image: np.ndarray
    stamp_ns: int
    told: Pose
    true: Pose


@dataclass(frozen=True)
class Part:
    """A drive; in another copy of the world if it is moved by `shift_m` (x, y, z)."""

    trajectory: Trajectory
    lights: Sequence[Light]
    seed: int
    session: int = 1
    shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def place(self, pose: Pose) -> Pose:
        """The simulator's pose in this copy."""
        return Pose(pose.translation_m + self.shift_m, pose.rotation)

    def visits(self, world: World) -> Iterator[Visit]:
        """The images that the robot sees, with its poses."""
        for frame in take_images(world, CAMERA, self.trajectory, self.lights, self.seed):
            yield Visit(frame.image, frame.stamp_ns, self.place(frame.odometry_pose),
                        self.place(frame.true_pose))


def _with_storeys_apart(pose: Pose) -> Pose:
    return Pose(pose.translation_m * (1.0, 1.0, 2.0), pose.rotation)


@dataclass(frozen=True)
class Scenario:
    """A world and the drives through it."""

    world: World
    parts: Sequence[Part]

    def __len__(self) -> int:
        return sum(len(part.trajectory.image_stamps_ns) for part in self.parts)

    @property
    def is_one_way(self) -> bool:
        """Whether the robot is never put into another copy."""
        return len({part.shift_m for part in self.parts}) == 1

    def truth(self) -> PoseTruth:
        """True poses of the images, with heights doubled, or two storeys would be one place."""
        return PoseTruth((stamp_ns, _with_storeys_apart(part.place(
            part.trajectory.true_pose_at(stamp_ns))))
            for part in self.parts for stamp_ns in part.trajectory.image_stamps_ns.tolist())


def laps(seed: int, length_m: float, rate_hz: float) -> Scenario:
    """Two laps of a town, the second beside the first and in another light."""
    world = World.generate(seed, length_m)
    settings = DriveSettings(laps=2, image_rate_hz=rate_hz)
    return Scenario(world, [Part(drive(world.route, settings, seed), LAP_LIGHTS, seed)])


def days(seed: int, length_m: float, rate_hz: float) -> Scenario:
    """A lap a day in the same town, each in another light, from another start."""
    world = World.generate(seed, length_m)
    parts = []
    for day in range(3):
        settings = DriveSettings(
            laps=1, image_rate_hz=rate_hz, start_ns=DriveSettings.start_ns + day * DAY_NS,
            start_m=day * START_SHARE * length_m)
        trajectory = drive(world.route, settings, seed + SEEDS_BETWEEN * day)
        parts.append(Part(trajectory, LAP_LIGHTS[day:], seed + SEEDS_BETWEEN * day, day + 1))
    return Scenario(world, parts)


def _copies(
    seed: int, length_m: float, rate_hz: float, shifts_m: Sequence[tuple[float, float, float]]
) -> Scenario:
    """A lap in each copy of a town, all in one light and one recording."""
    world, parts = World.generate(seed, length_m), []
    for lap, shift_m in enumerate(shifts_m):
        settings = DriveSettings(laps=1, image_rate_hz=rate_hz, start_ns=10**18 + lap * LAP_NS)
        trajectory = drive(world.route, settings, seed + lap)
        parts.append(Part(trajectory, (MORNING,), seed + lap, shift_m=shift_m))
    return Scenario(world, parts)


def wings(seed: int, length_m: float, rate_hz: float) -> Scenario:
    """A lap in one wing of a building, one in another that looks alike, one in the first."""
    return _copies(seed, length_m, rate_hz, [(wing * WING_M, 0.0, 0.0) for wing in (0, 1, 0)])


def floors(seed: int, length_m: float, rate_hz: float) -> Scenario:
    """A lap on each of three floors that look alike, and one on the first again."""
    shifts_m = [(0.0, 0.0, floor * STOREY_M) for floor in (0, 1, 2, 0)]
    return _copies(seed, length_m, rate_hz, shifts_m)


SCENARIOS: dict[str, Callable[[int, float, float], Scenario]] = {
    'laps': laps, 'days': days, 'wings': wings, 'floors': floors}
