"""Poses, and the odometry buffer that interpolates the pose at the stamp of an image."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

import numpy as np

from selavpr_ros.errors import PoseError

# The norm of a quaternion sent with two decimals is off by less; more is a bug, not a rotation.
_NORM_TOLERANCE = 0.1
# Below this angle sin(x) = x in float64: slerp and linear interpolation agree.
_SMALL_ANGLE_RAD = 1e-6
# A stamp that jumps back farther than this is a recording that starts again, not a late message.
TIME_JUMP_NS = 1_000_000_000
# Metres a second: no robot is faster, so beyond this the odometry jumped.
MOST_SPEED = 50.0
# A jump of fewer metres does no harm: the distance between two views of one place may be as large.
HARMLESS_JUMP_M = 10.0
# Poses are usually interpolated over so many times their usual interval: two messages may be lost.
GAP_INTERVALS = 2.5
# The usual gap is not narrower and not wider than this, in seconds.
LEAST_GAP_S, MOST_GAP_S = 0.5, 10.0
# The usual interval is the median of so many.
INTERVALS = 20
# Two poses so near, and turned by so little, see the same place: the field's usual positives. A
# camera that is turned farther sees mostly something else.
SAME_PLACE_M, SAME_PLACE_RAD = 5.0, math.radians(45.0)


def _finite_vector(values: Iterable[float], size: int, name: str) -> np.ndarray:
    try:
        vector = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PoseError(f'{name} must be {size} numbers, got {values!r}') from error
    if vector.shape != (size,):
        raise PoseError(f'{name} must be {size} numbers, got shape {vector.shape}')
    # For so few numbers, Python's functions are three times as fast as numpy's.
    if not all(map(math.isfinite, vector.tolist())):
        raise PoseError(f'{name} {vector.tolist()} is not finite: the odometry has diverged or '
                        'was never initialised')
    return vector


def _unit_quaternion(values: Iterable[float]) -> np.ndarray:
    quaternion = _finite_vector(values, 4, 'rotation (x, y, z, w)')
    norm = math.hypot(*quaternion.tolist())
    if abs(norm - 1.0) > _NORM_TOLERANCE:
        raise PoseError(f'rotation {quaternion.tolist()} (x, y, z, w) has norm {norm:.3g} instead '
                        'of 1: all zeros mean that the publisher never set it; no rotation is '
                        '0, 0, 0, 1')
    return quaternion / norm


def _half_angle(first: np.ndarray, second: np.ndarray) -> float:
    """Angle in [0, pi] between two unit 4-vectors; unlike the arc cosine, exact near 0, too."""
    return 2.0 * math.atan2(np.linalg.norm(first - second), np.linalg.norm(first + second))


def _nearer_sign(reference: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Whichever of q and -q, which are one rotation, is on the reference's side."""
    return -quaternion if np.dot(reference, quaternion) < 0.0 else quaternion


