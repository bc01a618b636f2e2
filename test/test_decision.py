"""Stage 5: each gate with a case that only it rejects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.config import GateSettings
from selavpr_ros.decision import (
    NO_CANDIDATES,
    ORDER,
    ClosureDecision,
    Decision,
    Thresholds,
    Whereabouts,
    name_outcome,
)
from selavpr_ros.evidence import Match
from selavpr_ros.geometry import FUNDAMENTAL, Geometry
from selavpr_ros.keyframe import Keyframe, KeyframeId, MapPose, SessionId
from selavpr_ros.pose import Pose

THRESHOLDS = Thresholds(min_similarity=0.5, min_local_score=0.3, use_local=True)
GATES = GateSettings(temporal_window=5, temporal_min=3, temporal_reach=2)


def _match(
    keyframe_id: int, similarity: float = 0.9, score: float = 0.5, session: int = 1,
    x_m: float | None = None, map_x_m: float | None = None, robot: int = 0,
) -> Match:
    """A match with a keyframe after x metres of a straight way, where that is told."""
    descriptor = np.ones(1, np.float32)
    pose = None if x_m is None else Pose.planar(x_m, 0.0, 0.0)
    moved = None if map_x_m is None else MapPose('map', Pose.planar(map_x_m, 0.0, 0.0))
    keyframe = Keyframe(
        KeyframeId(session, keyframe_id, robot), 0, descriptor, pose, x_m or 0.0, moved)
    return Match(keyframe, 0, similarity, int(score * 1000), score)


def _at(x_m: float, travelled_m: float, session: int = 1) -> Whereabouts:
    return Whereabouts(SessionId(session), Pose.planar(x_m, 0.0, 0.0), travelled_m)


@pytest.fixture
def agreed() -> ClosureDecision:
    """After two views that agree on keyframe 10 and its neighbour."""
    decision = ClosureDecision()
    for keyframe_id in (10, 11):
        decision.judge([_match(keyframe_id)], True, GATES, THRESHOLDS)
    return decision


def _judge(decision: ClosureDecision, *matches: Match, is_new_view: bool = True, **thresholds):
    limits = Thresholds(**{**THRESHOLDS.__dict__, **thresholds})
    return [c.decision for c in decision.judge(list(matches), is_new_view, GATES, limits)]


def test_accepted_when_all_agree(agreed):
    candidate, = agreed.judge([_match(12)], True, GATES, THRESHOLDS)
    assert (candidate.decision, candidate.temporal_support) == (Decision.ACCEPTED, 3)


def test_low_similarity(agreed):
    assert _judge(agreed, _match(11, similarity=0.49)) == [Decision.REJECT_LOW_SIMILARITY]


def test_few_local_matches(agreed):
    assert _judge(agreed, _match(11, score=0.29)) == [Decision.REJECT_FEW_LOCAL]


def test_few_local_matches_do_not_matter_without_local_features(agreed):
    assert _judge(agreed, _match(11, score=0.0), use_local=False) == [Decision.ACCEPTED]


def test_nothing_is_accepted_without_a_safe_gate(agreed):
    candidates = _judge(agreed, _match(11, similarity=1.0), _match(12), is_safe=False)
    assert candidates == [Decision.REJECT_UNCALIBRATED] * 2
    assert name_outcome(candidates) == 'REJECT_UNCALIBRATED'


def test_a_place_that_nobody_else_saw(agreed):
    assert _judge(agreed, _match(50)) == [Decision.REJECT_TEMPORAL]


def test_the_same_number_in_another_session_is_no_support(agreed):
    assert _judge(agreed, _match(11, session=2)) == [Decision.REJECT_TEMPORAL]


def test_standing_still_closes_nothing_again(agreed):
    assert _judge(agreed, _match(11)) == [Decision.ACCEPTED]
    assert _judge(agreed, _match(11), is_new_view=False) == [Decision.REJECT_STATIONARY]
    assert _judge(agreed, _match(11)) == [Decision.ACCEPTED]


def test_standing_still_gathers_no_support():
    decision = ClosureDecision()
    assert _judge(decision, _match(11)) == [Decision.REJECT_TEMPORAL]
    for _ in range(10):
        assert _judge(decision, _match(11), is_new_view=False) == [Decision.REJECT_TEMPORAL]


def test_one_closure_per_query(agreed):
    verdicts = _judge(agreed, _match(11), _match(10), _match(12, score=0.1))
    assert verdicts == [
        Decision.ACCEPTED, Decision.REJECT_DUPLICATE, Decision.REJECT_FEW_LOCAL]


def test_the_best_that_passes_is_taken(agreed):
    verdicts = _judge(agreed, _match(70, similarity=0.1), _match(11))
    assert verdicts == [Decision.REJECT_LOW_SIMILARITY, Decision.ACCEPTED]


def test_support_is_forgotten_after_the_window(agreed):
    for _ in range(4):
        assert _judge(agreed) == []
    assert _judge(agreed, _match(11)) == [Decision.REJECT_TEMPORAL]


def test_reset_forgets(agreed):
    agreed.reset()
    assert _judge(agreed, _match(11)) == [Decision.REJECT_TEMPORAL]


def test_values_are_those_of_the_message():
    text = {name: int(value) for name, value in Decision.__members__.items()}
    assert text['REJECT_DUPLICATE'] == 10
    assert text['REJECT_TEMPORAL'] == 5


@pytest.mark.parametrize(('decisions', 'answer'), [
    ([], 'NO_CANDIDATES'),
    ([Decision.REJECT_LOW_SIMILARITY], 'REJECT_LOW_SIMILARITY'),
    ([Decision.REJECT_LOW_SIMILARITY, Decision.REJECT_FEW_LOCAL], 'REJECT_FEW_LOCAL'),
    ([Decision.REJECT_TEMPORAL, Decision.REJECT_DUPLICATE], 'REJECT_TEMPORAL'),
    ([Decision.ACCEPTED, Decision.REJECT_DUPLICATE, Decision.REJECT_FEW_LOCAL], 'ACCEPTED'),
])
def test_outcome_is_the_last_gate_that_was_reached(decisions, answer):
    assert name_outcome(decisions) == answer


# ---- another place that looks the same ---------------------------------------------------------


def _first(decision: ClosureDecision, *matches: Match, here: Whereabouts | None = None, **gates):
    """The best one's verdict and distinctness."""
    options = {} if here is None else {'here': here}
    candidate = decision.judge(
        list(matches), True, replace(GATES, **gates), THRESHOLDS, **options)[0]
    return candidate.decision, candidate.distinctness


