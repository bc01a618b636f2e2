"""The movement of the camera between two images: a relative pose and its covariance.

Points are undistorted: where a camera of focal length 1 has them. Local features lie on a coarse
grid, which limits the accuracy of a pose; the covariance includes that limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from selavpr_ros.pose import Pose

# Pairs that a pose is estimated from, evenly spread. More pairs do not improve it.
MOST_REFINED = 150
REFINEMENTS = 3
LEAST_PAIRS = 12  # fewer fit some movement by chance
MAX_ITERATIONS = 300
CONFIDENCE = 0.99
# Inlier limits in steps of the grid, because a feature is placed no better than its cell. The
# first limits the distance between two points (half a cell in both directions), the second the
# distance between a point and a line.
POINT_STEPS = 0.7
LINE_STEPS = 0.4
# The position of a pose without scale is a direction. Its length is unknown.
NO_SCALE_VARIANCE = 1e6


def _cross(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


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
            ValueError: the pose is not metric.
        """
        if not self.is_metric:
            raise ValueError('a direction alone does not tell where the robot was')
        turned, at_m = base_to_camera.matrix, base_to_camera.translation_m
        base_m = self.rotation @ (-turned.T @ at_m)  # the query's base, turned like the match
        moves = np.zeros((6, 6))  # derivatives of the result by errors of the camera's pose
        moves[:3, :3] = moves[3:, 3:] = turned
        moves[:3, 3:] = -turned @ _cross(base_m)
        return RelativePose(
            turned @ self.rotation @ turned.T, turned @ (base_m + self.translation) + at_m,
            moves @ self.covariance @ moves.T, is_metric=True)


