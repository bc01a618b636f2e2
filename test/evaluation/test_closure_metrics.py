"""Every number of a small run is worked out by hand here."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from selavpr_ros.decision.gates import Decision
from selavpr_ros.evaluation.closure_metrics import (
    Latency,
    judge_best,
    known_probabilities,
    latencies,
    outcome,
    summarise,
    way_m,
)
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PairTruth, PoseTruth, SamePlace
from selavpr_ros.recordings.records import CandidateRecord, KeyframeRecord, QueryRecord, Run

ACCEPTED = Decision.ACCEPTED
ODOMETRY, NEW = Decision.REJECT_ODOMETRY, Decision.REJECT_NEW_PLACE
UNSURE, DUPLICATE = Decision.REJECT_UNSURE, Decision.REJECT_DUPLICATE


def candidate(keyframe: int, decision: Decision) -> CandidateRecord:
    """Keyframe n has stamp n."""
    return CandidateRecord(KeyframeId(1, keyframe), keyframe, 0.5, 10, 0.1, decision)


def query(stamp_ns: int, *candidates: CandidateRecord, searched: int | None = 3) -> QueryRecord:
    return QueryRecord(stamp_ns, candidates, searched=searched, stage_ms=(1, 2, 3, 4, 0))


@pytest.fixture
def run() -> Run:
    queries = [
        query(10, searched=0),
        query(11, candidate(1, ACCEPTED), candidate(2, DUPLICATE)),        # true
        query(12, candidate(3, ODOMETRY), candidate(2, ACCEPTED)),         # true, but not the best
        query(13, candidate(1, ACCEPTED)),                                 # false, missing 3
        query(14, candidate(1, ACCEPTED)),                                 # false, no revisit
        query(15, candidate(2, UNSURE), candidate(1, DUPLICATE)),          # right, but rejected
        query(16, candidate(1, ODOMETRY), candidate(3, NEW)),
        query(17, candidate(1, ODOMETRY), searched=2),                     # 3 was too recent
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
    assert (metrics.map_bytes, metrics.bytes_per_keyframe) == (300, 100.0)
    assert metrics.outcomes == {
        'ACCEPTED': 4, 'NO_CANDIDATES': 1, 'REJECT_UNSURE': 1, 'REJECT_NEW_PLACE': 1,
        'REJECT_ODOMETRY': 1}
    assert metrics.candidates == {
        'ACCEPTED': 4, 'REJECT_ODOMETRY': 3, 'REJECT_DUPLICATE': 2, 'REJECT_UNSURE': 1,
        'REJECT_NEW_PLACE': 1}
    assert metrics.truth is None


def test_truth(run, truth):
    judged = summarise(run, truth).truth
    assert (judged.true_closures, judged.false_closures, judged.unknown_closures) == (2, 2, 0)
    assert judged.precision == 0.5
    assert judged.revisits == 4           # 11, 12, 13, 15
    assert judged.recall == {1: 2 / 4}    # 11, 15; no list of candidates is five long
    assert judged.closed == 2 / 4         # 11, 12
    assert judged.same_place == SamePlace(is_marked=True)
    assert judged.false_closures_per_km is None  # nobody knows how long the way was


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
    assert (judged.revisits, judged.recall, judged.closed) == (None, {}, None)
    assert (judged.average_precision, judged.recall_at_precision_1) == (None, None)
    assert judged.precision == 0.5


def test_an_empty_run(truth):
    metrics = summarise(Run(), truth)
    assert (metrics.queries, metrics.closures, metrics.latency_ms) == (0, 0, {})
    assert metrics.truth.precision is None
    assert (metrics.truth.revisits, metrics.truth.recall) == (0, {})
    assert (metrics.truth.average_precision, metrics.truth.from_score) == (None, None)
    assert (metrics.way_m, metrics.bytes_per_keyframe) == (None, None)


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
    assert outcome(query(1, candidate(1, NEW), candidate(2, ODOMETRY))) == 'REJECT_NEW_PLACE'
    assert outcome(query(1, candidate(1, DUPLICATE), candidate(2, UNSURE))) == 'REJECT_UNSURE'
    assert outcome(query(1, candidate(1, ODOMETRY), candidate(2, ACCEPTED))) == 'ACCEPTED'


def answer(stamp_ns: int, keyframe: int, local_score: float, similarity: float = 0.5
           ) -> QueryRecord:
    best = CandidateRecord(KeyframeId(1, keyframe), keyframe, similarity, 10, local_score, NEW)
    return query(stamp_ns, best)


def answered(*queries: QueryRecord) -> Run:
    return Run('hog/1/2', list(queries), [KeyframeRecord(KeyframeId(1, n), n) for n in (1, 2, 3)])


def test_precision_and_recall_of_the_best_candidates():
    """Scores 0.9 true, 0.7 true, 0.6 false (12 is 2), 0.3 false (no revisit); 15 has none."""
    run = answered(answer(11, 1, 0.9), answer(12, 1, 0.6), answer(13, 3, 0.7), answer(14, 1, 0.3),
                   query(15))
    truth = PairTruth([(11, 1), (12, 2), (13, 3), (15, 1)])
    judged = summarise(run, truth).truth
    assert judged.revisits == 4
    assert judged.recall_at_precision_1 == 2 / 4
    assert judged.from_score == 0.7
    assert judged.average_precision == 1 / 4 + 1 / 4
    curve = judge_best(run, truth, 4)
    assert curve.precision == pytest.approx([1, 1, 2 / 3, 2 / 4])
    assert curve.recall == pytest.approx([1 / 4, 2 / 4, 2 / 4, 2 / 4])


def test_without_local_features_the_score_is_the_similarity():
    nan = math.nan
    run = answered(answer(11, 1, nan, 0.8), answer(12, 1, nan, 0.9))
    judged = summarise(run, PairTruth([(11, 1), (12, 2)])).truth
    assert (judged.recall_at_precision_1, judged.from_score) == (0.0, None)
    assert judged.average_precision == 1 / 2 * 1 / 2
    # A keyframe without features among others that have some has nothing in common.
    mixed = answered(answer(11, 1, nan, 0.8), answer(12, 1, 0.1, 0.2))
    assert judge_best(mixed, PairTruth([(11, 1)]), 1).thresholds.tolist() == [0.1, 0.0]


@pytest.mark.parametrize('seed', range(3))
def test_the_curve_is_what_scikit_learn_says(seed):
    random = np.random.default_rng(seed)
    is_true = random.random(60) < 0.5
    scores = np.round(random.random(60) + 0.3 * is_true, 1)
    run = answered(*(answer(100 + i, 1 if true else 2, score)
                     for i, (true, score) in enumerate(zip(is_true, scores, strict=True))))
    # A query whose answer is wrong is no revisit here: scikit-learn knows no others.
    truth = PairTruth([(100 + int(i), 1) for i in np.flatnonzero(is_true)])
    judged = summarise(run, truth).truth
    precision, recall, thresholds = precision_recall_curve(is_true, scores)
    assert judged.revisits == is_true.sum()
    assert judged.average_precision == pytest.approx(average_precision_score(is_true, scores))
    assert judged.recall_at_precision_1 == pytest.approx(recall[precision == 1.0].max())
    assert judge_best(run, truth, judged.revisits).thresholds == pytest.approx(thresholds[::-1])


def test_recall_at_n_is_over_the_revisits():
    listed = [query(11, *(candidate(n, NEW) for n in (2, 3, 1, 1, 1))),
              query(12, candidate(1, NEW)), query(13, candidate(1, NEW))]
    run = answered(*listed)
    assert summarise(run, PairTruth([(11, 1), (12, 1)])).truth.recall == {1: 1 / 2, 5: 2 / 2}


def test_the_way_is_that_of_the_truth_if_there_is_one(run):
    at = [Pose.planar(x, y, 0) for x, y in ((0, 0), (3, 4), (3, 4), (3, 10))]
    run.queries[:4] = [dataclasses.replace(q, pose=pose)
                       for q, pose in zip(run.queries[:4], at, strict=True)]
    assert way_m(run, None) == summarise(run).way_m == 11.0
    assert way_m(run, PairTruth([])) == 11.0
    true = PoseTruth([(10, Pose.planar(0, 0, 0)), (14, Pose.planar(1000, 0, 0))])
    assert way_m(run, true) == 1000.0
    judged = summarise(run, PairTruth([(11, 1), (12, 2)])).truth
    assert judged.false_closures_per_km == pytest.approx(2 / 0.011)


def test_probabilities_of_all_candidates():
    told = dataclasses.replace(candidate(1, NEW), probability=0.25)
    other = dataclasses.replace(candidate(2, NEW), probability=0.5)
    run = answered(query(11, told, other), query(12, told), answer(13, 1, 0.5))
    probabilities, is_true = known_probabilities(run, PairTruth([(11, 1)]))
    assert (probabilities, is_true) == ([0.25, 0.5, 0.25], [True, False, False])
