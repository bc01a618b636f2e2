"""The closed centre line that the robot follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selavpr_ros.pose import Pose
from selavpr_ros.simulation.streets import TURN_M, Street

STEP_M = 0.1


@dataclass(frozen=True, eq=False)
class Route:
    """A smooth closed curve: points and unwrapped headings at equal steps of the way."""

    points: NDArray[np.float64]  # (N + 1, 2) the last point is the first
    headings: NDArray[np.float64]  # (N + 1,) radians
    length_m: float

    @classmethod
    def along(cls, streets: list[Street]) -> Route:
        """Follows the centre lines and rounds the corners; starts in the middle of a street."""
        pieces = []
        for before, after in zip(streets, streets[1:] + streets[:1], strict=True):
            turn = min(TURN_M, 0.45 * before.length_m, 0.45 * after.length_m)
            first, last = after.point(-0.0, 0.0) - before.along * turn, after.point(turn, 0.0)
            share = np.linspace(0.0, 1.0, 40)[:, None]
            pieces.append(before.point(before.length_m / 2, 0.0)[None])
            pieces.append(
                (1 - share) ** 2 * first + 2 * share * (1 - share) * after.start + share**2 * last
            )
        return cls.through(np.vstack(pieces))

    @classmethod
    def through(cls, corners: NDArray[np.float64]) -> Route:
        """A closed curve through the points (N, 2), cut into equal steps."""
        closed = np.vstack([corners, corners[:1]])
        ways = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
        length = float(ways[-1])
        samples = np.linspace(0.0, length, max(8, round(length / STEP_M)) + 1)
        points = np.column_stack([np.interp(samples, ways, closed[:, i]) for i in range(2)])
        ahead = np.roll(points[:-1], -1, axis=0) - np.roll(points[:-1], 1, axis=0)
        headings = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
        turn = 2 * np.pi * round((headings[-1] - headings[0]) / (2 * np.pi))
        return cls(points, np.append(headings, headings[0] + turn), length)

    def poses(
        self, way_m: NDArray[np.float64], lateral_m: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """(N, 3) x, y, yaw at distances along the route; `lateral_m` to the left of it.

        Distances beyond the length go on into the next lap; yaw stays unwrapped over the laps.
        """
        laps, rest = np.divmod(way_m, self.length_m)
        samples = np.linspace(0.0, self.length_m, len(self.headings))
        yaw = np.interp(rest, samples, self.headings)
        x = np.interp(rest, samples, self.points[:, 0]) - np.sin(yaw) * lateral_m
        y = np.interp(rest, samples, self.points[:, 1]) + np.cos(yaw) * lateral_m
        yaw_of_laps = laps * (self.headings[-1] - self.headings[0])
        return np.column_stack([x, y, yaw + yaw_of_laps])

    def pose_at(
        self, way_m: float, lateral_m: float = 0.0, heading_offset_rad: float = 0.0
    ) -> Pose:
        """The pose at one distance along the route, with offsets to the left."""
        x, y, yaw = self.poses(np.array([way_m]), lateral_m)[0].tolist()
        return Pose.planar(x, y, yaw + heading_offset_rad)
