"""What the map is made of: keyframes, their identity, and the sessions that they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selavpr_ros.maps.local_codec import EncodedFeatures
from selavpr_ros.pose import Pose


@dataclass(frozen=True, order=True)
class SessionId:
    """Identity of a session; the sessions of a robot count from 1."""

    session_id: int
    robot_id: int = 0

    def __str__(self) -> str:
        return f'{self.robot_id}/{self.session_id}' if self.robot_id else f'{self.session_id}'


@dataclass(frozen=True, order=True)
class KeyframeId:
    """Permanent identity of a keyframe; the keyframes of a session count from 1."""

    session_id: int
    keyframe_id: int
    robot_id: int = 0

    @property
    def session(self) -> SessionId:
        """The session that it belongs to."""
        return SessionId(self.session_id, self.robot_id)

    def __str__(self) -> str:
        return f'{self.session}:{self.keyframe_id}'


@dataclass(frozen=True)
class Session:
    """One continuous recording with one odometry frame.

    Attributes:
        id: its identity in this map.
        label: what a person calls it.
        started_ns: stamp of its first keyframe.
        frame: name of its odometry frame.
        model_id: id of the model that made its descriptors.
        origin: where it was recorded, 'uuid of the map/session'; stays the same in all copies.
    """

    id: SessionId
    label: str = ''
    started_ns: int = 0
    frame: str = 'odom'
    model_id: str = ''
    origin: str = ''


@dataclass(frozen=True)
class SessionSummary:
    """How much of a session is in a map.

    Attributes:
        session: the session.
        keyframes: how many keyframes it has; 0 if all of them were forgotten.
        last_ns: stamp of the last keyframe.
        with_pose: how many keyframes have a pose in the odometry frame.
        with_map_pose: how many keyframes have a pose of the back-end.
    """

    session: Session
    keyframes: int
    last_ns: int
    with_pose: int
    with_map_pose: int


@dataclass(frozen=True)
class MapPose:
    """Pose of a keyframe by the SLAM back-end, in a frame that sessions share."""

    frame: str
    pose: Pose


@dataclass(frozen=True, eq=False)
class Keyframe:
    """An image kept in the map.

    Attributes:
        id: its identity.
        stamp_ns: stamp of the image.
        global_descriptor: (D,) float32, a unit vector.
        pose: pose of the robot in the session's odometry frame, or None.
        travelled_m: metres travelled since the session's start; 0 without poses.
        map_pose: pose by the SLAM back-end, or None.
        has_local: whether its local features are kept.
    """

    id: KeyframeId
    stamp_ns: int
    global_descriptor: np.ndarray
    pose: Pose | None
    travelled_m: float
    map_pose: MapPose | None = None
    has_local: bool = False

    @property
    def place(self) -> Pose | None:
        """Where it is: by the back-end, else by the session's odometry."""
        return self.map_pose.pose if self.map_pose else self.pose


@dataclass(frozen=True, eq=False)
class NewKeyframe:
    """A keyframe with all that is too large, or too rarely asked for, to stay in memory.

    Attributes:
        keyframe: what stays in memory.
        session: the session that it belongs to.
        local: its local features, or None.
        thumbnail: a small JPEG; empty without.
        covariance: (36,) of the pose, row-major, or None.
        external_key: the back-end's key of the keyframe; 0 if unset.
    """

    keyframe: Keyframe
    session: Session
    local: EncodedFeatures | None = None
    thumbnail: bytes = b''
    covariance: np.ndarray | None = None
    external_key: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of its descriptor, local features and thumbnail."""
        local = 0 if self.local is None else self.local.nbytes
        return self.keyframe.global_descriptor.nbytes + local + len(self.thumbnail)


@dataclass(frozen=True)
class Hint:
    """Where the robot may be: within `radius_m` of `position_m` (3,), in the keyframes' frame."""

    position_m: np.ndarray
    radius_m: float
