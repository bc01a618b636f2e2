import numpy as np
from live import SECOND
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.matching.query import Query
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose
from selavpr_ros.ros.markers import MAX_REJECTED, MapMarkers

SESSION, NEXT = SessionId(1), SessionId(2)
ODOM = Header(frame_id='odom')
DESCRIPTOR = np.zeros(4, np.float32)


def keyframe(number, pose):
    return Keyframe(KeyframeId(1, number), number * SECOND, DESCRIPTOR, pose, 0.0)


def recognition(number, pose, decision=None, session=SESSION):
    found = Match(keyframe(1, Pose.planar(0.0, 0.0, 0.0)), 0, 0.9, 5, 0.5)
    candidates = [] if decision is None else [Candidate(found, decision)]
    closure = candidates[0] if decision is Decision.ACCEPTED else None
    query = Query(number * SECOND, session, DESCRIPTOR, None, pose, 0.0)
    return Recognition(query, candidates, closure, [], keyframe(number, pose), searched=1,
                       reranked=True, stage_ms=())


def points(message, name):
    marker = next(m for m in message.markers if m.ns == name)
    assert (marker.action == Marker.ADD) == bool(marker.points)
    return [point.x for point in marker.points]


def test_nothing_new_means_no_message():
    markers = MapMarkers()
    assert markers.take_message(SESSION) is None
    markers.add(recognition(1, Pose.planar(1.0, 0.0, 0.0)), ODOM)
    assert points(markers.take_message(SESSION), 'keyframes') == [1.0]
    assert markers.take_message(SESSION) is None


def test_the_picture_grows():
    markers = MapMarkers()
    markers.add(recognition(1, Pose.planar(1.0, 0.0, 0.0)), ODOM)
    markers.add(recognition(2, Pose.planar(2.0, 0.0, 0.0), Decision.ACCEPTED), ODOM)
    markers.add(recognition(3, Pose.planar(3.0, 0.0, 0.0), Decision.REJECT_NEW_PLACE), ODOM)
    message = markers.take_message(SESSION)
    assert points(message, 'keyframes') == [1.0, 2.0, 3.0]
    assert points(message, 'loop_closures') == [2.0, 0.0]
    assert points(message, 'rejected') == [3.0, 0.0]
    assert {marker.header.frame_id for marker in message.markers} == {'odom'}


def test_the_picture_is_bounded():
    markers = MapMarkers()
    for number in range(MAX_REJECTED + 10):
        pose = Pose.planar(float(number), 0.0, 0.0)
        markers.add(recognition(number, pose, Decision.REJECT_UNSURE), ODOM)
    assert len(points(markers.take_message(SESSION), 'rejected')) == 2 * MAX_REJECTED


def test_without_a_pose_there_is_nothing_to_draw():
    markers = MapMarkers()
    markers.add(recognition(1, None), ODOM)
    assert markers.take_message(SESSION) is None


def test_another_session_begins_anew_at_once():
    markers = MapMarkers()
    markers.add(recognition(1, Pose.planar(1.0, 0.0, 0.0)), ODOM)
    assert points(markers.take_message(SESSION), 'keyframes') == [1.0]
    message = markers.take_message(NEXT)  # a map was loaded, or cleared
    assert [marker.action for marker in message.markers] == [Marker.DELETE] * 3
    assert markers.take_message(NEXT) is None
    markers.add(recognition(2, Pose.planar(2.0, 0.0, 0.0), session=NEXT), ODOM)
    assert points(markers.take_message(NEXT), 'keyframes') == [2.0]


def test_keyframes_of_another_session_are_in_another_frame():
    markers = MapMarkers()
    pose = Pose.planar(2.0, 0.0, 0.0)
    for decision in (Decision.ACCEPTED, Decision.REJECT_UNSURE):
        markers.add(recognition(2, pose, decision, session=NEXT), ODOM)
    message = markers.take_message(NEXT)
    assert points(message, 'loop_closures') == points(message, 'rejected') == []
