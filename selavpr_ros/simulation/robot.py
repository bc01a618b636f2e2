"""A robot that drives laps through a world: its way, its odometry and its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selavpr_ros.pose import Pose
from selavpr_ros.simulation.camera import Camera
from selavpr_ros.simulation.canvas import Picture
from selavpr_ros.simulation.light import LAP_LIGHTS, Light
from selavpr_ros.simulation.renderer import render
from selavpr_ros.simulation.route import Route
from selavpr_ros.simulation.world import World

NANOSECONDS = 1_000_000_000
FIRST_IMAGE_S = 0.107  # not on an odometry stamp, as on a real robot


@dataclass(frozen=True)
class DriveSettings:
    """How the robot drives and how good its odometry is."""

    laps: int = 2
    speed_m_per_s: float = 1.5
    image_rate_hz: float = 10.0
    odometry_rate_hz: float = 50.0
    start_ns: int = 1_700_000_000 * NANOSECONDS
    start_m: float = 0.0  # along the route, where the first lap begins
    lateral_m: float = 0.7  # the second lap runs this much further left, the third further right
    change_lane_m: float = 8.0  # way on which the robot changes from one lap's lane to the next
    wander_m: float = 0.08  # slow swaying round the lane
    wobble_rad: float = 0.025  # slow swaying of the heading
    scale_error: float = 0.012  # share by which the wheels overestimate the way
    heading_drift_rad_per_m: float = 0.001
    position_noise_m: float = 0.01  # per square root of a metre
    heading_noise_rad: float = 0.004  # per square root of a metre


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The drive at the stamps of the odometry. Poses are rows x, y, yaw with unwrapped yaw."""

    stamps_ns: NDArray[np.int64]  # (T,)
    true_poses: NDArray[np.float64]  # (T, 3) in the map frame
    odometry_poses: NDArray[np.float64]  # (T, 3) in the odometry frame, which starts at zero
    laps: NDArray[np.int64]  # (T,) 0 in the first lap
    image_stamps_ns: NDArray[np.int64]  # (M,)

    def true_pose_at(self, stamp_ns: int) -> Pose:
        """Interpolated ground truth."""
        return self._interpolate(self.true_poses, stamp_ns)

    def odometry_pose_at(self, stamp_ns: int) -> Pose:
        """Interpolated odometry."""
        return self._interpolate(self.odometry_poses, stamp_ns)

    def lap_at(self, stamp_ns: int) -> int:
        """Number of the lap, from 0."""
        return int(self.laps[np.searchsorted(self.stamps_ns, stamp_ns, side='right') - 1])

    def _interpolate(self, poses: NDArray[np.float64], stamp_ns: int) -> Pose:
        after = self.stamps_ns - self.stamps_ns[0]
        at = stamp_ns - self.stamps_ns[0]
        x, y, yaw = (float(np.interp(at, after, poses[:, i])) for i in range(3))
        return Pose.planar(x, y, yaw)


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image and where it was taken."""

    stamp_ns: int
    lap: int
    image: Picture  # (H, W, 3) RGB
    true_pose: Pose
    odometry_pose: Pose


def _sway(rng: np.random.Generator, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slow random swinging between about -1 and 1."""
    periods, phases = rng.uniform(5.0, 23.0, 4), rng.uniform(0.0, 2 * np.pi, 4)
    waves = np.sin(2 * np.pi * times_s[:, None] / periods + phases)
    return waves.mean(axis=1) * 1.4


def drive(route: Route, settings: DriveSettings | None = None, seed: int = 0) -> Trajectory:
    """Drives the laps along a route and measures the way with drifting odometry."""
    settings = settings or DriveSettings()
    rng = np.random.default_rng([seed, 1])
    duration_s = settings.laps * route.length_m / settings.speed_m_per_s
    times_s = np.arange(0.0, duration_s, 1.0 / settings.odometry_rate_hz)
    way_m = np.maximum(times_s * settings.speed_m_per_s + 0.3 * _sway(rng, times_s), 0.0)
    aside_m = _lateral(route, settings, rng, times_s, way_m)
    true_poses = route.poses(settings.start_m + way_m, aside_m)
    true_poses[:, 2] += settings.wobble_rad * _sway(rng, times_s)
    images_s = np.arange(FIRST_IMAGE_S, times_s[-1], 1.0 / settings.image_rate_hz)
    return Trajectory(
        stamps_ns=settings.start_ns + _nanoseconds(times_s),
        true_poses=true_poses,
        odometry_poses=measure(true_poses, settings, rng),
        laps=np.minimum(way_m // route.length_m, settings.laps - 1).astype(np.int64),
        image_stamps_ns=settings.start_ns + _nanoseconds(images_s),
    )


def _nanoseconds(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.round(times_s * NANOSECONDS).astype(np.int64)


def _lateral(
    route: Route,
    settings: DriveSettings,
    rng: np.random.Generator,
    times_s: NDArray[np.float64],
    way_m: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Metres to the left of the route: the lane of each lap, blended, and some swaying."""
    lanes = np.array([(0.0, 1.0, -1.0)[lap % 3] for lap in range(settings.laps + 1)])
    lap, rest = np.divmod(way_m, route.length_m)
    lap = lap.astype(int)
    share = np.clip(rest / settings.change_lane_m, 0.0, 1.0)
    smooth = share * share * (3 - 2 * share)
    before, now = lanes[np.maximum(lap - 1, 0)], lanes[lap]
    lane = before + (now - before) * smooth
    return settings.lateral_m * lane + settings.wander_m * _sway(rng, times_s)


def measure(
    true_poses: NDArray[np.float64], settings: DriveSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Odometry (T, 3): the true steps in the robot's frame with their errors, summed up."""
    cos, sin = np.cos(true_poses[:-1, 2]), np.sin(true_poses[:-1, 2])
    dx, dy, turn = np.diff(true_poses, axis=0).T
    ahead, aside = cos * dx + sin * dy, cos * dy - sin * dx
    way = np.hypot(ahead, aside)
    noise = rng.standard_normal((3, len(way))) * np.sqrt(way)
    ahead = ahead * (1 + settings.scale_error) + noise[0] * settings.position_noise_m
    aside = aside + noise[1] * settings.position_noise_m * 0.5
    turn = turn + settings.heading_drift_rad_per_m * way + noise[2] * settings.heading_noise_rad
    yaw = np.concatenate([[0.0], np.cumsum(turn)])
    x = np.cumsum(np.cos(yaw[:-1]) * ahead - np.sin(yaw[:-1]) * aside)
    y = np.cumsum(np.sin(yaw[:-1]) * ahead + np.cos(yaw[:-1]) * aside)
    return np.column_stack([np.append(0.0, x), np.append(0.0, y), yaw])


def take_images(
    world: World,
    camera: Camera,
    trajectory: Trajectory,
    lights: Sequence[Light] = LAP_LIGHTS,
    seed: int = 0,
) -> Iterator[Frame]:
    """Renders the drive image by image; each lap has the next of the lights."""
    for number, stamp_ns in enumerate(trajectory.image_stamps_ns.tolist()):
        lap = trajectory.lap_at(stamp_ns)
        pose = trajectory.true_pose_at(stamp_ns)
        rng = np.random.default_rng([seed, 2, number])
        image = render(world, camera, pose, lights[lap % len(lights)], rng)
        yield Frame(stamp_ns, lap, image, pose, trajectory.odometry_pose_at(stamp_ns))
