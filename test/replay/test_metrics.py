"""Every number of a small run is worked out by hand here."""

from __future__ import annotations

import dataclasses

import pytest

from selavpr_ros.decision import Decision
from selavpr_ros.keyframe import KeyframeId
from selavpr_ros.pose import Pose
from selavpr_ros.replay.ground_truth import PairTruth
from selavpr_ros.replay.metrics import Latency, latencies, outcome, summarise
from selavpr_ros.replay.records import CandidateRecord, KeyframeRecord, QueryRecord, Run

ACCEPTED = Decision.ACCEPTED
LOW, FEW = Decision.REJECT_LOW_SIMILARITY, Decision.REJECT_FEW_LOCAL
TEMPORAL, DUPLICATE = Decision.REJECT_TEMPORAL, Decision.REJECT_DUPLICATE


def candidate(keyframe: int, decision: Decision) -> CandidateRecord:
    """Keyframe n has stamp n."""
    return CandidateRecord(KeyframeId(1, keyframe), keyframe, 0.5, 10, 0.1, 1, decision)


def query(stamp_ns: int, *candidates: CandidateRecord, searched: int | None = 3) -> QueryRecord:
    return QueryRecord(stamp_ns, candidates, searched=searched, stage_ms=(1, 2, 3, 4, 0))


@pytest.fixture
def run() -> Run:
    queries = [
        query(10, searched=0),
        query(11, candidate(1, ACCEPTED), candidate(2, DUPLICATE)),        # true
        query(12, candidate(3, LOW), candidate(2, ACCEPTED)),              # true, but not the best
        query(13, candidate(1, ACCEPTED)),                                 # false, missing 3
        query(14, candidate(1, ACCEPTED)),                                 # false, no revisit
        query(15, candidate(2, TEMPORAL), candidate(1, DUPLICATE)),        # right, but rejected
        query(16, candidate(1, LOW), candidate(3, FEW)),
        query(17, candidate(1, LOW), searched=2),                          # 3 was too recent
    ]
    keyframes = [KeyframeRecord(KeyframeId(1, n), n) for n in (1, 2, 3)]
    return Run('hog/1/2', queries, keyframes, images=20, map_nbytes=300)


@pytest.fixture
def truth() -> PairTruth:
    return PairTruth([(11, 1), (12, 2), (13, 3), (15, 2), (17, 3)])


def test_counts(run):
    metrics = summarise(run)
    assert (metrics.images, metrics.queries, metrics.keyframes) == (20, 8, 3)
    assert metrics.closures == 4
    assert metrics.map_bytes == 300
    assert metrics.outcomes == {
        'ACCEPTED': 4, 'NO_CANDIDATES': 1, 'REJECT_TEMPORAL': 1, 'REJECT_FEW_LOCAL': 1,
        'REJECT_LOW_SIMILARITY': 1}
    assert metrics.candidates == {
        'ACCEPTED': 4, 'REJECT_LOW_SIMILARITY': 3, 'REJECT_DUPLICATE': 2, 'REJECT_TEMPORAL': 1,
        'REJECT_FEW_LOCAL': 1}
    assert metrics.truth is None


def test_truth(run, truth):
    judged = summarise(run, truth).truth
    assert (judged.true_closures, judged.false_closures, judged.unknown_closures) == (2, 2, 0)
    assert judged.precision == 0.5
    assert judged.revisits == 4           # 11, 12, 13, 15
    assert judged.recall_at_1 == 2 / 4    # 11, 15
    assert judged.closed == 2 / 4         # 11, 12
    assert judged.positive == 'marked pairs'


def test_unknown_truth_is_neither_true_nor_false(run, truth):
    class Blind(PairTruth):
        def same_places(self, query_ns, match_stamps_ns):
            known = super().same_places(query_ns, match_stamps_ns)
            return [None] * len(known) if query_ns in (11, 13) else known

    judged = summarise(run, Blind([(12, 2), (15, 2)])).truth
    assert (judged.true_closures, judged.false_closures, judged.unknown_closures) == (1, 1, 2)
    assert judged.precision == 0.5
    assert judged.revisits == 2


def test_without_the_count_of_searched_keyframes_there_is_no_recall(run, truth):
    run.queries = [dataclasses.replace(q, searched=None) for q in run.queries]
    judged = summarise(run, truth).truth
    assert (judged.revisits, judged.recall_at_1, judged.closed) == (None, None, None)
    assert judged.precision == 0.5


def test_an_empty_run(truth):
    metrics = summarise(Run(), truth)
    assert (metrics.queries, metrics.closures, metrics.latency_ms) == (0, 0, {})
    assert metrics.truth.precision is None
    assert (metrics.truth.revisits, metrics.truth.recall_at_1) == (0, None)


def test_poses_are_counted(run):
    run.queries[0] = dataclasses.replace(run.queries[0], pose=Pose.planar(0, 0, 0))
    assert summarise(run).queries_with_pose == 1
    run.knows_poses = False
    assert summarise(run).queries_with_pose is None


def test_latency_percentiles():
    queries = [QueryRecord(i, (), stage_ms=(float(i), 1, 0, 0, 0)) for i in range(101)]
    found = latencies([*queries, QueryRecord(200, ())])
    assert found['preprocess'] == Latency(50.0, 95.0)
    assert found['gates'] == Latency(0.0, 0.0)
    assert found['total'] == Latency(51.0, 96.0)


def test_the_outcome_is_the_farthest_gate():
    assert outcome(query(1)) == 'NO_CANDIDATES'
    assert outcome(query(1, candidate(1, FEW), candidate(2, LOW))) == 'REJECT_FEW_LOCAL'
    assert outcome(query(1, candidate(1, DUPLICATE), candidate(2, TEMPORAL))) == 'REJECT_TEMPORAL'
    assert outcome(query(1, candidate(1, LOW), candidate(2, ACCEPTED))) == 'ACCEPTED'
