"""The core's results as ROS messages, and messages as the core's values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, PoseStamped, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from std_msgs.msg import Header

from selavpr_msgs.msg import Keyframe as KeyframeMessage
from selavpr_msgs.msg import KeyframeId as KeyframeIdMessage
from selavpr_msgs.msg import LoopClosure, PlaceMatch, PlaceMatchArray
from selavpr_ros.decision import Candidate
from selavpr_ros.image_decoding import KNOWN_ENCODINGS, decode
from selavpr_ros.keyframe_map import Keyframe, KeyframeId
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose

NANOSECONDS = 1_000_000_000
MAX_SECONDS = 2**31 - 1

# Standard deviations sent where the odometry states none (all zero), which a back-end would take
# for certainty: what wheel odometry is good for over a short way.
DEFAULT_SIGMA_M = 0.1
DEFAULT_SIGMA_RAD = 0.1
DEFAULT_COVARIANCE = np.diag([DEFAULT_SIGMA_M**2] * 3 + [DEFAULT_SIGMA_RAD**2] * 3).ravel()


@dataclass(frozen=True)
class Origin:
    """What the core does not know of its results.

    Attributes:
        header: of the image.
        robot_id: of this robot.
        session_id: of the running session.
        pose_frame: odometry frame.
        covariance: (36,) of the odometry pose.
    """

    header: Header
    robot_id: int
    session_id: int
    pose_frame: str
    covariance: np.ndarray


# ---- messages -> core -------------------------------------------------------------------------


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a stamp."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def pose_from_message(message: PoseMessage) -> Pose:
    """The pose of a message.

    Raises:
        PoseError: NaN, infinity or no rotation.
    """
    at, turn = message.position, message.orientation
    return Pose(np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w]))


def decode_with_fallback(message: Any, encoding_override: str = '') -> np.ndarray:
    """`image_decoding.decode`; encodings that it does not know are tried with cv_bridge.

    Raises:
        ImageError: neither can decode it.
    """
    encoding = encoding_override or getattr(message, 'encoding', '')
    if encoding and encoding not in KNOWN_ENCODINGS:
        try:
            from cv_bridge import CvBridge

            return CvBridge().imgmsg_to_cv2(message, 'rgb8')
        except Exception:  # cv_bridge is absent, built for another numpy, or knows it neither
            pass
    return decode(message, encoding_override)


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
    """(36,) as given; DEFAULT_COVARIANCE where it states nothing: all zero, or not finite."""
    stated = np.isfinite(covariance).all() and covariance.any()
    return covariance if stated else DEFAULT_COVARIANCE


def id_message(keyframe_id: KeyframeId, stamp_ns: int, robot_id: int) -> KeyframeIdMessage:
    """Identity of a keyframe; `keyframe_id` 0 for a query that is none."""
    return KeyframeIdMessage(
        robot_id=robot_id, session_id=keyframe_id.session_id,
        keyframe_id=keyframe_id.keyframe_id, stamp=ns_to_stamp(stamp_ns))


def _query_id(recognition: Recognition, origin: Origin) -> KeyframeIdMessage:
    kept = recognition.keyframe
    keyframe_id = kept.id if kept else KeyframeId(origin.session_id, 0)
    return id_message(keyframe_id, recognition.query.stamp_ns, origin.robot_id)


def _stored_id(keyframe: Keyframe, origin: Origin) -> KeyframeIdMessage:
    return id_message(keyframe.id, keyframe.stamp_ns, origin.robot_id)


def match_message(candidate: Candidate, origin: Origin) -> PlaceMatch:
    """One candidate with its evidence and its verdict."""
    match, keyframe = candidate.match, candidate.match.keyframe
    message = PlaceMatch(
        match=_stored_id(keyframe, origin), rank_global=match.rank_global,
        similarity=match.similarity, local_matches=match.local_matches,
        local_score=match.local_score, temporal_support=candidate.temporal_support,
        decision=int(candidate.decision), distinctness=math.nan, probability=math.nan,
        reprojection_rmse=math.nan)
    # The pose of another session is in that session's odometry frame.
    if keyframe.pose and keyframe.id.session_id == origin.session_id:
        message.has_map_pose = True
        header = Header(stamp=message.match.stamp, frame_id=origin.pose_frame)
        message.map_pose = PoseStamped(header=header, pose=pose_message(keyframe.pose))
    return message


def _outcome(recognition: Recognition, origin: Origin) -> int:
    if recognition.loop_closure is None:
        return PlaceMatchArray.NONE
    session_id = recognition.loop_closure.match.keyframe.id.session_id
    same = session_id == origin.session_id
    return PlaceMatchArray.LOOP if same else PlaceMatchArray.RELOCALIZED


def candidates_message(
    recognition: Recognition, origin: Origin, model_id: str, now_ns: int
) -> PlaceMatchArray:
    """The answer to one query; `now_ns` is the time of publishing."""
    return PlaceMatchArray(
        header=origin.header, query=_query_id(recognition, origin),
        mode=PlaceMatchArray.MAPPING, outcome=_outcome(recognition, origin),
        matches=[match_message(candidate, origin) for candidate in recognition.candidates],
        reranked=recognition.reranked, age=ns_to_duration(now_ns - recognition.query.stamp_ns),
        stage_ms=np.array(recognition.stage_ms, np.float32), model_id=model_id)


def closure_message(recognition: Recognition, origin: Origin) -> LoopClosure:
    """The accepted candidate as an edge; has to be there."""
    assert recognition.loop_closure is not None
    match = recognition.loop_closure.match
    return LoopClosure(
        header=origin.header, keyframe_from=_stored_id(match.keyframe, origin),
        keyframe_to=_query_id(recognition, origin), probability=math.nan,
        inter_session=match.keyframe.id.session_id != origin.session_id,
        local_matches=match.local_matches)


def keyframe_message(keyframe: Keyframe, origin: Origin) -> KeyframeMessage:
    """A keyframe that was kept; where the camera sits on the robot is not known here."""
    message = KeyframeMessage(header=origin.header, id=_stored_id(keyframe, origin))
    if keyframe.pose:
        message.has_pose = True
        message.pose_frame = origin.pose_frame
        message.pose.pose = pose_message(keyframe.pose)
        message.pose.covariance = honest_covariance(origin.covariance)
    return message
