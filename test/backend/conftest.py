"""Two laps round a square with odometry that drifts, and what closes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from selavpr_ros.backend.pose_graph import Closure, Node
from selavpr_ros.backend.trajectory_error import trajectory_error
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.pose import Pose, compose, relative_pose

SIDE = 20  # nodes on a side of the square, 1 m apart
LAP = 4 * SIDE
SECOND_NS = 10**9


def true_pose(number):
    """Where the robot is after so many metres."""
    corner, along = divmod(number % LAP, SIDE)
    start = Pose.planar(*((0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE))[corner], corner * np.pi / 2)
    return compose(start, Pose.planar(along, 0.0, 0.0))


def drift(true, start, rad_per_step=0.004, scale=1.01):
    """Odometry: each step is too long, and bends to the left."""
    poses = [start]
    for before, after in zip(true, true[1:], strict=False):
        step = relative_pose(before, after)
        x, y, _ = step.translation_m
        poses.append(compose(
            poses[-1], Pose.planar(x * scale, y * scale, step.yaw_rad + rad_per_step)))
    return poses


def positions(poses):
    return np.array([pose.translation_m for pose in poses]).reshape(-1, 3)


@dataclass
class Drive:
    """Nodes with their true poses and those by odometry, and closures of the second lap."""

    nodes: list[Node]
    true: list[Pose]
    odometry: list[Pose]

    @property
    def closures(self):
        """Every image after the first lap with the one a lap before it."""
        return [Closure(start, end)
                for start, end in zip(self.nodes, self.nodes[LAP:], strict=False)]

    def false_closures(self, count):
        """Pairs that are half a lap apart, or nearly so."""
        rng = np.random.default_rng(0)
        ends = rng.integers(LAP, len(self.nodes), count)
        starts = ends - LAP // 2 - rng.integers(-5, 6, count)
        return [Closure(self.nodes[start], self.nodes[end])
                for start, end in zip(starts, ends, strict=True)]

    def error(self, poses):
        """Metres that poses by node are off."""
        return trajectory_error(
            positions(poses[node] for node in self.nodes), positions(self.true))


@pytest.fixture
def make_drive():
    """(laps, session, start of odometry) -> Drive."""
    def make(laps=2, session=1, start=None):
        true = [true_pose(number) for number in range(laps * LAP)]
        nodes = [Node(SessionId(session), session * 10**15 + number * SECOND_NS)
                 for number in range(laps * LAP)]
        return Drive(nodes, true, drift(true, start or Pose.planar(0.0, 0.0, 0.0)))

    return make


@pytest.fixture
def drive(make_drive):
    return make_drive()
