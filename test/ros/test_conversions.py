import math
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from live import SECOND, place, raw_message
from std_msgs.msg import Header

from selavpr_msgs.msg import PlaceMatch, PlaceMatchArray
from selavpr_ros.decision.closures import LoopClosure
from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.decision.relocalization import Relocalization
from selavpr_ros.errors import ImageError
from selavpr_ros.evaluation.run_tables import run_tables
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose, SessionId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.matching.geometry import Geometry
from selavpr_ros.matching.query import Query
from selavpr_ros.matching.relative_pose import RelativePose
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.records import EVIDENCE, Run, record
from selavpr_ros.ros import conversions
from selavpr_ros.ros.conversions import Origin
from selavpr_ros.ros.live_run import recorded


def keyframe(session_id, keyframe_id, pose=None):
    stamp_ns = keyframe_id * SECOND + 5
    return Keyframe(KeyframeId(session_id, keyframe_id, robot_id=3), stamp_ns,
                    np.zeros(4, np.float32), pose, 0.0)


def recognition(match_session=1, *, kept=True):
    found = keyframe(match_session, 1, Pose.planar(3.0, 4.0, math.pi / 2))
    match = Match(found, 2, 0.75, 600, 0.6)
    accepted = Candidate(match, Decision.ACCEPTED, probability=0.995, likelihood_ratio=40.0)
    query = Query(
        9 * SECOND + 5, SessionId(2, robot_id=3), np.zeros(4, np.float32), None, None, 0.0)
    new = keyframe(2, 9) if kept else None
    return Recognition(query, [accepted], accepted, [], new, searched=1, reranked=True,
                       stage_ms=(1.0, 2.0, 3.0, 4.0, 5.0))


# All its numbers are different.
CANDIDATE = Candidate(
    Match(keyframe(2, 4), 2, 0.75, 600, 0.625, 0.875, 0.125, 0.25,
          Geometry('fundamental', np.arange(600) < 400, 1.5)),
    Decision.REJECT_UNSURE, probability=0.5, likelihood_ratio=40.0, odometry_ratio=0.375)
ORIGIN = Origin(Header(frame_id='camera'), SessionId(2, robot_id=3), 'mapping', 'odom', 'map',
                np.zeros(36))


def test_stamps_survive_the_way_there_and_back():
    stamp_ns = 1_700_000_000_123_456_789
    assert conversions.stamp_to_ns(conversions.ns_to_stamp(stamp_ns)) == stamp_ns


@pytest.mark.parametrize(('duration_ns', 'sec'), [
    (1_500_000_000, 1), (-1, -1), (10**19, 2**31 - 1), (-10**19, -2**31 + 1)])
def test_durations_are_cut_off_at_what_a_message_holds(duration_ns, sec):
    assert conversions.ns_to_duration(duration_ns).sec == sec


def test_a_pose_survives_the_way_there_and_back():
    pose = Pose.planar(1.0, 2.0, 0.5)
    assert conversions.pose_from_message(conversions.pose_message(pose)) == pose


def test_an_answer_holds_all_the_evidence():
    message = conversions.candidates_message(recognition(2), ORIGIN, 'm', 10 * SECOND)
    query = message.query
    assert (query.robot_id, query.session_id, query.keyframe_id) == (3, 2, 9)
    assert message.outcome == PlaceMatchArray.LOOP
    assert message.reranked
    assert list(message.stage_ms) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (message.age.sec, message.age.nanosec) == (0, SECOND - 5)
    match = message.matches[0]
    assert match.match.robot_id == 3
    assert (match.rank_global, match.local_matches) == (2, 600)
    assert (match.similarity, match.local_score) == pytest.approx((0.75, 0.6))
    assert (match.probability, match.likelihood_ratio) == pytest.approx((0.995, 40.0))
    assert match.has_map_pose
    assert match.map_pose.pose.position.y == 4.0
    assert match.map_pose.pose.orientation.z == pytest.approx(math.sqrt(0.5))


