"""Where the robot is in another session's map, by all accepted candidates that agree."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from selavpr_ros.decision.gates import Candidate
from selavpr_ros.maps.keyframe import Keyframe
from selavpr_ros.pose import Pose, compose, mean_pose, relative_pose
from selavpr_ros.settings import RelocalizationSettings

# Two estimates agree if they are at most this many standard deviations apart.
AGREEMENT_SIGMAS = 3.0
# Without poses, two candidates agree if the ids of their keyframes differ by at most this much.
AGREEMENT_KEYFRAMES = 10
MOST_HITS = 6


@dataclass(frozen=True, eq=False)
class Relocalization:
    """Where the robot is, by the last accepted candidates of other sessions.

    Attributes:
        frame: name of the back-end's frame, or '' for the odometry frame of the session of `best`.
        pose: pose of the robot in that frame, or None if the recognised keyframes have none.
        covariance: (6, 6) of x, y, z in metres and of rotations about x, y, z in radians.
        best: the newest accepted candidate.
        frames_used: how many candidates agree, the newest included.
        hypotheses: number of distinct places where the robot may still be.
    """

    frame: str
    pose: Pose | None
    covariance: np.ndarray
    best: Candidate
    frames_used: int
    hypotheses: int


@dataclass(frozen=True)
class _Hit:
    """An accepted candidate, and the odometry pose of its query."""

    candidate: Candidate
    odometry: Pose | None

    @property
    def keyframe(self) -> Keyframe:
        return self.candidate.match.keyframe

    @property
    def frame(self) -> str:
        """Frame of the keyframe's place; hits can be compared only in the same frame."""
        moved = self.keyframe.map_pose
        return moved.frame if moved else f'session {self.keyframe.id.session}'

    def pose_at(self, odometry: Pose | None) -> Pose | None:
        """The robot's pose at `odometry`, if it was at the keyframe when that was recognised."""
        place = self.keyframe.place
        if place is None or odometry is None or self.odometry is None:
            return place
        return compose(place, relative_pose(self.odometry, odometry))


class Relocalizer:
    """Combines those accepted candidates of other sessions that agree into one pose.

    Each candidate places the robot at its keyframe; odometry carries that place on to the newest
    query. A candidate that disagrees with the newest one is left out: the robot was carried away,
    or odometry has drifted.
    """

    def __init__(self) -> None:
        self._hits: deque[_Hit] = deque(maxlen=MOST_HITS)

    def reset(self) -> None:
        """Forget all candidates."""
        self._hits.clear()

    def update(
        self, accepted: Candidate, odometry: Pose | None, settings: RelocalizationSettings,
        hypotheses: int = 1,
    ) -> Relocalization:
        """Add the accepted candidate of the newest query.

        Args:
            accepted: the candidate, whose keyframe is of another session.
            odometry: odometry pose of the query, or None.
            settings: the current settings.
            hypotheses: number of places where the robot may be.
        """
        newest = _Hit(accepted, odometry)
        self._hits.append(newest)
        agreeing = [hit for hit in self._hits if _agree(hit, newest, odometry, settings)]
        poses = [pose for hit in agreeing if (pose := hit.pose_at(odometry)) is not None]
        moved = newest.keyframe.map_pose
        return Relocalization(
            frame=moved.frame if moved else '', pose=mean_pose(poses) if poses else None,
            covariance=_covariance(poses, settings), best=accepted, frames_used=len(agreeing),
            hypotheses=max(hypotheses, 1))


def _agree(
    first: _Hit, second: _Hit, odometry: Pose | None, settings: RelocalizationSettings
) -> bool:
    if first.frame != second.frame:
        return False
    one, other = first.pose_at(odometry), second.pose_at(odometry)
    if one is None or other is None:
        apart = first.keyframe.id.keyframe_id - second.keyframe.id.keyframe_id
        return abs(apart) <= AGREEMENT_KEYFRAMES
    near = one.distance_to(other) <= AGREEMENT_SIGMAS * settings.keyframe_sigma_xy
    return near and one.angle_to(other) <= AGREEMENT_SIGMAS * settings.keyframe_sigma_yaw


def _covariance(poses: list[Pose], settings: RelocalizationSettings) -> np.ndarray:
    """(6, 6): how far the robot may be from a keyframe, plus how far the poses disagree.

    The mean of several poses is no better than one: the keyframes were all seen from the same
    side, so that their errors are alike.
    """
    variances = np.array(
        [settings.keyframe_sigma_xy**2] * 3 + [settings.keyframe_sigma_yaw**2] * 3)
    if poses:
        middle = mean_pose(poses)
        variances[:3] += np.var([pose.translation_m for pose in poses], axis=0)
        variances[3:] += np.mean([pose.angle_to(middle)**2 for pose in poses])
    return np.diag(np.minimum(variances, [math.inf] * 3 + [math.pi**2] * 3))