def _slerp(first: np.ndarray, second: np.ndarray, fraction: float) -> np.ndarray:
    """Interpolate two unit quaternions along the shorter arc at constant rate (Shoemake 1985)."""
    second = _nearer_sign(first, second)
    angle = _half_angle(first, second)
    if angle < _SMALL_ANGLE_RAD:
        return (1.0 - fraction) * first + fraction * second
    weights = math.sin((1.0 - fraction) * angle), math.sin(fraction * angle)
    return (weights[0] * first + weights[1] * second) / math.sin(angle)


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Position and orientation of the robot in its odometry frame (REP 103: x forward, z up).

    translation_m: (3,) metres. rotation: (4,) quaternion x, y, z, w, the order of ROS. Both are
    checked when the pose is made and kept as read-only float64, the rotation normalised. Raises
    PoseError on NaN, infinity, a wrong size, or a quaternion whose norm is not 1 +- 0.1.
    """

    translation_m: np.ndarray
    rotation: np.ndarray

    def __post_init__(self) -> None:
        translation_m = _finite_vector(self.translation_m, 3, 'translation (x, y, z)')
        rotation = _unit_quaternion(self.rotation)
        for name, array in (('translation_m', translation_m), ('rotation', rotation)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def planar(cls, x_m: float, y_m: float, yaw_rad: float) -> Pose:
        """The pose of a robot on flat ground; yaw counter-clockwise from the x axis."""
        half = 0.5 * yaw_rad
        if not math.isfinite(half):
            raise PoseError(f'yaw {yaw_rad} is not finite')
        return cls(np.array([x_m, y_m, 0.0]), np.array([0.0, 0.0, math.sin(half), math.cos(half)]))

    @property
    def x_m(self) -> float:
        """Metres along the frame's x axis."""
        return float(self.translation_m[0])

    @property
    def y_m(self) -> float:
        """Metres along the frame's y axis."""
        return float(self.translation_m[1])

    @property
    def yaw_rad(self) -> float:
        """Heading about the z axis in [-pi, pi], counter-clockwise from the x axis."""
        x, y, z, w = self.rotation.tolist()
        return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) of the rotation."""
        return np.stack([_rotate(self.rotation, axis) for axis in np.eye(3)], axis=1)

    def distance_to(self, other: Pose) -> float:
        """Metres between the two positions."""
        return float(np.linalg.norm(self.translation_m - other.translation_m))

    def angle_to(self, other: Pose) -> float:
        """Radians, 0 to pi, of the one rotation that turns this orientation into the other."""
        return 2.0 * _half_angle(self.rotation, _nearer_sign(self.rotation, other.rotation))

    def __eq__(self, other: object) -> bool:
        """Exactly the same position and rotation; q and -q are the same rotation."""
        if not isinstance(other, Pose):
            return NotImplemented
        turned = _nearer_sign(self.rotation, other.rotation)
        return (np.array_equal(self.translation_m, other.translation_m)
                and np.array_equal(self.rotation, turned))


def _multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Product of two quaternions (x, y, z, w): first `second` turns, then `first`."""
    vector, scalar = first[:3], first[3]
    other_vector, other_scalar = second[:3], second[3]
    return np.append(
        scalar * other_vector + other_scalar * vector + np.cross(vector, other_vector),
        scalar * other_scalar - vector @ other_vector)


