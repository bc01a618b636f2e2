"""A small world on two laps: twelve places, each one a texture of its own."""

from __future__ import annotations

import cv2
import numpy as np

from selavpr_ros.pose import Pose

PLACES = 12
SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS
LAP_NS = PLACES * SECOND_NS

# The baseline on tiny images, and a map that two short laps can close.
SETTINGS = {
    'model.weights': 'hog',
    'model.input_size': [96, 128],
    'model.warmup_iters': 0,
    'keyframe.max_overlap': 1.0,
    'index.exclude_recent_keyframes': 3,
    'index.exclude_recent_seconds': 3.0,
}


def picture(place: int, lap: int = 0) -> np.ndarray:
    """(96, 128, 3) uint8 RGB: coarse blocks that the place decides, and noise of the lap."""
    blocks = np.random.default_rng(place).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    coarse = cv2.resize(blocks, (128, 96), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = np.random.default_rng(1000 + place + 100 * lap).integers(-4, 5, coarse.shape)
    return np.clip(coarse + noise, 0, 255).astype(np.uint8)


def images() -> list[tuple[int, np.ndarray]]:
    """One image a second with its stamp in ns: the places in order, twice."""
    return [
        (START_NS + i * SECOND_NS, picture(i % PLACES, i // PLACES)) for i in range(2 * PLACES)
    ]


def true_poses() -> list[tuple[int, Pose]]:
    """Twice around a circle, 20 m from one place to the next; four poses a second."""
    radius_m, step = 20 * PLACES / (2 * np.pi), 2 * np.pi / PLACES
    poses = []
    for i in range(4 * (2 * PLACES - 1) + 1):
        angle = step * i / 4
        pose = Pose.planar(radius_m * np.cos(angle), radius_m * np.sin(angle), angle + np.pi / 2)
        poses.append((START_NS + i * SECOND_NS // 4, pose))
    return poses