def test_message_record_and_table_have_the_same_numbers():
    types = PlaceMatch.get_fields_and_field_types()
    numbers = {name for name, kind in types.items() if kind in ('float', 'uint16', 'uint32')}
    assert numbers == set(EVIDENCE)
    assert numbers <= set(run_tables(Run())['candidates'][0])


def test_a_candidate_survives_the_way_through_a_message():
    kept, heard = record(CANDIDATE), recorded(conversions.match_message(CANDIDATE, ORIGIN))
    assert (heard.match_id, heard.match_stamp_ns, heard.decision) == (
        kept.match_id, kept.match_stamp_ns, kept.decision)
    numbers = [getattr(heard, name) for name in EVIDENCE]
    assert numbers == pytest.approx([getattr(kept, name) for name in EVIDENCE])
    assert len(set(numbers)) == len(EVIDENCE)


def test_every_verdict_has_its_constant():
    constants = {name: getattr(PlaceMatch, name) for name in dir(PlaceMatch)
                 if name == 'ACCEPTED' or name.startswith('REJECT_')}
    assert constants == {decision.name: decision.value for decision in Decision}


def test_an_earlier_closure_has_the_stamp_and_the_keyframe_of_its_own_query():
    found = recognition()
    earlier = LoopClosure(replace(found.query, stamp_ns=4 * SECOND), KeyframeId(2, 5, robot_id=3),
                          found.candidates)
    both = [conversions.closure_message(closure, ORIGIN)
            for closure in replace(found, earlier=[earlier]).loop_closures]
    assert [edge.header.stamp.sec for edge in both] == [4, 9]
    assert [edge.keyframe_to.stamp.sec for edge in both] == [4, 9]
    assert [edge.keyframe_to.keyframe_id for edge in both] == [5, 9]
    assert {edge.header.frame_id for edge in both} == {ORIGIN.header.frame_id}
    unkept = conversions.closure_message(replace(earlier, keyframe_id=None), ORIGIN)
    assert (unkept.keyframe_to.session_id, unkept.keyframe_to.keyframe_id) == (2, 0)
    assert unkept.keyframe_to.stamp.sec == 4


def test_a_query_that_is_no_keyframe_has_the_id_zero():
    message = conversions.candidates_message(recognition(kept=False), ORIGIN, 'm', 0)
    assert (message.query.session_id, message.query.keyframe_id) == (2, 0)
    assert message.query.stamp.sec == 9


def test_an_edge_into_another_session_says_so():
    edge = conversions.closure_message(recognition(match_session=1).loop_closures[0], ORIGIN)
    assert edge.inter_session
    assert (edge.keyframe_from.session_id, edge.keyframe_to.session_id) == (1, 2)
    answer = conversions.candidates_message(recognition(match_session=1), ORIGIN, 'm', 0)
    assert answer.outcome == PlaceMatchArray.RELOCALIZED


def test_an_edge_has_a_transform_only_in_metres_and_with_a_known_camera():
    known = replace(ORIGIN, base_to_camera=Pose([0.0, 0.0, 1.0], [-0.5, 0.5, -0.5, 0.5]))
    measured = RelativePose(np.eye(3), np.array([0.0, 0.0, 2.0]), np.eye(6), is_metric=True)
    found = recognition(match_session=2)

    def edge(pose, origin=known, robot_id=3):
        match = found.loop_closure.match
        keyframe = replace(match.keyframe, id=KeyframeId(2, 1, robot_id))
        match = replace(match, keyframe=keyframe, geometry=Geometry(
            'pnp', np.ones(600, bool), 1.0, pose))
        accepted = replace(found.loop_closure, match=match)
        closure = LoopClosure(found.query, None, [accepted])
        return conversions.closure_message(closure, origin)

    assert edge(measured).has_transform
    assert edge(measured).from_t_to.pose.position.x == pytest.approx(2.0)
    # A metre above the ground, a radian is a metre.
    assert edge(measured).from_t_to.covariance[0] == pytest.approx(1.0 + 1.0)
    assert not edge(replace(measured, is_metric=False)).has_transform
    assert not edge(None).has_transform
    assert not edge(measured, ORIGIN).has_transform
    assert not edge(measured, robot_id=7).has_transform