def _rotate(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    across = 2.0 * np.cross(rotation[:3], vector)
    return vector + rotation[3] * across + np.cross(rotation[:3], across)


def relative_pose(start: Pose, end: Pose) -> Pose:
    """Where `end` is, seen from `start`; both in the same frame."""
    back = start.rotation * np.array([-1.0, -1.0, -1.0, 1.0])
    return Pose(
        _rotate(back, end.translation_m - start.translation_m), _multiply(back, end.rotation))


def compose(start: Pose, step: Pose) -> Pose:
    """Where `step`, seen from `start`, is in the frame of `start`; undoes `relative_pose`."""
    return Pose(
        start.translation_m + _rotate(start.rotation, step.translation_m),
        _multiply(start.rotation, step.rotation))


def mean_pose(poses: Sequence[Pose]) -> Pose:
    """Mean of poses that lie close together: of their positions, and of their quaternions."""
    reference = poses[0].rotation
    rotation = np.sum([_nearer_sign(reference, pose.rotation) for pose in poses], axis=0)
    return Pose(
        np.mean([pose.translation_m for pose in poses], axis=0),
        rotation / np.linalg.norm(rotation))


def _between(first: Pose, second: Pose, fraction: float) -> Pose:
    translation_m = ((1.0 - fraction) * first.translation_m + fraction * second.translation_m)
    return Pose(translation_m, _slerp(first.rotation, second.rotation, fraction))


def _seconds_to_ns(seconds: float, name: str) -> int:
    if not (math.isfinite(seconds) and seconds >= 0.0):
        raise ValueError(f'{name} must be a time of 0 s or more, got {seconds}')
    return round(seconds * 1e9)


class PoseBuffer:
    """The odometry of the last `max_age_s` seconds, which gives the pose at an image's stamp.

    `max_gap_s`: two odometry poses farther apart in time are a gap, over which nothing is
    interpolated; 0 follows the rate of the poses: GAP_INTERVALS times their usual interval. Nor is
    anything interpolated where the odometry jumps farther than any robot goes.
    `max_extrapolation_s`: how long before the oldest or after the newest pose that pose is still
    returned; 0 by default, because a guess would make the keyframes depend on which message came
    first. Memory is bounded by `max_age_s` and by `max_poses`.

    Not thread-safe: where one thread adds and another asks, the owner of the buffer must hold
    one lock around both calls.
    """

    def __init__(self, max_age_s: float, *, max_gap_s: float = 0.0,
                 max_extrapolation_s: float = 0.0, max_poses: int = 20_000) -> None:
        self._max_age_ns = _seconds_to_ns(max_age_s, 'max_age_s')
        self.max_gap_s = max_gap_s
        self._max_extrapolation_ns = _seconds_to_ns(max_extrapolation_s, 'max_extrapolation_s')
        if max_poses < 2:
            raise ValueError(f'max_poses must be 2 or more to interpolate, got {max_poses}')
        self._max_poses = max_poses
        self._stamps_ns: list[int] = []
        self._poses: list[Pose] = []

    def __len__(self) -> int:
        return len(self._poses)

    @property
    def max_gap_s(self) -> float:
        """Longest gap that is interpolated, in seconds; 0 follows the rate of the poses."""
        return self._max_gap_ns * 1e-9

    @max_gap_s.setter
    def max_gap_s(self, seconds: float) -> None:
        self._max_gap_ns = _seconds_to_ns(seconds, 'max_gap_s')

    def interval_s(self, before: int | None = None) -> float:
        """Usual seconds between two poses, by the newest ones before an index; 0 if not known."""
        end = len(self._stamps_ns) if before is None else before
        stamps_ns = self._stamps_ns[max(0, end - INTERVALS - 1):end]
        intervals = [after - first for first, after in pairwise(stamps_ns)]
        return median_low(intervals) * 1e-9 if len(intervals) > 1 else 0.0

    def _allowed_gap_ns(self, after: int) -> float:
        """Longest gap that is interpolated before the pose at an index."""
        usual_s = GAP_INTERVALS * self.interval_s(after + 1)
        return self._max_gap_ns or 1e9 * min(max(usual_s, LEAST_GAP_S), MOST_GAP_S)

    @property
    def oldest_ns(self) -> int | None:
        """Stamp of the oldest pose, None while empty."""
        return self._stamps_ns[0] if self._stamps_ns else None

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest pose, None while empty; the pose of a later image may yet arrive."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    def add(self, stamp_ns: int, pose: Pose) -> bool:
        """Keep `pose`; it replaces a pose of the same stamp, and is ignored if it comes late.

        Returns True if the stamp ran back by more than a second (a bag that loops, a simulation
        reset): everything before was forgotten, because it belongs to another drive.
        """
        newest_ns = self.newest_ns
        ran_backwards = newest_ns is not None and newest_ns - stamp_ns > TIME_JUMP_NS
        if ran_backwards:
            self.clear()
        elif stamp_ns == newest_ns:
            self._poses[-1] = pose
            return False
        elif newest_ns is not None and stamp_ns < newest_ns:
            return False
        self._stamps_ns.append(stamp_ns)
        self._poses.append(pose)
        self._forget_old()
        return ran_backwards

    def clear(self) -> None:
        """Forget all poses."""
        self._stamps_ns.clear()
        self._poses.clear()

    def _forget_old(self) -> None:
        expired = bisect_left(self._stamps_ns, self._stamps_ns[-1] - self._max_age_ns)
        expired = max(expired, len(self._stamps_ns) - self._max_poses)
        del self._stamps_ns[:expired], self._poses[:expired]

    def interpolate(self, stamp_ns: int) -> Pose | None:
        """The pose at `stamp_ns`: linear in position, slerp in rotation.

        None if the odometry does not cover the stamp: it is past the newest pose (compare with
        `newest_ns`: the pose may yet arrive), before the oldest one, in a gap, or where the
        odometry jumps.
        """
        after = bisect_left(self._stamps_ns, stamp_ns)
        if after < len(self._stamps_ns) and self._stamps_ns[after] == stamp_ns:
            return self._poses[after]
        if after in (0, len(self._stamps_ns)):
            return self._nearest_end(stamp_ns)
        start_ns, end_ns = self._stamps_ns[after - 1], self._stamps_ns[after]
        start, end, duration_ns = self._poses[after - 1], self._poses[after], end_ns - start_ns
        farthest_m = MOST_SPEED * 1e-9 * duration_ns + HARMLESS_JUMP_M
        if duration_ns > self._allowed_gap_ns(after) or start.distance_to(end) > farthest_m:
            return None
        return _between(start, end, (stamp_ns - start_ns) / duration_ns)

    def _nearest_end(self, stamp_ns: int) -> Pose | None:
        if not self._poses:
            return None
        end = 0 if stamp_ns < self._stamps_ns[0] else -1
        distance_ns = abs(stamp_ns - self._stamps_ns[end])
        return self._poses[end] if distance_ns <= self._max_extrapolation_ns else None
