"""Movements that are known, seen by a pinhole camera on a coarse grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from selavpr_ros.images.camera import Camera
from selavpr_ros.matching.geometry import FUNDAMENTAL, HOMOGRAPHY, PNP, verify
from selavpr_ros.matching.relative_pose import LEAST_PAIRS, RelativePose
from selavpr_ros.pose import Pose, compose, relative_pose

SIZE = (480, 640)
SIDE = 31
MATRIX = np.array([[400.0, 0.0, 320.0], [0.0, 400.0, 240.0], [0.0, 0.0, 1.0]])
CAMERA = Camera(MATRIX, np.zeros(5), SIZE)
AT = (np.arange(SIDE) + 0.5) / SIDE
POSITIONS = np.stack([np.tile(AT, SIDE), np.repeat(AT, SIDE)], axis=1)
PIXELS = POSITIONS * SIZE[::-1]
TURN = np.array([0.01, 0.12, 0.02])
SHIFT_M = np.array([0.4, -0.1, 0.8])


def street(seed: int = 0) -> np.ndarray:
    """(N,) metres along the optical axis of a street's ground and walls, with things in it."""
    x, y = (PIXELS - MATRIX[:2, 2]).T / 400.0
    depth = np.minimum(20.0, 1.2 / np.maximum(y, 0.01))
    depth = np.minimum(depth, 4.0 / np.maximum(np.abs(x), 0.01))
    return depth * np.random.default_rng(seed).uniform(0.7, 1.0, len(depth))


def points(depth: np.ndarray) -> np.ndarray:
    rays = np.hstack([(PIXELS - MATRIX[:2, 2]) / 400.0, np.ones((len(PIXELS), 1))])
    return rays * depth[:, None]