def test_a_robot_is_told_from_another():
    other = recognition(match_session=2)
    moved = replace(other.loop_closure.match.keyframe, id=KeyframeId(2, 1, robot_id=7),
                    map_pose=MapPose('building', Pose.planar(8.0, 0.0, 0.0)))
    accepted = Candidate(replace(other.loop_closure.match, keyframe=moved), Decision.ACCEPTED)
    edge = conversions.closure_message(LoopClosure(other.query, None, [accepted]), ORIGIN)
    assert (edge.inter_session, edge.inter_robot) == (True, True)
    assert (edge.keyframe_from.robot_id, edge.keyframe_to.robot_id) == (7, 3)
    match = conversions.match_message(accepted, ORIGIN)
    assert match.map_pose.header.frame_id == 'building'
    assert match.map_pose.pose.position.x == 8.0


def test_where_the_robot_is_in_another_session():
    found = recognition().loop_closure
    pose = Pose.planar(1.0, 2.0, 0.5)
    message = conversions.relocalization_message(
        Relocalization('', pose, np.diag([4.0] * 6), found, 3, 1), ORIGIN)
    assert message.header.frame_id == 'map'
    assert (message.success, message.has_map_frame, message.frames_used) == (True, False, 3)
    assert message.pose_source == message.POSE_KEYFRAME
    assert message.pose.covariance.reshape(6, 6)[5, 5] == 4.0
    assert conversions.pose_from_message(message.pose.pose) == pose
    message = conversions.relocalization_message(
        Relocalization('building', None, np.diag([4.0] * 6), found, 1, 2), ORIGIN)
    assert (message.header.frame_id, message.has_map_frame) == ('building', True)
    assert (message.pose_source, message.hypotheses) == (message.POSE_NONE, 2)


def test_a_covariance_is_never_all_zero():
    stated = np.zeros(36)
    stated[0] = 0.3
    assert np.array_equal(conversions.honest_covariance(stated), stated)
    for unstated in (np.zeros(36), np.full(36, np.nan)):
        assert (np.diag(conversions.honest_covariance(unstated).reshape(6, 6)) > 0.0).all()
    message = conversions.keyframe_message(
        keyframe(1, 1, Pose.planar(1.0, 0.0, 0.0)), Header(), 'odom', np.zeros(36))
    assert message.pose.covariance[0] > 0.0
    assert message.pose_frame == 'odom'


def test_a_keyframe_without_a_pose_says_so():
    message = conversions.keyframe_message(keyframe(1, 1), Header(), 'odom', None)
    assert (message.has_pose, message.pose_frame) == (False, '')


@pytest.fixture
def cv_bridge(monkeypatch):
    """A cv_bridge that knows one encoding more, and is none on this machine."""
    class CvBridge:
        def imgmsg_to_cv2(self, message, wanted):
            assert (message.encoding, wanted) == ('my_format', 'rgb8')
            return np.full((240, 320, 3), 7, np.uint8)

    module = ModuleType('cv_bridge')
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)


def test_cv_bridge_is_asked_about_unknown_encodings_only(cv_bridge):
    image = place(1)
    known = conversions.decode_with_fallback(raw_message(image, 0))
    assert np.array_equal(known, image)
    assert (conversions.decode_with_fallback(raw_message(image, 0, 'my_format')) == 7).all()
    with pytest.raises(ImageError, match="unknown encoding 'other'"):
        conversions.decode_with_fallback(raw_message(image, 0, 'other'))


def test_without_cv_bridge_an_unknown_encoding_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(ImageError, match="unknown encoding 'my_format'"):
        conversions.decode_with_fallback(raw_message(place(1), 0, 'my_format'))
