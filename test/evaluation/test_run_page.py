from __future__ import annotations

import math
import re
from dataclasses import replace

import laps
import pytest
from bags import IMAGE_TOPIC, damage_middle, image_message, write_image_bag

from selavpr_ros.decision.gates import Decision
from selavpr_ros.evaluation.run_page import choose_examples, read_photos
from selavpr_ros.evaluation.run_report import RunReport
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.ground_truth import PairTruth, PoseTruth
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import CandidateRecord, KeyframeRecord, QueryRecord, Run
from selavpr_ros.recordings.replay import replay
from selavpr_ros.settings import ImageSettings, make_settings

IMAGES = [(ns, image_message(ns, image)) for ns, image in laps.images()]
STAMPS_NS = [ns for ns, _ in IMAGES]


def candidate(keyframe: int, local_score: float, decision: Decision) -> CandidateRecord:
    """Keyframe n has stamp n."""
    return CandidateRecord(KeyframeId(1, keyframe), keyframe, 0.5, 10, local_score, decision)


@pytest.fixture
def by_hand() -> Run:
    """Five queries on three keyframes: hit, two false ones, a miss, and one without candidates."""
    accepted, unsure = Decision.ACCEPTED, Decision.REJECT_UNSURE
    found = {11: [candidate(1, 0.9, accepted)], 12: [candidate(1, 0.8, accepted)],
             13: [candidate(2, 0.95, unsure)], 14: [candidate(3, 0.5, unsure)], 15: []}
    return Run('hog/1/2', [QueryRecord(ns, tuple(c), searched=3) for ns, c in found.items()],
               [KeyframeRecord(KeyframeId(1, n), n) for n in (1, 2, 3)])


def shown(run, truth) -> dict[str, list[tuple]]:
    return {title: [(e.query.stamp_ns, e.answer and e.answer.match_stamp_ns, e.verdict, e.true_ns)
                    for e in examples] for title, examples in choose_examples(run, truth).items()}


def test_hits_misses_and_false_answers(by_hand):
    truth = PairTruth([(11, 1), (12, 2), (12, 3), (14, 3), (15, 1), (15, 2), (15, 3)])
    assert shown(by_hand, truth) == {
        'False loop closures': [(12, 1, False, 3)],
        'Worst false answers': [(13, 2, False, None), (12, 1, False, 3)],
        'Misses': [(14, 3, True, 3), (15, None, None, 2)],
        'Hits': [(11, 1, True, None)]}


def test_without_truth_closures_are_shown_as_they_are(by_hand):
    assert shown(by_hand, None) == {
        'Loop closures': [(11, 1, None, None), (12, 1, None, None)]}


def test_many_are_spread_over_the_run(by_hand):
    accepted = candidate(1, 0.9, Decision.ACCEPTED)
    run = Run('', [QueryRecord(ns, (accepted,)) for ns in range(10, 70)], by_hand.keyframes)
    assert [row[0] for row in shown(run, None)['Loop closures']] == [10, 20, 30, 40, 50, 60]


def test_photos_are_read_as_far_as_needed(tmp_path):
    with Bag(write_image_bag(tmp_path / 'a.bag', laps.images())) as bag:
        images = bag.images(IMAGE_TOPIC)
        photos = read_photos(images, STAMPS_NS[2:4], ImageSettings())
        assert list(photos) == STAMPS_NS[2:4]
        assert photos[STAMPS_NS[2]] != photos[STAMPS_NS[3]]
        assert all(photo.startswith('data:image/jpeg;base64,') for photo in photos.values())
        assert next(images)[0] == STAMPS_NS[4]
        assert read_photos(bag.images(IMAGE_TOPIC), [], ImageSettings()) == {}


def test_what_cannot_be_read_is_left_out(tmp_path):
    path = write_image_bag(tmp_path / 'a.bag', laps.images())
    damage_middle(path / 'a.bag.db3')
    with Bag(path) as bag:
        photos = read_photos(bag.images(IMAGE_TOPIC), STAMPS_NS, ImageSettings())
    assert 0 < len(photos) < len(STAMPS_NS)
    strange = image_message(*laps.images()[0])
    strange.encoding = 'strange'
    assert read_photos([(7, strange)], [7], ImageSettings()) == {7: ''}


def write(folder, run, truth) -> str:
    report = RunReport(run, truth, {'bag': 'two_laps.bag'}, make_settings(laps.SETTINGS))
    stamps_ns = [ns for rows in report.examples.values() for example in rows
                 for ns in example.stamps_ns]
    report.photos = read_photos(IMAGES, stamps_ns, ImageSettings())
    report.write_page(folder)
    return (folder / 'report.html').read_text()


@pytest.fixture
def run(true_poses, make_recognizer) -> Run:
    run = Run()
    list(replay(IMAGES, make_recognizer(), run, PoseTrack(true_poses)))
    return run


def test_the_page_of_a_run(run, true_poses, tmp_path):
    page = write(tmp_path, run, PoseTruth(true_poses))
    assert re.findall('<h2>(.*?)</h2>', page) == [
        'Result', 'Where and when', 'Precision and recall', 'Reliability', 'Latency by stage',
        'False loop closures', 'Worst false answers', 'Misses', 'Hits', 'Settings and versions']
    assert '<td>bag</td><td>two_laps.bag</td>' in page
    assert '<td>index.top_k</td><td>20</td>' in page
    assert '<p>None.</p>' in page  # no closure is false
    hits = page.partition('<h2>Hits</h2>')[2]
    assert hits.count('src="data:image/jpeg') == 2 * 6
    assert re.search(r'keyframe 1:\d+, \d+ mutual matches, similarity [01]\.\d+, .*ACCEPTED, at',
                     hits)


def test_false_closures_stand_beside_a_true_keyframe(run, true_poses, tmp_path):
    """The first lap was elsewhere than the second: all closures are false."""
    start_ns, step_ns = STAMPS_NS[0], 1_000_000_000
    places = [(start_ns + i * step_ns, Pose.planar(20.0 * ((i * 5) % 12 if i < 12 else i % 12),
                                                   0, 0)) for i in range(24)]
    page = write(tmp_path, run, PoseTruth(places))
    false = page.partition('<h2>False loop closures</h2>')[2].partition('<h2>')[0]
    rows = false.split('<div class="row')[1:]
    assert rows
    for row in rows:
        assert 'query at ' in row
        assert '<figure class="false">' in row
        assert 'a true one at ' in row or 'no keyframe shows its place' in row


def test_probabilities_have_a_reliability_diagram(by_hand, tmp_path):
    told = replace(candidate(1, 0.9, Decision.ACCEPTED), probability=0.25)
    truth = PairTruth([(11, 1)])
    assert '<h2>Reliability</h2>' not in write(tmp_path, by_hand, truth)
    by_hand.queries[0] = QueryRecord(11, (told,), searched=3)
    page = write(tmp_path, by_hand, truth)
    assert '<h2>Reliability</h2>' in page
    assert 'similarity 0.500, probability 0.250, ACCEPTED, at' in page


def test_an_empty_run_has_a_page(tmp_path):
    page = write(tmp_path, Run(), None)
    assert '0 queries, 0 loop closures' in page
    assert '<p>None.</p>' in page


def test_a_system_without_local_features_is_told_by_similarity(by_hand, tmp_path):
    by_hand.queries = [QueryRecord(11, (candidate(1, math.nan, Decision.ACCEPTED),), searched=3)]
    assert 'keyframe 1:1, similarity 0.500, ACCEPTED, at' in write(tmp_path, by_hand, None)
