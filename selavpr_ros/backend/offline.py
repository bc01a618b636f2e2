"""Optimises the pose graph of finished runs, and measures the gain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from selavpr_ros.backend.pose_graph import Closure, Node, PoseGraph, Poses
from selavpr_ros.backend.trajectory_error import MIN_POSES, align, rmse
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import GroundTruth
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import QueryRecord, Run


def session_borders(nodes: Sequence[Node]) -> list[int]:
    """The indices at which another session begins."""
    return [number for number, (before, node) in enumerate(pairwise(nodes), start=1)
            if before.session != node.session]


@dataclass(frozen=True, eq=False)
class Optimised:
    """A trajectory by odometry, and optimised with loop closures.

    Positions are (N, 3) in metres, in the order of `nodes`. With truth, they are those of nodes
    with a known true pose, and aligned with it: by odometry each session separately, the optimised
    ones all together.

    Attributes:
        poses: optimised poses of all nodes, in the odometry frame of the first session.
        nodes: nodes of the positions, session by session, by time.
        odometry, optimised: positions by odometry, and after optimisation.
        true: true positions, or None if too few of a session are known.
        closures: number of loop closures between the poses, true or false.
        unlinked: number of sessions left out, since too few closures link them to the others.
    """

    poses: Poses
    nodes: list[Node]
    odometry: np.ndarray
    optimised: np.ndarray
    true: np.ndarray | None
    closures: int
    unlinked: int

    @property
    def error_before_m(self) -> float | None:
        """Absolute trajectory error of odometry; None without truth."""
        return None if self.true is None else rmse(self.odometry, self.true)

    @property
    def error_after_m(self) -> float | None:
        """Absolute trajectory error of the optimised poses; None without truth."""
        return None if self.true is None else rmse(self.optimised, self.true)

    def __str__(self) -> str:
        left_out = f'; {self.unlinked} sessions not linked' if self.unlinked else ''
        if not self.poses:
            return 'unknown: no odometry'
        if self.true is None:
            return f'unknown: no truth{left_out}'
        return (f'{self.error_before_m:.2f} m -> {self.error_after_m:.2f} m with '
                f'{self.closures} loop closures{left_out}')


def _session(run: Run, number: int) -> SessionId:
    """The session of a run; a run that kept no keyframe gets an id that no other run has."""
    return run.keyframes[0].id.session if run.keyframes else SessionId(-number)


def _poses(run: Run, session: SessionId, odometry: PoseTrack) -> Poses:
    """The queries as nodes; a keyframe's pose is that of its query."""
    poses = ((query, query.pose or odometry.at(query.stamp_ns)) for query in run.queries)
    return {Node(session, query.stamp_ns): pose for query, pose in poses if pose}


def _closures(queries: Iterable[QueryRecord], session: SessionId) -> list[Closure]:
    return [
        Closure(Node(found.match_id.session, found.match_stamp_ns), Node(session, query.stamp_ns))
        for query in queries if (found := query.closure)]


def _positions(poses: Iterable[Pose]) -> np.ndarray:
    return np.array([pose.translation_m for pose in poses]).reshape(-1, 3)


def _align_each(nodes: Sequence[Node], positions: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Align each session with the truth separately: each has its own odometry frame."""
    borders = session_borders(nodes)
    return np.concatenate([align(*parts) for parts in zip(
        np.split(positions, borders), np.split(true, borders), strict=True)])


def _known(nodes: Iterable[Node], truth: GroundTruth | None) -> Poses:
    """True poses of the nodes; none at all if a session has too few to be aligned with."""
    if truth is None:
        return {}
    known = {node: pose for node in nodes if (pose := truth.pose_at(node.stamp_ns))}
    borders = [0, *session_borders(list(known)), len(known)]
    return known if min(np.diff(borders)) >= MIN_POSES else {}


def _compare(
    odometry: Poses, poses: Poses, truth: GroundTruth | None, closures: int, unlinked: int
) -> Optimised:
    known = _known(poses, truth)
    nodes = list(known or poses)
    before, after = (_positions(way[node] for node in nodes) for way in (odometry, poses))
    if not known:
        return Optimised(poses, nodes, before, after, None, closures, unlinked)
    true = _positions(known.values())
    return Optimised(poses, nodes, _align_each(nodes, before, true), align(after, true), true,
                     closures, unlinked)


def optimise_runs(
    runs: Sequence[Run], truth: GroundTruth | None = None, odometry: PoseTrack | None = None
) -> Optimised:
    """Make one trajectory of the odometry and the loop closures of runs on one map.

    Every query is a node here, not only the keyframes, so that the error is that of the whole way.

    Args:
        runs: session after session.
        truth: true poses, or None.
        odometry: poses of all runs, for queries that came without one.

    Raises:
        BackendError: gtsam is not installed, or would crash.
    """
    sessions = [_session(run, number) for number, run in enumerate(runs, start=1)]
    graph, start = PoseGraph(), Poses()
    for run, session in zip(runs, sessions, strict=True):
        start |= _poses(run, session, odometry or PoseTrack())
        for closure in _closures(run.queries, session):
            graph.close(closure)
    for node, pose in start.items():
        graph.add(node, pose)
    poses = graph.optimise()
    linked = {node.session for node in poses}
    unlinked = len({node.session for node in start} - linked)
    closures = sum(closure.start in poses and closure.end in poses
                   for run, session in zip(runs, sessions, strict=True)
                   for closure in _closures(run.queries, session))
    return _compare(start, poses, truth, closures, unlinked)