def pairs_after(
    moved: Callable[[np.ndarray], np.ndarray], depth: np.ndarray, wrong: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) on the grid, and whether each was made wrong."""
    there = moved(points(depth))
    with np.errstate(divide='ignore', invalid='ignore'):
        seen = there[:, :2] / there[:, 2:] * 400.0 + MATRIX[:2, 2]
    inside = (there[:, 2] > 0.3) & (seen >= 0).all(1) & (seen < SIZE[::-1]).all(1)
    cell = (seen[inside] / SIZE[::-1] * SIDE).astype(int)
    pairs = np.stack([np.flatnonzero(inside), cell[:, 1] * SIDE + cell[:, 0]], axis=1)
    random = np.random.default_rng(7)
    is_wrong = random.random(len(pairs)) < wrong
    pairs[is_wrong, 1] = random.integers(0, SIDE * SIDE, is_wrong.sum())
    return pairs, is_wrong


def rigid(turn: np.ndarray, shift_m: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    rotation = cv2.Rodrigues(np.asarray(turn, float))[0]
    return lambda known: known @ rotation.T + shift_m


def angle_deg(first: np.ndarray, second: np.ndarray) -> float:
    return math.degrees(float(np.linalg.norm(cv2.Rodrigues(first @ second.T)[0])))


def depth_image(depth: np.ndarray) -> np.ndarray:
    image = np.full(SIZE, np.nan, np.float32)
    image[PIXELS[:, 1].astype(int), PIXELS[:, 0].astype(int)] = depth
    return image


@pytest.mark.parametrize('camera', [None, CAMERA])
def test_a_static_scene_fits_and_wrong_pairs_do_not(camera):
    pairs, is_wrong = pairs_after(rigid(TURN, SHIFT_M), street(), wrong=0.4)
    found = verify(pairs, POSITIONS, SIZE, FUNDAMENTAL, camera)
    assert found.method == FUNDAMENTAL
    assert found.inliers[~is_wrong].mean() > 0.85
    assert found.inliers[is_wrong].mean() < 0.25  # some lie on their epipolar line by chance
    assert found.count == found.inliers.sum()
    assert 0.5 < found.rmse_px < 8.0


def test_pairs_at_random_do_not_fit():
    pairs = np.random.default_rng(0).integers(0, SIDE * SIDE, (400, 2))
    for method in (HOMOGRAPHY, FUNDAMENTAL):
        assert verify(pairs, POSITIONS, SIZE, method).count < 0.3 * len(pairs)


def test_a_camera_that_stands_still_or_only_turns_fits():
    for turn in (np.zeros(3), np.array([0.0, 0.2, 0.0])):
        pairs, _ = pairs_after(rigid(turn, np.zeros(3)), street())
        for method in (HOMOGRAPHY, FUNDAMENTAL):
            found = verify(pairs, POSITIONS, SIZE, method, CAMERA)
            assert found.inliers.mean() > 0.9
            assert found.pose is None  # it moved nowhere, so there is no direction


def facade() -> np.ndarray:
    """(N,) metres to a wall that is seen a little from the side."""
    return 8.0 / (1.0 + 0.3 * (PIXELS[:, 0] - MATRIX[0, 2]) / 400.0)


def floor() -> np.ndarray:
    """(N,) metres to the ground, 1.2 m below a camera that looks down by 46 deg."""
    y = (PIXELS[:, 1] - MATRIX[1, 2]) / 400.0
    return 1.2 / (math.cos(0.8) * y + math.sin(0.8))


@pytest.mark.parametrize('plane', [facade, floor])
@pytest.mark.parametrize('seed', range(4))
def test_a_plane_fits_and_no_wrong_direction_follows(plane, seed):
    """Two movements explain a plane: there is no pose, or its covariance says how unsure it is."""
    shift_m = np.random.default_rng(seed).normal(0, 0.5, 3)
    pairs, is_wrong = pairs_after(rigid(TURN, shift_m), plane(), wrong=0.4)
    found = verify(pairs, POSITIONS, SIZE, FUNDAMENTAL, CAMERA)
    assert found.inliers[~is_wrong].mean() > 0.85
    if found.pose:
        error = found.pose.translation - shift_m / np.linalg.norm(shift_m)
        assert error @ np.linalg.solve(found.pose.covariance[:3, :3], error) < 3 * 2.0**2


@pytest.mark.parametrize('plane', [facade, floor])
@pytest.mark.parametrize('shift_m', [np.zeros(3), SHIFT_M / 2.0])
def test_depth_of_a_plane_gives_metres(plane, shift_m):
    pairs, is_wrong = pairs_after(rigid(TURN, shift_m), plane(), wrong=0.4)
    found = verify(pairs, POSITIONS, SIZE, PNP, CAMERA, depth_image(plane()))
    assert found.inliers[~is_wrong].mean() > 0.9
    assert found.inliers[is_wrong].mean() < 0.1
    assert found.pose is not None
    error = np.append(found.pose.translation - shift_m, cv2.Rodrigues(
        found.pose.rotation @ cv2.Rodrigues(TURN)[0].T)[0])
    assert np.linalg.norm(error[:3]) < 0.3
    assert error @ np.linalg.solve(found.pose.covariance, error) < 6 * 2.0**2


@pytest.mark.parametrize('seed', range(3))
def test_rotation_and_direction_without_scale(seed):
    pairs, _ = pairs_after(rigid(TURN, SHIFT_M), street(seed), wrong=0.3)
    pose = verify(pairs, POSITIONS, SIZE, FUNDAMENTAL, CAMERA).pose
    assert pose is not None
    assert not pose.is_metric
    assert angle_deg(pose.rotation, cv2.Rodrigues(TURN)[0]) < 4.0
    ahead = SHIFT_M / np.linalg.norm(SHIFT_M)
    assert np.linalg.norm(pose.translation) == pytest.approx(1.0)
    assert pose.translation @ ahead > math.cos(math.radians(45.0))
    along = pose.translation @ pose.covariance[:3, :3] @ pose.translation
    assert along > 1e5  # of the length, nothing is known


# Of a robot that looks ahead, 0.3 m before its middle, 0.1 m to the left and 1 m above the ground.
MOUNT = Pose([0.3, 0.1, 1.0], [-0.5, 0.5, -0.5, 0.5])


def test_what_the_camera_measured_is_told_of_the_robot():
    """The robot drives 2 m ahead, 1 m to the left, and turns a quarter to the left."""
    start, end = Pose.planar(5.0, 6.0, 0.0), Pose.planar(7.0, 7.0, math.pi / 2)
    seen = relative_pose(compose(start, MOUNT), compose(end, MOUNT))
    assert seen.translation_m == pytest.approx([-1.2, 0.0, 1.6])  # right, down, ahead
    camera = RelativePose(seen.matrix, seen.translation_m, np.eye(6), is_metric=True)
    robot = camera.between_bases(MOUNT)
    assert robot.is_metric
    assert robot.translation == pytest.approx([2.0, 1.0, 0.0])
    assert robot.quaternion == pytest.approx([0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)])
    with pytest.raises(ValueError, match='direction alone'):
        replace(camera, is_metric=False).between_bases(MOUNT)


def test_its_covariance_goes_the_same_way():
    random = np.random.default_rng(0)
    spread = np.diag([0.05, 0.02, 0.1, 0.01, 0.02, 0.005])
    far = Pose([3.0, 1.0, 2.0], MOUNT.rotation)
    seen = RelativePose(cv2.Rodrigues(TURN)[0], SHIFT_M, spread @ spread, is_metric=True)
    middle, errors = seen.between_bases(far), []
    for _ in range(4000):
        change = spread @ random.standard_normal(6)
        one = replace(seen, rotation=cv2.Rodrigues(change[3:])[0] @ seen.rotation,
                      translation=seen.translation + change[:3]).between_bases(far)
        turned = cv2.Rodrigues(one.rotation @ middle.rotation.T)[0].ravel()
        errors.append([*(one.translation - middle.translation), *turned])
    assert np.cov(np.array(errors).T) == pytest.approx(middle.covariance, abs=3e-4)


def test_depth_gives_metres_and_an_honest_covariance():
    errors = []
    for seed in range(8):
        depth = street(seed)
        random = np.random.default_rng(seed)
        turn, shift_m = random.normal(0, 0.08, 3), random.normal(0, 0.5, 3)
        pairs, _ = pairs_after(rigid(turn, shift_m), depth, wrong=0.3)
        found = verify(pairs, POSITIONS, SIZE, PNP, CAMERA, depth_image(depth))
        assert found.method == PNP
        pose = found.pose
        assert pose is not None
        assert pose.is_metric
        assert np.linalg.norm(pose.translation - shift_m) < 0.5
        error = np.append(pose.translation - shift_m, cv2.Rodrigues(
            pose.rotation @ cv2.Rodrigues(turn)[0].T)[0])
        errors.append(error @ np.linalg.solve(pose.covariance, error) / 6.0)
    assert np.mean(errors) < 1.5  # of normal errors it would be 1


def test_depth_that_knows_too_little_is_as_no_depth():
    pairs, _ = pairs_after(rigid(TURN, SHIFT_M), street())
    for depth_m in (None, np.zeros(SIZE, np.float32), np.full(SIZE, np.nan, np.float32)):
        assert verify(pairs, POSITIONS, SIZE, PNP, CAMERA, depth_m).method == FUNDAMENTAL


def test_depth_of_another_size_covers_the_same_view():
    depth = street()
    pairs, _ = pairs_after(rigid(TURN, SHIFT_M), depth)
    cells = depth.reshape(SIDE, SIDE).astype(np.float32)
    pose = verify(pairs, POSITIONS, SIZE, PNP, CAMERA, cells).pose
    assert pose is not None
    assert np.linalg.norm(pose.translation - SHIFT_M) < 0.5


def test_a_camera_info_of_another_size_is_scaled():
    pairs, _ = pairs_after(rigid(TURN, SHIFT_M), street())
    half = Camera(np.diag([0.5, 0.5, 1.0]) @ MATRIX, np.zeros(5), (240, 320))
    depth_m = depth_image(street())
    poses = [verify(pairs, POSITIONS, SIZE, PNP, camera, depth_m).pose
             for camera in (CAMERA, half)]
    assert poses[0] is not None
    assert poses[1] is not None
    assert poses[1].translation == pytest.approx(poses[0].translation, abs=1e-6)


def test_a_fisheye_is_undistorted():
    fisheye = Camera(MATRIX, np.array([0.05, 0.01, 0.0, 0.0]), SIZE, is_fisheye=True)
    straight = fisheye.undistort(np.array([[320.0, 240.0], [600.0, 240.0]]))
    assert straight[0] == pytest.approx([0.0, 0.0])
    # A lens whose angle is the distance from the centre sees farther out than a pinhole.
    assert straight[1, 0] > 280.0 / 400.0 * 0.95
    assert CAMERA.undistort(np.array([[520.0, 240.0]]))[0] == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize('count', [0, 1, LEAST_PAIRS - 1])
def test_too_few_pairs_say_nothing(count):
    pairs = np.stack([np.arange(count), np.arange(count)], axis=1).reshape(-1, 2)
    for method in (HOMOGRAPHY, FUNDAMENTAL, PNP):
        found = verify(pairs, POSITIONS, SIZE, method, CAMERA, np.ones(SIZE, np.float32))
        assert (found.count, len(found.inliers)) == (0, count)
        assert math.isnan(found.rmse_px)
        assert found.pose is None


def test_the_same_pairs_give_the_same_answer():
    pairs, _ = pairs_after(rigid(TURN, SHIFT_M), street(), wrong=0.5)
    one, other = (verify(pairs, POSITIONS, SIZE, FUNDAMENTAL, CAMERA) for _ in range(2))
    assert np.array_equal(one.inliers, other.inliers)


def test_a_quaternion_turns_as_its_matrix():
    pairs, _ = pairs_after(rigid(TURN, SHIFT_M), street())
    pose = verify(pairs, POSITIONS, SIZE, FUNDAMENTAL, CAMERA).pose
    assert pose is not None
    x, y, z, w = pose.quaternion
    assert pose.rotation[0] == pytest.approx(
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)])
