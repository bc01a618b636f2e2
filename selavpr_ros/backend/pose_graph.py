"""Odometry and loop closures as one pose graph that is robust against false closures.

A loop closure says that two images show one place. A false one would bend the whole map, so each
closure has a robust kernel: the farther it is from what all others say, the less it weighs.
Dynamic Covariance Scaling (DCS, Agarwal et al. 2013) drops false closures, but after a long way
also true and precise ones, because drift puts these many standard deviations off, too. Cauchy's
kernel never drops a closure entirely, so it comes first and draws the true ones near; DCS then
drops the others. Graduated non-convexity (GncLMOptimizer) does the same in more steps, too slow
beside a driving robot. No kernel recognises many false closures that all agree, as in two
corridors that look the same. `benchmarks/trajectory.py --false 0.3` shows how little random false
closures do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from selavpr_ros.decision.relocalization import AGREEMENT_SIGMAS
from selavpr_ros.errors import BackendError
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.pose import Pose, compose, relative_pose
from selavpr_ros.settings import RelocalizationSettings

# Standard deviations of wheel odometry over a metre. The variance grows with the way, so that the
# number of nodes on it does not matter; a radian of turning on the spot counts as a metre.
ODOMETRY_SIGMA_M = 0.1
ODOMETRY_SIGMA_RAD = 0.02
LEAST_WAY_M = 0.01
# A recognised place says nothing of the robot's height, roll and pitch.
LOOSE_M = 10.0
LOOSE_RAD = math.pi
# Standard deviation, in metres and radians, of poses that stay where they are.
FIXED_SIGMA = 1e-3
# Closures that have to agree before a session is placed by them.
LEAST_LINKS = 3
# Where the kernels begin to doubt a closure: at one standard deviation.
CAUCHY_K = 1.0
DCS_PHI = 1.0

Poses = dict['Node', Pose]


@dataclass(frozen=True, order=True)
class Node:
    """An image of a session: a keyframe, or a query that closed a loop without becoming one."""

    session: SessionId
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class Closure:
    """Two images that show one place.

    Attributes:
        start: the older one.
        end: the query.
        transform: pose of `end` seen from `start`; None if it was not measured.
        covariance: (6, 6) of the transform in the frame of `start`: x, y, z in metres, and
            rotations about them in radians, as in ROS; required with a transform.
    """

    start: Node
    end: Node
    transform: Pose | None = None
    covariance: np.ndarray | None = None


def import_gtsam() -> ModuleType:
    """Import gtsam, the optimiser, which is an optional dependency.

    Raises:
        BackendError: it is not installed, or would crash with the installed numpy.
    """
    try:
        import gtsam
    except ImportError as error:
        raise BackendError(f'the back-end needs gtsam, which cannot be imported ({error}): '
                           "pip install 'selavpr_ros[backend]', or pip install gtsam") from error
    # gtsam 4.2, the only release for Python 3.10, crashes on an array of numpy 2.
    if version('gtsam') == '4.2' and int(np.__version__.split('.')[0]) >= 2:
        raise BackendError(f'gtsam 4.2 crashes with numpy {np.__version__}: '
                           "pip install 'numpy<2', or gtsam 4.3, which needs Python 3.11")
    return gtsam


def _seen(closure: Closure) -> Pose:
    """Pose of the query seen from the older image; the same pose if it was not measured."""
    return closure.transform or Pose.planar(0.0, 0.0, 0.0)


def _inverse(pose: Pose) -> Pose:
    return relative_pose(pose, Pose.planar(0.0, 0.0, 0.0))


class PoseGraph:
    """Collects poses and loop closures in any order, and optimises them all at once.

    Each optimisation begins anew, since a closure that looked false may look true later, and the
    other way round. A thousand nodes take a third of a second.

    Args:
        settings: how far the robot may be from a recognised keyframe.

    Raises:
        BackendError: see `import_gtsam`.
    """

    def __init__(self, settings: RelocalizationSettings | None = None) -> None:
        self._gtsam = import_gtsam()
        self._settings = settings or RelocalizationSettings()
        self._odometry: dict[SessionId, Poses] = {}
        self._fixed: Poses = {}
        self._closures: list[Closure] = []

    def add(self, node: Node, odometry: Pose) -> None:
        """Add a node with its pose in the odometry frame of its session."""
        self._odometry.setdefault(node.session, {})[node] = odometry

    def fix(self, node: Node, map_pose: Pose) -> None:
        """Add a node of an earlier session, whose pose in the map stays as it is."""
        self._fixed[node] = map_pose

    def close(self, closure: Closure) -> None:
        """Add a loop closure; it counts once both its nodes have been added."""
        if closure.start != closure.end:
            self._closures.append(closure)

    def optimise(self) -> Poses:
        """The poses of all nodes but the fixed ones, in one frame.

        The frame is that of the fixed nodes or, without any, the odometry frame of the session
        that was added first. A session is left out until enough of its closures agree on where
        it is in that frame.
        """
        start = self.place_by_odometry()
        keys = {node: key for key, node in enumerate(start)}
        values = self._gtsam.Values()
        for node, key in keys.items():
            values.insert(key, self._pose3(start[node]))
        certain = [*self._anchors(keys, values), *self._ways(keys, values)]
        kernels = self._gtsam.noiseModel.mEstimator
        for kernel in (kernels.Cauchy.Create(CAUCHY_K), kernels.DCS.Create(DCS_PHI)):
            values = self._solve([*certain, *self._loops(keys, kernel)], values)
        return {node: self._pose(values.atPose3(key)) for node, key in keys.items()
                if node not in self._fixed}

    # ---- where to start from -------------------------------------------------------------------

    def place_by_odometry(self) -> Poses:
        """Fixed poses, then poses by odometry: in one frame, session by session, by time."""
        placed = dict(self._fixed)
        waiting = {session: dict(sorted(poses.items()))
                   for session, poses in self._odometry.items()}
        if not placed and waiting:
            placed |= waiting.pop(next(iter(waiting)))
        while found := self._next_session(placed, waiting):
            session, frame = found
            placed |= {node: compose(frame, pose) for node, pose in waiting.pop(session).items()}
        return placed

    def _next_session(
        self, placed: Poses, waiting: Mapping[SessionId, Poses]
    ) -> tuple[SessionId, Pose] | None:
        """The session that most closures agree on, with its odometry frame; None if too few do."""
        best, found = LEAST_LINKS, None
        for session, odometry in waiting.items():
            frame, agreeing = self._vote(list(self._links(placed, odometry)))
            if frame and agreeing >= best:
                best, found = agreeing, (session, frame)
        return found

    def _links(self, placed: Poses, odometry: Poses) -> Iterator[tuple[Pose, Pose]]:
        """Poses of nodes by odometry, each with its pose by a closure with a placed node."""
        for closure in self._closures:
            start, end, step = closure.start, closure.end, _seen(closure)
            if start in placed and end in odometry:
                yield odometry[end], compose(placed[start], step)
            elif end in placed and start in odometry:
                yield odometry[start], compose(placed[end], _inverse(step))

    def _vote(self, links: list[tuple[Pose, Pose]]) -> tuple[Pose | None, int]:
        """The odometry frame that most links agree on, and how many these are."""
        best, found = 0, None
        here = np.array([odometry.translation_m for odometry, _ in links])
        there = np.array([pose.translation_m for _, pose in links])
        for odometry, pose in links:
            frame = compose(pose, _inverse(odometry))
            rotation = self._pose3(frame).rotation().matrix()
            apart = np.linalg.norm(here @ rotation.T + frame.translation_m - there, axis=1)
            near = AGREEMENT_SIGMAS * self._settings.keyframe_sigma_xy
            agreeing = int(np.count_nonzero(apart <= near))
            if agreeing > best:
                best, found = agreeing, frame
        return found, best

    # ---- the graph -----------------------------------------------------------------------------

    def _solve(self, factors: list[Any], values: Any) -> Any:
        """Optimise, starting from `values`."""
        graph = self._gtsam.NonlinearFactorGraph()
        for factor in factors:
            graph.add(factor)
        parameters = self._gtsam.LevenbergMarquardtParams()
        return self._gtsam.LevenbergMarquardtOptimizer(graph, values, parameters).optimize()

    def _anchors(self, keys: Mapping[Node, int], values: Any) -> Iterator[Any]:
        """Priors that hold the map in its frame: on all fixed nodes, else on the first node."""
        noise = self._gtsam.noiseModel.Isotropic.Sigma(6, FIXED_SIGMA)
        for node in self._fixed or list(keys)[:1]:
            key = keys[node]
            yield self._gtsam.PriorFactorPose3(key, values.atPose3(key), noise)

    def _ways(self, keys: Mapping[Node, int], values: Any) -> Iterator[Any]:
        """Odometry between consecutive images of each session."""
        for nodes in self._odometry.values():
            for start, end in pairwise(sorted(keys[node] for node in nodes if node in keys)):
                step = values.atPose3(start).between(values.atPose3(end))
                yield self._gtsam.BetweenFactorPose3(
                    start, end, step, self._odometry_noise(step))

    def _odometry_noise(self, step: Any) -> Any:
        turned = np.linalg.norm(self._gtsam.Rot3.Logmap(step.rotation()))
        way = math.sqrt(np.linalg.norm(step.translation()) + turned + LEAST_WAY_M)
        sigmas = [ODOMETRY_SIGMA_RAD * way] * 3 + [ODOMETRY_SIGMA_M * way] * 3
        return self._gtsam.noiseModel.Diagonal.Sigmas(np.array(sigmas))

    def _loops(self, keys: Mapping[Node, int], kernel: Any) -> Iterator[Any]:
        for closure in self._closures:
            if closure.start in keys and closure.end in keys:
                noise = self._gtsam.noiseModel.Robust.Create(
                    kernel, self._closure_noise(closure))
                yield self._gtsam.BetweenFactorPose3(
                    keys[closure.start], keys[closure.end], self._pose3(_seen(closure)), noise)

    def _closure_noise(self, closure: Closure) -> Any:
        """Gaussian, in gtsam's order: rotation, then translation, as the query sees them."""
        settings = self._settings
        if closure.transform is None:
            return self._gtsam.noiseModel.Diagonal.Sigmas(np.array([
                LOOSE_RAD, LOOSE_RAD, settings.keyframe_sigma_yaw,
                settings.keyframe_sigma_xy, settings.keyframe_sigma_xy, LOOSE_M]))
        turn = np.kron(np.eye(2), self._pose3(closure.transform).rotation().matrix())
        order = [3, 4, 5, 0, 1, 2]
        covariance = (turn.T @ closure.covariance @ turn)[np.ix_(order, order)]
        return self._gtsam.noiseModel.Gaussian.Covariance(covariance)

    # ---- gtsam's poses -------------------------------------------------------------------------

    def _pose3(self, pose: Pose) -> Any:
        x, y, z, w = pose.rotation.tolist()
        return self._gtsam.Pose3(self._gtsam.Rot3.Quaternion(w, x, y, z), pose.translation_m)

    @staticmethod
    def _pose(pose: Any) -> Pose:
        turn = pose.rotation().toQuaternion()
        return Pose(pose.translation(), np.array([turn.x(), turn.y(), turn.z(), turn.w()]))
