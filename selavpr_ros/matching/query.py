"""The image asked about now, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from selavpr_ros.errors import CalibrationError
from selavpr_ros.images.camera import Camera
from selavpr_ros.maps.keyframe import Hint, SessionId
from selavpr_ros.pose import Pose


@dataclass(frozen=True)
class Context:
    """What belongs to an image besides its pixels, its stamp and the robot's pose.

    Attributes:
        pose_frame: name of the odometry frame.
        pose_covariance: (36,) of the pose, row-major, or None.
        camera: calibration of the image, for relative poses; None where it is not known.
        depth_m: (h, w) float32, for `verify.geometry` pnp: metres along the optical axis, NaN or 0
            where unknown, over the same field of view; or None.
        hint: where the robot may be; only keyframes there become candidates. None: anywhere.
        only_other_sessions: whether the running session's own keyframes are left out, whatever
            `index.session_filter` says.
        calibration_error: why a camera that came with the image was left out; None if it was not.
    """

    pose_frame: str = 'odom'
    pose_covariance: np.ndarray | None = None
    camera: Camera | None = None
    depth_m: np.ndarray | None = None
    hint: Hint | None = None
    only_other_sessions: bool = False
    calibration_error: CalibrationError | None = None

    def for_images_of(self, size: tuple[int, int]) -> Context:
        """The same with the camera scaled to images of (height, width); without one of others."""
        try:
            return replace(self, camera=self.camera and self.camera.scaled_to(size))
        except CalibrationError as error:
            return replace(self, camera=None, calibration_error=error)


NO_CONTEXT = Context()


@dataclass(frozen=True)
class Query:
    """The image asked about now.

    Attributes:
        stamp_ns: stamp of the image.
        session: session in which the image was taken.
        global_descriptor: (D,) float32, a unit vector.
        local_features: (N, d) float32 unit rows, or None.
        pose: pose of the robot, or None.
        travelled_m: metres since the session's start, along the known poses.
        context: what else came with the image.
        size: (height, width) of the image in pixels.
    """

    stamp_ns: int
    session: SessionId
    global_descriptor: np.ndarray
    local_features: torch.Tensor | None
    pose: Pose | None
    travelled_m: float
    context: Context = NO_CONTEXT
    size: tuple[int, int] = (0, 0)

    def similarity_to(self, other: Query) -> float:
        """Cosine of the global descriptors."""
        return float(self.global_descriptor @ other.global_descriptor)