def test_another_place_that_is_nearly_as_good_makes_ambiguous(agreed):
    best = _match(11, score=0.5, x_m=11.0)
    verdict, distinctness = _first(agreed, best, _match(90, score=0.46, x_m=90.0))
    assert verdict is Decision.REJECT_AMBIGUOUS
    assert distinctness == pytest.approx(1 - 0.46 / 0.5)


@pytest.mark.parametrize('other', [
    _match(90, score=0.44, x_m=90.0),  # not so good
    _match(12, score=0.5, x_m=90.0),  # the same place: a neighbour
    _match(30, score=0.5, x_m=20.0),  # 9 m apart
    _match(90, score=0.5),  # nobody knows where
    _match(90, score=0.5, session=2, x_m=90.0),  # in another odometry frame
])
def test_what_makes_nothing_ambiguous(agreed, other):
    assert _first(agreed, _match(11, score=0.5, x_m=11.0), other)[0] is Decision.ACCEPTED


def test_without_local_features_similarity_is_the_score(agreed):
    rows = agreed.judge(
        [_match(11, similarity=0.9, score=0.0, x_m=11.0),
         _match(90, similarity=0.8, score=0.0, x_m=90.0)],
        True, GATES, replace(THRESHOLDS, use_local=False))
    assert rows[0].distinctness == pytest.approx(1 - 0.8 / 0.9)
    assert rows[0].decision is Decision.ACCEPTED