def spread_out(index: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the indices, evenly spread."""
    return index[:: -(-len(index) // most)]


def rays(points: np.ndarray) -> np.ndarray:
    """(P, 2) undistorted points -> (P, 3) at depth 1."""
    return np.hstack([points, np.ones((len(points), 1))])


def sampson(query: np.ndarray, match: np.ndarray, matrix: np.ndarray) -> np.ndarray:
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


def _refine(
    query: np.ndarray, match: np.ndarray, rotation: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Newton on the epipolar distances, with the weights of Geman and McClure.

    OpenCV does not refine an essential matrix. Unrefined, its rotation errs about twice as much on
    31 x 31 features.

    Returns:
        (3, 3) rotation, (3,) direction, the (2, 3) axes along which the direction was changed, and
        the (5, 5) covariance sigma^2 (J^T W J)^-1 of these two changes and of the rotation.
    """
    across = np.linalg.svd(direction[None])[2][1:]
    change, step = np.zeros(5), 1e-5

    def moved(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ahead = direction + change[:2] @ across
        return cv2.Rodrigues(change[2:])[0] @ rotation, ahead / np.linalg.norm(ahead)

    def errors_after(changes: np.ndarray) -> np.ndarray:
        essential = [_cross(ahead) @ turned for turned, ahead in map(moved, changes)]
        return sampson(query, match, np.stack(essential))

    for _ in range(REFINEMENTS):
        errors, *beside = errors_after(change + step * np.eye(6, 5, -1))
        sigma = 1.4826 * np.median(np.abs(errors))  # robust: of normal errors, the deviation
        weights = 1.0 / (1.0 + (errors / (2.0 * sigma + 1e-12)) ** 2) ** 2
        jacobian = (np.stack(beside, axis=1) - errors[:, None]) / step
        inverse = np.linalg.pinv(jacobian.T @ (weights[:, None] * jacobian))
        change = change - inverse @ (jacobian.T @ (weights * errors))
    return *moved(change), across, sigma**2 * inverse


def direction_pose(
    query: np.ndarray, match: np.ndarray, step: float, is_plane: bool
) -> RelativePose | None:
    """Rotation and direction of the movement that moved points (K, 2), all of them inliers.

    Args:
        query, match: (K, 2) undistorted points.
        step: distance between two features beside each other.
        is_plane: whether a homography explains the points, too. Then two movements fit, unless the
            camera hardly moved.

    Returns:
        None where the pose is ambiguous, or the points do not lie in front of both cameras.
    """
    some = spread_out(np.arange(len(query)), MOST_REFINED)
    query, match = query[some], match[some]
    # Not MAGSAC: on all matches of a street, 60 % of them wrong, the rotation of its essential
    # matrix (OpenCV 5.0) errs by 5.3 deg, that of this method by 1.4 deg.
    try:
        essential, _ = cv2.findEssentialMat(
            query, match, np.eye(3), cv2.USAC_ACCURATE, CONFIDENCE, LINE_STEPS * step)
    except cv2.error:  # it fails on some degenerate sets
        return None
    if essential is None or essential.shape != (3, 3):
        return None
    in_front, rotation, direction, _ = cv2.recoverPose(essential, query, match, np.eye(3))
    if in_front < LEAST_PAIRS:
        return None
    rotation, ahead, across, known = _refine(query, match, rotation, direction.ravel())
    turned = rays(query) @ rotation.T
    parallax = np.median(np.linalg.norm(match - turned[:, :2] / turned[:, 2:], axis=1))
    if is_plane and parallax > step:
        return None
    # Neighbours on the grid err together, by up to half a step: turned by it, or moved by it.
    spread = np.zeros((6, 5))
    spread[:3, :2], spread[3:, 2:] = across.T, np.eye(3)
    covariance = spread @ known @ spread.T
    covariance[3:, 3:] += (step / 2.0) ** 2 * np.eye(3)
    covariance[:3, :3] += min(step / 2.0 / max(parallax, 1e-9), 1.0) ** 2 * (across.T @ across)
    covariance[:3, :3] += NO_SCALE_VARIANCE * np.outer(ahead, ahead)
    return RelativePose(rotation, ahead, covariance, is_metric=False)


def metric_pose(
    points: np.ndarray, seen: np.ndarray, step: float
) -> tuple[RelativePose, np.ndarray] | None:
    """The pose from points (K, 3) of the query camera that the match sees at (K, 2).

    Planes are no special case. (The default of solvePnPRansac is: it refits by EPnP, which lost a
    third of the inliers on a floor.)

    Returns:
        The pose and the (K,) distances to where each point should be seen; None without a pose.
    """
    params = cv2.UsacParams()
    params.threshold, params.maxIterations = POINT_STEPS * step, MAX_ITERATIONS
    params.loMethod = cv2.LOCAL_OPTIM_NULL  # solvePnPRefineLM follows; both take twice the time
    some = spread_out(np.arange(len(points)), MOST_REFINED)
    try:
        found, _, turn, shift, index = cv2.solvePnPRansac(
            points[some], seen[some], np.eye(3), None, params=params)
    except cv2.error:  # it fails on some degenerate sets
        return None
    if not found or index is None or len(index) < LEAST_PAIRS:
        return None
    some = some[index.ravel()]
    turn, shift = cv2.solvePnPRefineLM(points[some], seen[some], np.eye(3), None, turn, shift)
    rotation = cv2.Rodrigues(turn)[0]
    # Projected from the match camera's frame, the derivatives are those of a turn of that frame.
    turned = points @ rotation.T
    projected, jacobian = cv2.projectPoints(turned, np.zeros(3), shift, np.eye(3), None)
    errors = np.linalg.norm(projected[:, 0] - seen, axis=1)
    slopes = jacobian.reshape(len(points), 2, -1)[some][:, :, [3, 4, 5, 0, 1, 2]].reshape(-1, 6)
    covariance = np.mean(errors[some] ** 2) / 2.0 * np.linalg.pinv(slopes.T @ slopes)
    # Neighbours on the grid err together, by up to half a step.
    distance_m = float(np.median(points[some, 2]))
    covariance += (step / 2.0) ** 2 * np.diag([distance_m**2] * 3 + [1.0] * 3)
    return RelativePose(rotation, shift.ravel(), covariance, is_metric=True), errors
