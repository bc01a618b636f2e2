"""Stage 5: which keyframes show one place, and where odometry says that the robot cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from selavpr_ros.decision.place_filter import PlaceFilter
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.pose import SAME_PLACE_M, SAME_PLACE_RAD, Pose
from selavpr_ros.settings import GateSettings

# Two views of one place are at most this far apart: twice the field's usual radius of 5 m.
VIEW_M = 10.0
# Views of one place differ in height by at most this: more than on a slope, less than a storey.
VIEW_HEIGHT_M = 1.0
# Keyframes at most PLACE_KEYFRAMES apart in their order show one place, those more than
# ELSEWHERE_KEYFRAMES apart different ones. In between, only poses can tell.
PLACE_KEYFRAMES, ELSEWHERE_KEYFRAMES = 5, 10
NEAREST_FIRST = sorted(range(-PLACE_KEYFRAMES, PLACE_KEYFRAMES + 1), key=abs)
UNKNOWN, NO_ROTATION = np.full(3, np.nan), np.full(4, np.nan)


@dataclass(frozen=True)
class Whereabouts:
    """Where odometry says that the query was taken.

    Attributes:
        session: the running session, whose odometry frame `pose` is in.
        pose: pose of the robot, or None.
        travelled_m: metres travelled since the session's start.
    """

    session: SessionId
    pose: Pose | None
    travelled_m: float


NOWHERE = Whereabouts(SessionId(0), None, 0.0)


def _position(pose: Pose | None) -> np.ndarray:
    return pose.translation_m if pose else UNKNOWN


def odometry_ratios(
    keyframes: Sequence[Keyframe], here: Whereabouts, gates: GateSettings
) -> np.ndarray:
    """Distances from the query to keyframes by odometry / the most that its drift allows.

    Args:
        keyframes: K keyframes.
        here: where odometry says that the query was taken.
        gates: how far odometry can have drifted.

    Returns:
        (K,): the larger of two ratios, in all directions and vertical. NaN without odometry, and
        for other sessions, which have odometry frames of their own.
    """
    if here.pose is None:
        return np.full(len(keyframes), np.nan)
    gaps_m = np.array([_position(k.pose if k.id.session == here.session else None)
                       for k in keyframes]).reshape(-1, 3) - here.pose.translation_m
    way_m = np.maximum(here.travelled_m - np.array([k.travelled_m for k in keyframes]), 0.0)
    apart = np.linalg.norm(gaps_m, axis=1) / (VIEW_M + gates.max_drift * way_m)
    climbed = np.abs(gaps_m[:, 2]) / (VIEW_HEIGHT_M + gates.max_vertical_drift * way_m)
    return np.maximum(apart, climbed)


@dataclass(frozen=True)
class Places:
    """Where some keyframes are, in arrays.

    Attributes:
        codes: (n,) int64 codes of the keyframes.
        firsts: (n,) int64 codes of the keyframes that showed their places first.
        frames: (n,) int64 numbers of the frames that the positions are in.
        positions_m: (n, 3), NaN where unknown.
        rotations: (n, 4) unit quaternions, NaN where unknown.
    """

    codes: np.ndarray
    firsts: np.ndarray
    frames: np.ndarray
    positions_m: np.ndarray
    rotations: np.ndarray

    def some(self, which: Sequence[int]) -> Places:
        """The places at some indices."""
        return Places(self.codes[which], self.firsts[which], self.frames[which],
                       self.positions_m[which], self.rotations[which])

    def keyframes_between(self, others: Places) -> np.ndarray:
        """(n, m) how far apart two are in the order of keyframes, on this or an earlier lap."""
        ways = [np.abs(one[:, None] - other) for one in (self.codes, self.firsts)
                for other in (others.codes, others.firsts)]
        return np.asarray(np.minimum.reduce(ways))

    def are_near(self, others: Places) -> np.ndarray:
        """(n, m) whether poses in one frame say that two show one place; False if unknown."""
        gaps_m = self.positions_m[:, None] - others.positions_m
        cosines = np.abs(self.rotations @ others.rotations.T)  # of half the angle between them
        return ((self.frames[:, None] == others.frames)
                & (np.linalg.norm(gaps_m, axis=2) <= SAME_PLACE_M)
                & (np.abs(gaps_m[:, :, 2]) <= 2.0 * VIEW_HEIGHT_M)
                & (cosines >= math.cos(SAME_PLACE_RAD / 2.0)))

    def are_one(self, others: Places) -> np.ndarray:
        """(n, m) whether two show one place."""
        return (self.keyframes_between(others) <= PLACE_KEYFRAMES) | self.are_near(others)

    def are_apart(self, others: Places) -> np.ndarray:
        """(n, m) whether two are known to show different places."""
        return (self.keyframes_between(others) > ELSEWHERE_KEYFRAMES) & ~self.are_near(others)


@dataclass(eq=False)
class PlaceBook:
    """Knows where keyframes are, and which closed a loop with which.

    Args:
        find: returns the keyframe of an id, or None.
        filter: gives keyframes their codes.

    Attributes:
        at_hand: keyframes that were just retrieved, perhaps of another robot.
    """

    find: Callable[[KeyframeId], Keyframe | None]
    filter: PlaceFilter
    at_hand: dict[KeyframeId, Keyframe] = field(default_factory=dict)
    _first_seen: dict[int, int] = field(default_factory=dict)  # codes
    _frames: dict[object, int] = field(default_factory=dict)

    def remember(self, keyframe: KeyframeId, closed_with: KeyframeId) -> None:
        """Note that a keyframe shows the place of an older one, however far odometry drifted."""
        self._first_seen[self.filter.code(keyframe)] = self._first_code(
            self.filter.code(closed_with))

    def of_codes(self, codes: np.ndarray) -> Places:
        """Places of keyframes by their codes; keyframes that are not in the map have no pose."""
        ids = [self.filter.keyframe_id(code) for code in codes.tolist()]
        found = [self.at_hand.get(each) or self.find(each) for each in ids]
        return self._places(ids, codes, found)

    def of(self, keyframes: Sequence[Keyframe], codes: np.ndarray) -> Places:
        """Places of keyframes that have these codes."""
        return self._places([keyframe.id for keyframe in keyframes], codes, keyframes)

    def _places(
        self, ids: Sequence[KeyframeId], codes: np.ndarray, found: Sequence[Keyframe | None]
    ) -> Places:
        frames = [k.map_pose.frame if k and k.map_pose else each.session
                  for each, k in zip(ids, found, strict=True)]
        numbers = [self._frames.setdefault(frame, len(self._frames)) for frame in frames]
        poses = [k.place if k else None for k in found]
        firsts = [self._first_code(code) for code in codes.tolist()]
        return Places(codes, np.array(firsts, np.int64), np.array(numbers, np.int64),
                      np.array([_position(pose) for pose in poses]).reshape(-1, 3),
                      np.array([pose.rotation if pose else NO_ROTATION
                                for pose in poses]).reshape(-1, 4))

    def _first_code(self, code: int) -> int:
        """Code of the keyframe that first showed a place, by loop closures near the keyframe."""
        if not self._first_seen:
            return code
        beside = (self._first_seen.get(code + away) for away in NEAREST_FIRST)
        return next((first for first in beside if first is not None), code)
