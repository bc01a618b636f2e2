"""Which images show the same place, from true poses or from marked pairs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from selavpr_ros.errors import GroundTruthError, PoseError
from selavpr_ros.pose import SAME_PLACE_M, SAME_PLACE_RAD, Pose
from selavpr_ros.recordings.clocks import Span
from selavpr_ros.recordings.pose_track import PoseTrack, StampedPose

# True poses are often computed afterwards, only one per image.
MAX_GAP_S = 1.0
TUM_FORMAT = 'stamp_s x y z qx qy qz qw'


@dataclass(frozen=True)
class SamePlace:
    """What counts as the same place; `str` says it in words.

    Attributes:
        radius_m: largest distance between two positions; None where positions do not count.
        heading_deg: largest angle between two orientations; None where these do not count.
        frames: largest difference of two frame numbers, for two walks along one way.
        is_marked: whether only marked pairs count.
        excluded: how many images beside the query are left out, in a recording that is compared
            with itself; None where it is compared with another one, or nothing is left out.
    """

    radius_m: float | None = None
    heading_deg: float | None = None
    frames: int | None = None
    is_marked: bool = False
    excluded: int | None = None

    def __str__(self) -> str:
        limits = [f'{self.radius_m:g} m' if self.radius_m is not None else '',
                  f'{self.heading_deg:.0f} deg' if self.heading_deg is not None else '',
                  f'{self.frames} frames' if self.frames is not None else '']
        within = ' and '.join(limit for limit in limits if limit)
        told = f'within {within}' if within else 'marked pairs'
        if self.excluded is None:
            return told
        if self.is_marked:
            return f'{told}, earlier than the {self.excluded} newest images'
        beside = f'{self.excluded} images on either side' if self.excluded else 'the query itself'
        return f'{told}, {beside} excluded'


class GroundTruth(ABC):
    """Tells whether two images, named by their stamps, show the same place."""

    same_place: SamePlace

    @abstractmethod
    def same_places(self, query_ns: int, match_stamps_ns: Sequence[int]) -> list[bool | None]:
        """Judge one query against many images; None where the truth is unknown."""

    def is_same_place(self, query_ns: int, match_ns: int) -> bool | None:
        """Judge one pair; None if the truth is unknown."""
        return self.same_places(query_ns, [match_ns])[0]

    def pose_at(self, stamp_ns: int) -> Pose | None:
        """The true pose of the robot, or None where it is not known."""
        return None

    def why_unknown(self, stamps_ns: Sequence[int], what: str) -> str:
        """Say why no image of these stamps can be judged; empty if one can, or without stamps.

        Args:
            stamps_ns: stamps of the images.
            what: name of the truth, e.g. that of its file.
        """
        return ''


class PoseTruth(GroundTruth):
    """The same place: positions within a radius, and orientations within an angle.

    Args:
        poses: stamps in ns and true poses, all in one frame.
        radius_m: largest distance between the two positions.
        heading_rad: largest angle between the two orientations; pi ignores them.
    """

    def __init__(
        self, poses: Iterable[StampedPose], radius_m: float = SAME_PLACE_M,
        heading_rad: float = SAME_PLACE_RAD,
    ) -> None:
        self._track = PoseTrack(poses, max_gap_s=MAX_GAP_S)
        self._rows: dict[int, np.ndarray] = {}
        self.radius_m, self.heading_rad = radius_m, heading_rad
        self.same_place = SamePlace(radius_m, math.degrees(heading_rad))

    def pose_at(self, stamp_ns: int) -> Pose | None:
        return self._track.at(stamp_ns)

    def same_places(self, query_ns: int, match_stamps_ns: Sequence[int]) -> list[bool | None]:
        query = self._row(query_ns)
        matches = np.array([self._row(ns) for ns in match_stamps_ns]).reshape(-1, len(query))
        distances = np.linalg.norm(matches[:, :3] - query[:3], axis=1)
        # q and -q are one rotation, and the angle between quaternions is half the rotation's.
        cosines = np.minimum(np.abs(matches[:, 3:] @ query[3:]), 1.0)
        near = (distances <= self.radius_m) & (2.0 * np.arccos(cosines) <= self.heading_rad)
        known = ~np.isnan(distances)
        return [bool(n) if k else None for n, k in zip(near, known, strict=True)]

    def why_unknown(self, stamps_ns: Sequence[int], what: str) -> str:
        images = Span.of(stamps_ns)
        if images is None or any(self.pose_at(ns) for ns in stamps_ns):
            return ''
        return self._track.why_none(images, what)

    def _row(self, stamp_ns: int) -> np.ndarray:
        """(7,) position and quaternion, cached; NaN where unknown."""
        row = self._rows.get(stamp_ns)
        if row is None:
            pose = self.pose_at(stamp_ns)
            row = np.full(7, np.nan) if pose is None else np.concatenate(
                [pose.translation_m, pose.rotation])
            self._rows[stamp_ns] = row
        return row


class PairTruth(GroundTruth):
    """The same place: the given pairs of stamps in ns, in either order, and no others."""

    same_place = SamePlace(is_marked=True)

    def __init__(self, pairs_ns: Iterable[tuple[int, int]]) -> None:
        self._pairs = {frozenset(pair) for pair in pairs_ns}

    def same_places(self, query_ns: int, match_stamps_ns: Sequence[int]) -> list[bool | None]:
        return [frozenset((query_ns, match_ns)) in self._pairs for match_ns in match_stamps_ns]


def _tum_pose(line: str) -> StampedPose:
    stamp, *numbers = line.replace(',', ' ').split()
    if len(numbers) != 7:
        raise ValueError(f'{1 + len(numbers)} numbers')
    values = np.array([float(number) for number in numbers])
    return int(Decimal(stamp) * 1_000_000_000), Pose(values[:3], values[3:])


def read_tum(path: Path) -> list[StampedPose]:
    """Read a trajectory in TUM's format: lines as `TUM_FORMAT`, # for comments.

    Raises:
        GroundTruthError: the file cannot be read or holds no pose, or a line is not of that form.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GroundTruthError(f'{path} cannot be read: {error}') from error
    poses = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith('#'):
            continue
        try:
            poses.append(_tum_pose(line))
        except (ValueError, ArithmeticError, PoseError) as error:
            raise GroundTruthError(
                f'{path}, line {number}: {error}; TUM\'s format is "{TUM_FORMAT}"'
            ) from error
    if not poses:
        raise GroundTruthError(f'{path} holds no pose; TUM\'s format is "{TUM_FORMAT}"')
    return poses