def test_sessions_that_the_back_end_has_brought_together_compare(agreed):
    best = _match(11, x_m=11.0, map_x_m=0.0)
    assert _first(agreed, best, _match(5, session=2, map_x_m=50.0))[0] is (
        Decision.REJECT_AMBIGUOUS)
    assert _first(agreed, best, _match(5, session=2, map_x_m=5.0))[0] is Decision.ACCEPTED


def test_the_worse_of_two_places_has_a_negative_distinctness(agreed):
    rows = agreed.judge([_match(11, score=0.5, x_m=11.0), _match(90, score=0.4, x_m=90.0)],
                        True, GATES, THRESHOLDS)
    assert [c.decision for c in rows] == [Decision.ACCEPTED, Decision.REJECT_AMBIGUOUS]
    assert rows[1].distinctness == pytest.approx(1 - 0.5 / 0.4)


def test_without_another_place_there_is_no_distinctness(agreed):
    verdict, distinctness = _first(agreed, _match(11, x_m=11.0), _match(12, x_m=12.0))
    assert verdict is Decision.ACCEPTED
    assert np.isnan(distinctness)


def test_ambiguity_can_be_switched_off(agreed):
    best, other = _match(11, x_m=11.0), _match(90, x_m=90.0)
    assert _first(agreed, best, other)[0] is Decision.REJECT_AMBIGUOUS
    assert _first(agreed, best, other, ambiguity_ratio=1.5)[0] is Decision.ACCEPTED


def test_what_closed_a_loop_is_one_place_however_far_odometry_drifted(agreed):
    best, other = _match(11, x_m=11.0), _match(90, x_m=90.0)
    assert _first(agreed, best, other)[0] is Decision.REJECT_AMBIGUOUS
    agreed.remember(KeyframeId(1, 90), KeyframeId(1, 12))
    assert _first(agreed, best, other)[0] is Decision.ACCEPTED
    agreed.remember(KeyframeId(1, 190), KeyframeId(1, 90))  # and once more
    assert _first(agreed, best, _match(190, x_m=190.0))[0] is Decision.ACCEPTED


# ---- odometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('here', 'verdict'), [
    (_at(30.0, 200.0), Decision.ACCEPTED),  # 19 m off after 189 m
    (_at(45.0, 200.0), Decision.REJECT_ODOMETRY),  # 34 m
    (_at(20.0, 20.0), Decision.ACCEPTED),  # 9 m apart may be one place
    (_at(90.0, 200.0, session=2), Decision.ACCEPTED),  # another odometry frame
    (Whereabouts(SessionId(1), None, 200.0), Decision.ACCEPTED),
])
def test_odometry_cannot_be_off_by_any_amount(agreed, here, verdict):
    assert _first(agreed, _match(11, x_m=11.0), here=here)[0] is verdict


@pytest.mark.parametrize('gates', [{'max_drift': 0.2}, {'odometry_check': False}])
def test_how_bad_odometry_is_can_be_told(agreed, gates):
    here = _at(45.0, 200.0)
    assert _first(agreed, _match(11, x_m=11.0), here=here)[0] is Decision.REJECT_ODOMETRY
    agreed.reset()
    for number in (10, 11):
        _first(agreed, _match(number, x_m=11.0), here=here, **gates)
    assert _first(agreed, _match(12, x_m=11.0), here=here, **gates)[0] is Decision.ACCEPTED


@pytest.mark.parametrize(('height_m', 'travelled_m', 'gates', 'verdict'), [
    (3.0, 150.0, {}, Decision.REJECT_ODOMETRY),  # the next storey
    (-3.0, 150.0, {}, Decision.REJECT_ODOMETRY),
    (1.3, 50.0, {}, Decision.ACCEPTED),  # drift, or a slope
    (3.0, 350.0, {}, Decision.ACCEPTED),
    (3.0, 150.0, {'max_vertical_drift': 10.0}, Decision.ACCEPTED),
    (3.0, 150.0, {'odometry_check': False}, Decision.ACCEPTED),
])
def test_odometry_tells_storeys_apart(height_m, travelled_m, gates, verdict):
    above = Pose([11.0, 0.0, height_m], [0.0, 0.0, 0.0, 1.0])
    here, decision = Whereabouts(SessionId(1), above, travelled_m), ClosureDecision()
    for number in (10, 11):
        _first(decision, _match(number, x_m=11.0), here=here, **gates)
    assert _first(decision, _match(12, x_m=11.0), here=here, **gates)[0] is verdict


