"""Stage 4, the second look: do the mutual matches fit one movement of the camera?

The estimators are OpenCV's. MAGSAC++ (Barath et al., CVPR 2020), which needs no exact threshold,
decides which matches are inliers. With a camera the inliers give a relative pose, with depth a
metric one. Both images are assumed to come from the same camera. Local features lie on a coarse
grid, which limits the accuracy of a pose; its covariance includes that limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from selavpr_ros.images.camera import Camera
from selavpr_ros.matching.relative_pose import (
    CONFIDENCE,
    LEAST_PAIRS,
    LINE_STEPS,
    MAX_ITERATIONS,
    POINT_STEPS,
    RelativePose,
    direction_pose,
    metric_pose,
    rays,
    sampson,
    spread_out,
)

NONE, HOMOGRAPHY, FUNDAMENTAL, PNP = 'none', 'homography', 'fundamental', 'pnp'
METHODS = (NONE, HOMOGRAPHY, FUNDAMENTAL, PNP)

MOST_ESTIMATED = 400  # pairs that a model is estimated from, evenly spread
# The scene is a plane if a homography has this share of the inliers of a fundamental matrix.
PLANE_RATIO = 0.8


@dataclass(frozen=True, eq=False)
class Geometry:
    """How far mutual matches agree on one movement.

    Attributes:
        method: the one of METHODS that was in fact used.
        inliers: (P,) bool, whether each pair is an inlier.
        rmse_px: root mean square error of the inliers in pixels; NaN without any.
        pose: relative pose, or None. It needs a `Camera`; a metric one needs depth, too.
    """

    method: str
    inliers: np.ndarray
    rmse_px: float
    pose: RelativePose | None = None

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def verify(
    pairs: np.ndarray, positions: np.ndarray, size: tuple[int, int], method: str,
    camera: Camera | None = None, depth_m: np.ndarray | None = None,
) -> Geometry:
    """Look for the one movement that most mutual matches agree on.

    Args:
        pairs: (P, 2) index of the query's and of the match's local feature.
        positions: (N, 2) of local features, shares of width and height.
        size: (height, width) of the query image in pixels.
        method: 'homography' (a plane, or a camera that only turns), 'fundamental' (any static
            scene), or 'pnp' (with depth; without it as 'fundamental').
        camera: calibration; with it, 'fundamental' gives rotation and direction, too.
        depth_m: (H, W) float32 of the query image, NaN or 0 where unknown.

    Returns:
        The geometry; without inliers if there are fewer than LEAST_PAIRS pairs, or nothing fits.

    Raises:
        CalibrationError: the camera is not that of images of this size.
    """
    scale = np.array(size[::-1], float)
    query, match = positions[pairs[:, 0]] * scale, positions[pairs[:, 1]] * scale
    step_px = _step_px(positions, scale)
    if len(pairs) < LEAST_PAIRS:
        return _nothing(method, len(pairs))
    if method == PNP and camera and depth_m is not None:
        return _by_depth(query, match, camera.scaled_to(size), depth_m, step_px)
    if method == HOMOGRAPHY:
        return _by_homography(query, match, step_px)
    if camera:
        return _by_camera(query, match, camera.scaled_to(size), step_px)
    plane, found = _both(query, match, step_px)
    return plane if found.count < plane.count else found


def _step_px(positions: np.ndarray, scale: np.ndarray) -> float:
    """Pixels between two features beside each other."""
    return float((np.abs(positions[1] - positions[0]) * scale).max())


def _nothing(method: str, count: int) -> Geometry:
    return Geometry(method, np.zeros(count, bool), np.nan)


def _rmse(errors_px: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors_px**2))) if len(errors_px) else float('nan')


# ---- without a camera ---------------------------------------------------------------------------


def _estimate(
    function: Callable[..., Any], query: np.ndarray, match: np.ndarray, limit_px: float
) -> np.ndarray | None:
    """The model (3, 3) that one of OpenCV's robust estimators finds, or None."""
    some = spread_out(np.arange(len(query)), MOST_ESTIMATED)
    try:
        matrix, _ = function(query[some], match[some], cv2.USAC_MAGSAC, limit_px,
                             maxIters=MAX_ITERATIONS, confidence=CONFIDENCE)
    except cv2.error:  # it fails on some degenerate sets
        return None
    return matrix if matrix is not None and matrix.shape == (3, 3) else None


