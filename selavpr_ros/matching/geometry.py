"""Stage 4, the second look: do the mutual matches fit one movement of the camera?

Robust estimation is OpenCV's: MAGSAC++ (Barath et al., CVPR 2020), which asks for no exact
threshold. Both images are taken to be of one camera. Local features lie on a coarse grid, so the
angles and distances are those of a place, not of a calibration target; the covariances say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from selavpr_ros.images.camera import Camera
from selavpr_ros.pose import Pose

NONE, HOMOGRAPHY, FUNDAMENTAL, PNP = 'none', 'homography', 'fundamental', 'pnp'
METHODS = (NONE, HOMOGRAPHY, FUNDAMENTAL, PNP)

REFINEMENTS = 3
# Pairs that a model, and a pose, are estimated from, evenly spread; more tell no more.
MOST_ESTIMATED, MOST_REFINED = 400, 150
LEAST_PAIRS = 12  # fewer fit some movement by chance
MAX_ITERATIONS = 300
CONFIDENCE = 0.99
# Of the grid's step: no feature is placed better than on its cell. The first is a distance of two
# points, half a cell off in both directions at most; the second one from a line.
POINT_STEPS = 0.7
LINE_STEPS = 0.4
# The position of a pose without scale is a direction: along it, nothing is known.
NO_SCALE_VARIANCE = 1e6


@dataclass(frozen=True, eq=False)
class RelativePose:
    """The query camera in the frame of the matched camera, both optical: X_m = R X_q + t.

    Attributes:
        rotation: (3, 3) R.
        translation: (3,) t in metres; where not `is_metric`, a unit vector: the direction alone.
        covariance: (6, 6) of x, y, z (m or none) and rotations about x, y, z (rad).
    """

    rotation: np.ndarray
    translation: np.ndarray
    covariance: np.ndarray
    is_metric: bool

    @property
    def quaternion(self) -> np.ndarray:
        """(4,) x, y, z, w of the rotation."""
        turn = cv2.Rodrigues(self.rotation)[0].ravel()
        angle = float(np.linalg.norm(turn))
        return np.append(turn * (np.sinc(angle / 2.0 / np.pi) / 2.0), np.cos(angle / 2.0))

    def between_bases(self, base_to_camera: Pose) -> RelativePose:
        """The robot at the query in the frame of the robot at the match: B M B^-1.

        Args:
            base_to_camera: B, the optical frame in the robot's, the same at both.

        Raises:
            ValueError: without a scale, nobody knows.
        """
        if not self.is_metric:
            raise ValueError('a direction alone says nothing of where the robot was')
        turned, at_m = base_to_camera.matrix, base_to_camera.translation_m
        base_m = self.rotation @ (-turned.T @ at_m)  # the query's base, turned like the match
        moves = np.zeros((6, 6))  # of the result, where the camera's pose errs
        moves[:3, :3] = moves[3:, 3:] = turned
        moves[:3, 3:] = -turned @ _cross(base_m)
        return RelativePose(
            turned @ self.rotation @ turned.T, turned @ (base_m + self.translation) + at_m,
            moves @ self.covariance @ moves.T, is_metric=True)


@dataclass(frozen=True, eq=False)
class Geometry:
    """How far mutual matches agree on one movement.

    Attributes:
        method: one of METHODS, which was in fact used.
        inliers: (P,) bool of the pairs.
        rmse_px: of the inliers; NaN without any.
        pose: relative pose, or None: it needs a `Camera`, and a metric one depth.
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
        camera: then 'fundamental' tells rotation and direction, too.
        depth_m: (H, W) float32 of the query image, NaN or 0 where unknown.

    Returns:
        No inlier where there are fewer than LEAST_PAIRS pairs, or nothing fits.
    """
    scale = np.array(size[::-1], float)
    query, match = positions[pairs[:, 0]] * scale, positions[pairs[:, 1]] * scale
    step_px = _step_px(positions, scale)
    if len(pairs) < LEAST_PAIRS:
        return _nothing(method, len(pairs))
    if method == PNP and camera and depth_m is not None:
        return _by_depth(query, match, _fit(camera, size), depth_m, step_px)
    if method == HOMOGRAPHY:
        return _by_homography(query, match, step_px)
    if camera:
        return _by_camera(query, match, _fit(camera, size), step_px)
    return _by_fundamental(query, match, step_px)


def _step_px(positions: np.ndarray, scale: np.ndarray) -> float:
    """Pixels between two features beside each other."""
    return float((np.abs(positions[1] - positions[0]) * scale).max())


def _fit(camera: Camera, size: tuple[int, int]) -> Camera:
    """The same camera where its images come in another size."""
    if camera.size == size or 0 in camera.size:
        return camera
    factor = np.array([size[1] / camera.size[1], size[0] / camera.size[0], 1.0])
    return Camera(factor[:, None] * camera.matrix, camera.distortion, size, camera.is_fisheye)


def _nothing(method: str, count: int) -> Geometry:
    return Geometry(method, np.zeros(count, bool), np.nan)


def _rmse(errors_px: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors_px**2))) if len(errors_px) else float('nan')


def _some(index: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly spread."""
    return index[:: -(-len(index) // most)]


# ---- without a camera ---------------------------------------------------------------------------


def _estimate(
    function: Callable[..., Any], query: np.ndarray, match: np.ndarray, limit_px: float
) -> np.ndarray | None:
    """The model (3, 3) that one of OpenCV's robust estimators finds, or None."""
    some = _some(np.arange(len(query)), MOST_ESTIMATED)
    try:
        matrix, _ = function(query[some], match[some], cv2.USAC_MAGSAC, limit_px,
                             maxIters=MAX_ITERATIONS, confidence=CONFIDENCE)
    except cv2.error:  # it stumbles over some degenerate sets
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


def _sampson(query: np.ndarray, match: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """First-order distances to the epipolar constraint (Hartley & Zisserman, eq. 11.9).

    Args:
        query, match: (P, 2) points.
        matrix: (..., 3, 3) one constraint or several.

    Returns:
        (..., P)
    """
    ones = np.ones((len(query), 1))
    first, second = np.hstack([query, ones]), np.hstack([match, ones])
    line, back = first @ np.swapaxes(matrix, -1, -2), second @ matrix
    norm = np.sqrt((line[..., :2] ** 2).sum(-1) + (back[..., :2] ** 2).sum(-1))
    return (second * line).sum(-1) / np.maximum(norm, 1e-12)


def _by_fundamental(query: np.ndarray, match: np.ndarray, step_px: float) -> Geometry:
    """Where the camera hardly moved, or sees a plane, a homography says more."""
    plane = _by_homography(query, match, step_px)
    limit_px = LINE_STEPS * step_px
    matrix = _estimate(cv2.findFundamentalMat, query, match, limit_px)
    if matrix is None:
        return plane
    found = _within(FUNDAMENTAL, np.abs(_sampson(query, match, matrix)), limit_px)
    return plane if found.count < plane.count else found


# ---- with a camera ------------------------------------------------------------------------------


def _cross(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


Residuals = Callable[[np.ndarray], np.ndarray]  # of (K, n) parameters, (K, M)


def _least_squares(residuals: Residuals, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimise from zero on: Gauss-Newton, with the weights of Geman and McClure.

    Returns:
        (n,) parameters, and their (n, n) covariance sigma^2 (J^T W J)^-1.
    """
    at, step = np.zeros(size), 1e-5
    for _ in range(REFINEMENTS):
        errors, *moved = residuals(at + step * np.eye(size + 1, size, -1))
        sigma = 1.4826 * np.median(np.abs(errors))  # of normal errors, whatever else is there
        weights = 1.0 / (1.0 + (errors / (2.0 * sigma + 1e-12)) ** 2) ** 2
        jacobian = (np.stack(moved, axis=1) - errors[:, None]) / step
        inverse = np.linalg.pinv(jacobian.T @ (weights[:, None] * jacobian))
        at = at - inverse @ (jacobian.T @ (weights * errors))
    return at, sigma**2 * inverse


def _by_camera(query: np.ndarray, match: np.ndarray, camera: Camera, step_px: float) -> Geometry:
    """As without a camera, and then what it says of the movement."""
    first, second = camera.undistort(query), camera.undistort(match)
    focal_px = camera.focal_px
    found = _by_fundamental(first * focal_px, second * focal_px, step_px)
    if found.method != FUNDAMENTAL or found.count < LEAST_PAIRS:
        return found
    some = _some(np.flatnonzero(found.inliers), MOST_REFINED)
    first, second = first[some], second[some]
    matrix, _ = cv2.findFundamentalMat(first, second, cv2.FM_8POINT)
    if matrix is None:
        return found
    before, rotation, direction, _ = cv2.recoverPose(matrix, first, second, np.eye(3))
    if before < LEAST_PAIRS:  # so many points would lie behind one of the cameras
        return found
    half_step = step_px / focal_px / 2.0
    pose = _direction_pose(first, second, rotation, direction.ravel(), half_step)
    return replace(found, pose=pose)


def _turned(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Where a camera that only turns sees (P, 2) points."""
    rays = np.hstack([points, np.ones((len(points), 1))]) @ rotation.T
    return rays[:, :2] / rays[:, 2:]


def _direction_pose(
    query: np.ndarray, match: np.ndarray, rotation: np.ndarray, direction: np.ndarray,
    half_step: float,
) -> RelativePose:
    """Refine rotation and direction; of what is known of them, five numbers."""
    across = np.linalg.svd(direction[None])[2][1:]  # (2, 3), the plane in which it may err

    def moved(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turned, ahead = cv2.Rodrigues(change[2:])[0] @ rotation, direction + change[:2] @ across
        return turned, ahead / np.linalg.norm(ahead)

    def residuals(changes: np.ndarray) -> np.ndarray:
        essential = [_cross(ahead) @ turned for turned, ahead in map(moved, changes)]
        return _sampson(query, match, np.stack(essential))

    change, known = _least_squares(residuals, 5)
    turned, ahead = moved(change)
    spread = np.zeros((6, 5))
    spread[:3, :2], spread[3:, 2:] = across.T, np.eye(3)
    covariance = spread @ known @ spread.T
    # Neighbours on the grid err together, by up to half a step: turned by it, or moved by it.
    parallax = np.median(np.linalg.norm(match - _turned(query, turned), axis=1))
    covariance[3:, 3:] += half_step**2 * np.eye(3)
    covariance[:3, :3] += min(half_step / max(parallax, 1e-9), 1.0) ** 2 * (across.T @ across)
    covariance[:3, :3] += NO_SCALE_VARIANCE * np.outer(ahead, ahead)
    return RelativePose(turned, ahead, covariance, is_metric=False)


def _depth_at(depth_m: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    rows, columns = pixels[:, 1].astype(int), pixels[:, 0].astype(int)
    values = depth_m[rows.clip(0, depth_m.shape[0] - 1), columns.clip(0, depth_m.shape[1] - 1)]
    return np.where(np.isfinite(values) & (values > 0.0), values, np.nan)


def _by_depth(
    query: np.ndarray, match: np.ndarray, camera: Camera, depth_m: np.ndarray, step_px: float
) -> Geometry:
    depths = _depth_at(depth_m, query * np.array(depth_m.shape[::-1]) / camera.size[::-1])
    known = np.flatnonzero(np.isfinite(depths))
    if len(known) < LEAST_PAIRS:
        return _by_camera(query, match, camera, step_px)
    rays, seen = camera.undistort(query[known]), camera.undistort(match[known])
    points = np.hstack([rays, np.ones((len(rays), 1))]) * depths[known, None]
    step = step_px / camera.focal_px
    pose = _metric_pose(points, seen, step)
    if pose is None:
        return _nothing(PNP, len(query))
    errors = np.linalg.norm(_seen(points, pose.rotation, pose.translation) - seen, axis=1)
    inliers = np.zeros(len(query), bool)
    inliers[known] = errors < POINT_STEPS * step
    if inliers.sum() < LEAST_PAIRS:
        return _nothing(PNP, len(query))
    rmse_px = _rmse(errors[inliers[known]]) * camera.focal_px
    return Geometry(PNP, inliers, rmse_px, pose)


def _seen(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Where a camera sees (P, 3) points of another one's frame; so do (..., 3, 3) cameras."""
    there = points @ np.swapaxes(rotation, -1, -2) + translation[..., None, :]
    return there[..., :2] / there[..., 2:]


def _metric_pose(points: np.ndarray, seen: np.ndarray, step: float) -> RelativePose | None:
    """Points (K, 3) of the query camera, and where the matched one sees them, (K, 2)."""
    some = _some(np.arange(len(points)), MOST_REFINED)
    found, turn, shift, index = cv2.solvePnPRansac(
        points[some], seen[some], np.eye(3), None, iterationsCount=MAX_ITERATIONS,
        confidence=CONFIDENCE, reprojectionError=POINT_STEPS * step, flags=cv2.SOLVEPNP_P3P)
    if not found or index is None or len(index) < LEAST_PAIRS:
        return None
    points, seen = points[some[index.ravel()]], seen[some[index.ravel()]]
    rotation = cv2.Rodrigues(turn)[0]

    def moved(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return cv2.Rodrigues(change[3:])[0] @ rotation, shift.ravel() + change[:3]

    def residuals(changes: np.ndarray) -> np.ndarray:
        rotations, shifts = map(np.stack, zip(*map(moved, changes), strict=True))
        return (_seen(points, rotations, shifts) - seen).reshape(len(changes), -1)

    change, covariance = _least_squares(residuals, 6)
    distance_m = float(np.median(points[:, 2]))
    covariance += (step / 2.0) ** 2 * np.diag([distance_m**2] * 3 + [1.0] * 3)
    return RelativePose(*moved(change), covariance, is_metric=True)