def test_how_far_odometry_agrees_is_told():
    matches = [_match(10, x_m=10.0), _match(11, x_m=90.0), _match(12), _match(9, session=2)]
    here = Whereabouts(SessionId(1), Pose([30.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]), 110.0)
    ratios = [c.odometry_ratio
              for c in ClosureDecision().judge(matches, True, GATES, THRESHOLDS, here)]
    assert ratios[:2] == pytest.approx([20.0 / 20.0, 60.0 / 12.0], abs=0.01)
    assert np.isnan(ratios[2:]).all()
    level = replace(GATES, max_vertical_drift=0.0, max_drift=10.0)
    steep, *_ = ClosureDecision().judge(matches, True, level, THRESHOLDS, here)
    assert steep.odometry_ratio == pytest.approx(1.0)
    lost = Whereabouts(SessionId(1), None, 110.0)
    assert np.isnan([c.odometry_ratio for c in ClosureDecision().judge(
        matches, True, GATES, THRESHOLDS, lost)]).all()


def test_what_odometry_excludes_is_no_vote():
    decision = ClosureDecision()
    for number in range(10, 14):
        verdict, _ = _first(decision, _match(number, x_m=float(number)), here=_at(90.0, 100.0))
        assert verdict is Decision.REJECT_ODOMETRY
    assert _first(decision, _match(14, x_m=14.0), here=_at(14.0, 100.0))[0] is (
        Decision.REJECT_TEMPORAL)


def test_keyframes_of_two_robots_are_no_neighbours(agreed):
    assert _judge(agreed, _match(11, robot=2)) == [Decision.REJECT_TEMPORAL]


# ---- names -------------------------------------------------------------------------------------


def test_every_verdict_has_a_place_in_the_order():
    assert {*ORDER, Decision.REJECT_DUPLICATE} == set(Decision)


def test_the_gate_that_a_query_came_farthest_to_has_the_last_word():
    assert name_outcome([Decision.REJECT_FEW_LOCAL, Decision.REJECT_AMBIGUOUS]) == (
        'REJECT_AMBIGUOUS')
    assert name_outcome([Decision.REJECT_ODOMETRY, Decision.REJECT_TEMPORAL]) == (
        'REJECT_TEMPORAL')
    assert name_outcome([Decision.REJECT_DUPLICATE]) == NO_CANDIDATES


def _with_geometry(inliers: int) -> Match:
    match = _match(12)  # 500 mutual matches
    return replace(match, geometry=Geometry(FUNDAMENTAL, np.arange(500) < inliers, 1.0))


def test_matches_that_fit_no_movement_are_rejected(agreed):
    ask = {'use_geometry': True}
    assert _judge(agreed, _with_geometry(200), **ask) == [Decision.ACCEPTED]
    assert _judge(agreed, _with_geometry(199), **ask) == [Decision.REJECT_GEOMETRY]
    assert _judge(agreed, _with_geometry(0)) == [Decision.ACCEPTED]


def test_what_nobody_looked_at_fits_no_movement(agreed):
    assert _judge(agreed, _match(12), use_geometry=True) == [Decision.REJECT_GEOMETRY]


@pytest.mark.parametrize(('probability', 'verdict'), [
    (0.9, Decision.ACCEPTED), (0.89, Decision.REJECT_LOW_PROBABILITY),
    (math.nan, Decision.REJECT_LOW_PROBABILITY)])
def test_who_asks_for_a_probability_gets_it(agreed, probability, verdict):
    match = replace(_match(12), probability=probability)
    gates = replace(GATES, min_probability=0.9)
    assert agreed.judge([match], True, gates, THRESHOLDS)[0].decision == verdict
    assert agreed.judge([match], True, GATES, THRESHOLDS)[0].decision == Decision.ACCEPTED