def _within(method: str, errors_px: np.ndarray, limit_px: float) -> Geometry:
    inliers = errors_px < limit_px
    return Geometry(method, inliers, _rmse(errors_px[inliers]))


def _by_homography(query: np.ndarray, match: np.ndarray, step_px: float) -> Geometry:
    limit_px = POINT_STEPS * step_px
    matrix = _estimate(cv2.findHomography, query, match, limit_px)
    if matrix is None:
        return _nothing(HOMOGRAPHY, len(query))
    moved = cv2.perspectiveTransform(query[:, None], matrix)[:, 0]
    return _within(HOMOGRAPHY, np.linalg.norm(moved - match, axis=1), limit_px)


def _by_fundamental(query: np.ndarray, match: np.ndarray, step_px: float) -> Geometry:
    limit_px = LINE_STEPS * step_px
    matrix = _estimate(cv2.findFundamentalMat, query, match, limit_px)
    if matrix is None:
        return _nothing(FUNDAMENTAL, len(query))
    return _within(FUNDAMENTAL, np.abs(sampson(query, match, matrix)), limit_px)


def _both(query: np.ndarray, match: np.ndarray, step_px: float) -> tuple[Geometry, Geometry]:
    """By homography, for a plane or a camera that only turns, and by fundamental matrix."""
    return _by_homography(query, match, step_px), _by_fundamental(query, match, step_px)


# ---- with a camera ------------------------------------------------------------------------------


def _by_camera(query: np.ndarray, match: np.ndarray, camera: Camera, step_px: float) -> Geometry:
    """The inliers as without a camera, and the relative pose that follows from them."""
    first, second = camera.undistort(query), camera.undistort(match)
    plane, found = _both(first * camera.focal_px, second * camera.focal_px, step_px)
    if found.count < plane.count:
        return plane
    if found.count < LEAST_PAIRS:
        return found
    pose = direction_pose(
        first[found.inliers], second[found.inliers], step_px / camera.focal_px,
        is_plane=plane.count > PLANE_RATIO * found.count)
    return replace(found, pose=pose)


# ---- with depth ---------------------------------------------------------------------------------


def _depth_at(depth_m: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(P,) metres at (P, 2) shares of width and height; NaN where unknown."""
    columns, rows = (shares * depth_m.shape[::-1]).astype(int).T
    values = depth_m[rows.clip(0, depth_m.shape[0] - 1), columns.clip(0, depth_m.shape[1] - 1)]
    return np.where(np.isfinite(values) & (values > 0.0), values, np.nan)


def _by_depth(
    query: np.ndarray, match: np.ndarray, camera: Camera, depth_m: np.ndarray, step_px: float
) -> Geometry:
    depths = _depth_at(depth_m, query / camera.size[::-1])
    known = np.flatnonzero(np.isfinite(depths))
    if len(known) < LEAST_PAIRS:
        return _by_camera(query, match, camera, step_px)
    points = rays(camera.undistort(query[known])) * depths[known, None]
    seen = camera.undistort(match[known])
    step = step_px / camera.focal_px
    found = metric_pose(points, seen, step)
    if found is None:
        return _nothing(PNP, len(query))
    pose, errors = found
    inliers = np.zeros(len(query), bool)
    inliers[known] = errors < POINT_STEPS * step
    if inliers.sum() < LEAST_PAIRS:
        return _nothing(PNP, len(query))
    return Geometry(PNP, inliers, _rmse(errors[inliers[known]]) * camera.focal_px, pose)


