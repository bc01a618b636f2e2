"""Stage 5: each gate with a case that only it rejects."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.config import GateSettings
from selavpr_ros.decision import ClosureDecision, Decision, Match, Thresholds, name_outcome
from selavpr_ros.keyframe import Keyframe, KeyframeId

THRESHOLDS = Thresholds(min_similarity=0.5, min_local_score=0.3, use_local=True)
GATES = GateSettings(temporal_window=5, temporal_min=3, temporal_reach=2)


def _match(
    keyframe_id: int, similarity: float = 0.9, score: float = 0.5, session: int = 1
) -> Match:
    descriptor = np.ones(1, np.float32)
    keyframe = Keyframe(KeyframeId(session, keyframe_id), 0, descriptor, None, 0)
    return Match(keyframe, 0, similarity, int(score * 1000), score)


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
