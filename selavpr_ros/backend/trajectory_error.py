"""How far a trajectory is from the true one; all positions are (N, 3) in metres."""

from __future__ import annotations

import numpy as np

from selavpr_ros.errors import GroundTruthError

MIN_POSES = 3


def align(positions: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Turn and shift positions onto the true ones, by least squares and without scale.

    Umeyama 1991, equations 34 to 42.

    Raises:
        GroundTruthError: there are fewer than 3, or not as many as true ones.
    """
    if len(positions) != len(true) or len(true) < MIN_POSES:
        raise GroundTruthError(
            f'{len(positions)} positions cannot be aligned with {len(true)} true ones: there have '
            f'to be as many of both, and {MIN_POSES} or more')
    middle, true_middle = positions.mean(axis=0), true.mean(axis=0)
    left, _, right = np.linalg.svd((true - true_middle).T @ (positions - middle))
    # A reflection may fit better, but it is not a motion.
    handedness = np.diag([1.0, 1.0, np.linalg.det(left @ right)])
    return (positions - middle) @ (left @ handedness @ right).T + true_middle


def rmse(positions: np.ndarray, true: np.ndarray) -> float:
    """Root of the mean squared distance from the true positions, in metres."""
    return float(np.sqrt(np.mean(np.sum((positions - true)**2, axis=1))))


def trajectory_error(positions: np.ndarray, true: np.ndarray) -> float:
    """Absolute trajectory error: the root mean square, in metres, of what alignment leaves.

    The frames of odometry and maps are arbitrary, so the whole trajectory is first aligned with
    the truth (Sturm et al. 2012; the same as `evo_ape --align`).

    Raises:
        GroundTruthError: see `align`.
    """
    return rmse(align(positions, true), true)
