from collections import deque

import numpy as np
import pytest
from live import SECOND  # noqa: F401  skips without ROS

from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.errors import DescriptorError, ImageError, PoseError, StampError
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.matching.query import Query
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose
from selavpr_ros.ros.statistics import (
    REPEAT_S,
    Statistics,
    error_kind,
    percentile,
    rate,
)


class Clock:
    """A clock that is turned by hand."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def keyframe(pose=None):
    return Keyframe(KeyframeId(1, 1), 1, np.zeros(4, np.float32), pose, 0.0)


def candidates(*decisions):
    match = Match(keyframe(), 0, 0.9, 5, 0.5)
    return [Candidate(match, decision, 1) for decision in decisions]


@pytest.mark.parametrize(('error', 'kind'), [
    (ImageError(), 'bad image'), (StampError(), 'stamp out of order'),
    (PoseError(), 'bad odometry pose'), (DescriptorError(), 'no descriptor'),
    (KeyError(), 'internal error')])
def test_errors_have_kinds(error, kind):
    assert error_kind(error) == kind


def test_an_error_is_logged_once_and_again_after_a_while():
    clock = Clock()
    statistics = Statistics(clock)
    assert statistics.failed('bad image', 'one')
    assert not statistics.failed('bad image', 'two')
    assert statistics.failed('other', 'three')
    clock.now_s += REPEAT_S
    assert statistics.failed('bad image', 'four')
    seen = statistics.snapshot()
    assert (seen.failures['bad image'].count, seen.failures['bad image'].last) == (3, 'four')
    assert list(seen.news) == ['bad image']


def test_times_and_counts_of_queries():
    clock = Clock()
    statistics = Statistics(clock)
    empty = statistics.snapshot()
    assert np.isnan([empty.seconds_since_image, empty.seconds_since_accept, empty.latency_p50_ms,
                     empty.image_rate, empty.age_p95_ms]).all()
    for _ in range(3):
        statistics.image_received(0.2)
        clock.now_s += 0.5
    query = Query(1, SessionId(1), np.zeros(4, np.float32), None, None, 0.0)
    accepted = candidates(Decision.ACCEPTED)
    kept = keyframe(Pose.planar(0.0, 0.0, 0.0))
    for found, closure, new, latency_ms, age_ms in (
            (accepted, accepted[0], kept, 40.0, 200.0), ([], None, None, 60.0, float('nan'))):
        recognition = Recognition(
            query, found, closure, [], new, searched=1, reranked=True, stage_ms=())
        statistics.recognized(recognition, latency_ms, age_ms)
    statistics.count('dropped', 2)
    clock.now_s += 1.0
    seen = statistics.snapshot()
    assert seen.counts == {
        'received': 3, 'processed': 2, 'dropped': 2, 'keyframes_with_pose': 1,
        'loop_closures': 1}
    assert seen.verdicts == {'ACCEPTED': 1, 'NO_CANDIDATES': 1}
    assert seen.seconds_since_image == pytest.approx(1.5)
    assert seen.seconds_since_accept == pytest.approx(1.0)
    assert seen.image_rate == pytest.approx(2.0)
    assert seen.latency_p50_ms == pytest.approx(50.0)
    assert seen.age_p95_ms == pytest.approx(200.0)
    assert seen.image_age_s == 0.2


def test_percentile_and_rate_of_nothing_are_nan():
    assert np.isnan(percentile(deque(), 50))
    assert np.isnan(rate(deque([1.0])))
