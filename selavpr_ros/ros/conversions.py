"""The core's results as ROS messages, and messages as the core's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import (
    Point,
    PoseStamped,
    PoseWithCovariance,
    Quaternion,
    Transform,
    Vector3,
)
from geometry_msgs.msg import Pose as PoseMessage
from std_msgs.msg import Header

from selavpr_msgs.msg import Keyframe as KeyframeMessage
from selavpr_msgs.msg import KeyframeId as KeyframeIdMessage
from selavpr_msgs.msg import LoopClosure as LoopClosureMessage
from selavpr_msgs.msg import PlaceMatch, PlaceMatchArray
from selavpr_msgs.msg import Relocalization as RelocalizationMessage
from selavpr_ros.decision.closures import LoopClosure
from selavpr_ros.decision.gates import Candidate
from selavpr_ros.decision.relocalization import Relocalization
from selavpr_ros.images.decoding import decode
from selavpr_ros.images.raw import KNOWN_ENCODINGS
from selavpr_ros.images.sixteen_bit import SteadyRange
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.matching.relative_pose import RelativePose
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.records import evidence_of

MODES = {'mapping': PlaceMatchArray.MAPPING, 'localization': PlaceMatchArray.LOCALIZATION}
NANOSECONDS = 1_000_000_000
MAX_SECONDS = 2**31 - 1

# Standard deviations sent where the odometry states none (all zero), which a back-end would take
# for certainty. The values are those of wheel odometry over a short way.
DEFAULT_SIGMA_M = 0.1
DEFAULT_SIGMA_RAD = 0.1
DEFAULT_COVARIANCE = np.diag([DEFAULT_SIGMA_M**2] * 3 + [DEFAULT_SIGMA_RAD**2] * 3).ravel()


@dataclass(frozen=True)
class Origin:
    """What messages need besides the results of the core.

    Attributes:
        header: header of the image.
        session: the running session.
        mode: 'mapping' or 'localization'.
        pose_frame: name of the odometry frame.
        map_frame: frame of a relocalization in a session without poses from a back-end.
        covariance: (36,) covariance of the odometry pose, or None.
        base_to_camera: pose of the camera on the robot, or None.
    """

    header: Header
    session: SessionId
    mode: str
    pose_frame: str
    map_frame: str
    covariance: np.ndarray | None
    base_to_camera: Pose | None = None


# ---- messages -> core -------------------------------------------------------------------------


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a stamp."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def id_from_message(message: KeyframeIdMessage) -> KeyframeId:
    """The keyframe that a message names."""
    return KeyframeId(message.session_id, message.keyframe_id, message.robot_id)


def pose_from_message(message: PoseMessage) -> Pose:
    """The pose of a message.

    Raises:
        PoseError: NaN, infinity or no rotation.
    """
    at, turn = message.position, message.orientation
    return Pose(np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w]))


def decode_with_fallback(
    message: Any, encoding_override: str = '', steady: SteadyRange | None = None
) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB; encodings that `decode` does not know go to cv_bridge.

    Raises:
        ImageError: neither of them can decode it.
    """
    encoding = encoding_override or getattr(message, 'encoding', '')
    if encoding and encoding not in KNOWN_ENCODINGS:
        try:
            from cv_bridge import CvBridge

            return CvBridge().imgmsg_to_cv2(message, 'rgb8')
        except Exception:  # cv_bridge is absent, built for another numpy, or fails, too
            pass
    return decode(message, encoding_override, steady)


# ---- core -> messages -------------------------------------------------------------------------


def ns_to_stamp(stamp_ns: int) -> Time:
    """Stamp of nanoseconds."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def ns_to_duration(duration_ns: int) -> Duration:
    """Duration, cut off at what the message can hold (68 years)."""
    seconds, nanoseconds = divmod(duration_ns, NANOSECONDS)
    return Duration(sec=max(-MAX_SECONDS, min(seconds, MAX_SECONDS)), nanosec=nanoseconds)


def point_message(pose: Pose) -> Point:
    """Position of a pose."""
    x, y, z = pose.translation_m.tolist()
    return Point(x=x, y=y, z=z)


def pose_message(pose: Pose) -> PoseMessage:
    """Position and orientation."""
    x, y, z, w = pose.rotation.tolist()
    return PoseMessage(position=point_message(pose), orientation=Quaternion(x=x, y=y, z=z, w=w))


def honest_covariance(covariance: np.ndarray) -> np.ndarray:
    """(36,) as given, or DEFAULT_COVARIANCE if it states nothing: all zero, or not finite."""
    stated = np.isfinite(covariance).all() and covariance.any()
    return covariance if stated else DEFAULT_COVARIANCE


def id_message(keyframe_id: KeyframeId, stamp_ns: int) -> KeyframeIdMessage:
    """Identity of a keyframe; `keyframe_id` is 0 for a query that was not kept."""
    return KeyframeIdMessage(
        robot_id=keyframe_id.robot_id, session_id=keyframe_id.session_id,
        keyframe_id=keyframe_id.keyframe_id, stamp=ns_to_stamp(stamp_ns))


def _query_id(kept: KeyframeId | None, stamp_ns: int, origin: Origin) -> KeyframeIdMessage:
    session = origin.session
    return id_message(kept or KeyframeId(session.session_id, 0, session.robot_id), stamp_ns)


def _fill(message: PoseWithCovariance, pose: RelativePose) -> None:
    x, y, z = pose.translation.tolist()
    qx, qy, qz, qw = pose.quaternion.tolist()
    message.pose = PoseMessage(
        position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    message.covariance = pose.covariance.ravel()


def _add_relative_pose(message: PlaceMatch, pose: RelativePose | None) -> None:
    if pose is None:
        return
    message.has_relative_pose, message.has_scale = True, pose.is_metric
    _fill(message.match_t_query, pose)


def match_message(candidate: Candidate, origin: Origin) -> PlaceMatch:
    """One candidate with its evidence and its verdict."""
    match, keyframe = candidate.match, candidate.match.keyframe
    message = PlaceMatch(
        match=id_message(keyframe.id, keyframe.stamp_ns), decision=int(candidate.decision),
        **evidence_of(candidate))
    if match.geometry:
        _add_relative_pose(message, match.geometry.pose)
    # Without a back-end, the pose of another session is in that session's odometry frame.
    moved, same = keyframe.map_pose, keyframe.id.session == origin.session
    if keyframe.place and (moved or same):
        message.has_map_pose = True
        header = Header(
            stamp=message.match.stamp, frame_id=moved.frame if moved else origin.pose_frame)
        message.map_pose = PoseStamped(header=header, pose=pose_message(keyframe.place))
    return message


def _outcome(recognition: Recognition, origin: Origin) -> int:
    if recognition.loop_closure is None:
        return PlaceMatchArray.NONE
    same = recognition.loop_closure.match.keyframe.id.session == origin.session
    return PlaceMatchArray.LOOP if same else PlaceMatchArray.RELOCALIZED


def candidates_message(
    recognition: Recognition, origin: Origin, model_id: str, now_ns: int
) -> PlaceMatchArray:
    """The answer to one query; `now_ns` is the time of publishing."""
    return PlaceMatchArray(
        header=origin.header,
        query=_query_id(recognition.keyframe.id if recognition.keyframe else None,
                        recognition.query.stamp_ns, origin),
        mode=MODES[origin.mode], outcome=_outcome(recognition, origin),
        matches=[match_message(candidate, origin) for candidate in recognition.candidates],
        reranked=recognition.reranked, age=ns_to_duration(now_ns - recognition.query.stamp_ns),
        stage_ms=np.array(recognition.stage_ms, np.float32), model_id=model_id)


def closure_message(closure: LoopClosure, origin: Origin) -> LoopClosureMessage:
    """A loop closure as an edge; its header has the query's own stamp."""
    match, stamp_ns = closure.candidate.match, closure.query.stamp_ns
    session = match.keyframe.id.session
    message = LoopClosureMessage(
        header=Header(stamp=ns_to_stamp(stamp_ns), frame_id=origin.header.frame_id),
        keyframe_from=id_message(match.keyframe.id, match.keyframe.stamp_ns),
        keyframe_to=_query_id(closure.keyframe_id, stamp_ns, origin),
        probability=closure.candidate.probability, inter_session=session != origin.session,
        inter_robot=session.robot_id != origin.session.robot_id,
        local_matches=match.local_matches)
    pose = match.geometry.pose if match.geometry else None
    # Another robot may have its camera elsewhere.
    if pose and pose.is_metric and origin.base_to_camera and not message.inter_robot:
        message.has_transform = True
        _fill(message.from_t_to, pose.between_bases(origin.base_to_camera))
    return message


def _transform(pose: Pose | None) -> Transform:
    if pose is None:
        return Transform(rotation=Quaternion(w=0.0))
    x, y, z = pose.translation_m.tolist()
    return Transform(
        translation=Vector3(x=x, y=y, z=z), rotation=pose_message(pose).orientation)


def keyframe_message(
    keyframe: Keyframe, header: Header, frame: str, covariance: np.ndarray | None,
    base_to_camera: Pose | None = None,
) -> KeyframeMessage:
    """A keyframe of the map.

    Args:
        keyframe: its `place` is in `frame`.
        header: header of its image.
        frame: name of the frame of its pose.
        covariance: (36,) of the pose; None or zeros are replaced, see `honest_covariance`.
        base_to_camera: pose of the camera on the robot, or None.
    """
    message = KeyframeMessage(header=header, id=id_message(keyframe.id, keyframe.stamp_ns))
    message.base_to_camera = _transform(base_to_camera)
    if keyframe.place:
        message.has_pose = True
        message.pose_frame = frame
        message.pose.pose = pose_message(keyframe.place)
        message.pose.covariance = honest_covariance(
            np.zeros(36) if covariance is None else covariance)
    return message


def relocalization_message(
    relocalization: Relocalization, origin: Origin
) -> RelocalizationMessage:
    """Where the robot is in another session's map."""
    frame = relocalization.frame or origin.map_frame
    message = RelocalizationMessage(
        header=Header(stamp=origin.header.stamp, frame_id=frame),
        success=True, pose_source=RelocalizationMessage.POSE_NONE,
        has_map_frame=bool(relocalization.frame),
        best=match_message(relocalization.best, origin),
        frames_used=relocalization.frames_used, hypotheses=relocalization.hypotheses)
    message.pose.covariance = relocalization.covariance.ravel()
    if relocalization.pose:
        message.pose_source = RelocalizationMessage.POSE_KEYFRAME
        message.pose.pose = pose_message(relocalization.pose)
    return message
