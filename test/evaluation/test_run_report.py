from __future__ import annotations

import base64
import csv
import json

import numpy as np
import pytest
from bags import image_message

from selavpr_ros.evaluation.closure_metrics import summarise
from selavpr_ros.evaluation.run_report import RunReport
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PoseTruth, SamePlace
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import EVIDENCE, Run
from selavpr_ros.recordings.replay import replay


@pytest.fixture
def run(images, true_poses, make_recognizer) -> Run:
    run = Run()
    messages = [(ns, image_message(ns, image)) for ns, image in images]
    list(replay(messages, make_recognizer(), run, PoseTrack(true_poses)))
    run.skipped['bad image'] = 2
    return run


def _rows(path) -> list[dict[str, str]]:
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_every_candidate_has_a_row(tmp_path, run, true_poses):
    truth = PoseTruth(true_poses)
    RunReport(run, truth).write_data(tmp_path)
    rows = _rows(tmp_path / 'candidates.csv')
    candidates = [(q, rank, c) for q in run.queries for rank, c in enumerate(q.candidates)]
    assert len(rows) == len(candidates) > 100
    start_ns = run.queries[0].stamp_ns
    for row, (query, rank, candidate) in zip(rows, candidates, strict=True):
        assert int(row['query_ns']) == query.stamp_ns
        assert float(row['query_s']) == pytest.approx((query.stamp_ns - start_ns) * 1e-9)
        assert int(row['query_keyframe']) == query.keyframe_id.keyframe_id
        assert (int(row['rank']), int(row['match_session'])) == (rank, 1)
        assert int(row['match_keyframe']) == candidate.match_id.keyframe_id
        assert int(row['match_ns']) == candidate.match_stamp_ns
        for name in EVIDENCE:
            number = getattr(candidate, name)
            assert row[name] == ('' if np.isnan(number) else
                                 f'{number:.4f}' if isinstance(number, float) else str(number))
        assert row['decision'] == candidate.decision.name
        same = query.stamp_ns - candidate.match_stamp_ns == 12_000_000_000
        assert row['same_place'] == ('true' if same else 'false')


def test_every_query_has_a_row_and_a_reason(tmp_path, run):
    RunReport(run).write_data(tmp_path)
    rows = _rows(tmp_path / 'queries.csv')
    assert [int(row['query_ns']) for row in rows] == [q.stamp_ns for q in run.queries]
    assert rows[0]['outcome'] == 'NO_CANDIDATES'
    assert rows[0]['match_keyframe'] == rows[0]['similarity'] == rows[0]['same_place'] == ''
    assert rows[0]['searched_keyframes'] == '0'
    accepted = [row for row in rows if row['outcome'] == 'ACCEPTED']
    assert len(accepted) == summarise(run).closures
    assert int(accepted[-1]['match_keyframe']) == int(accepted[-1]['query_keyframe']) - 12
    assert float(rows[3]['x_m']) == pytest.approx(0, abs=1e-6)
    assert float(rows[3]['network_ms']) > 0


def test_every_keyframe_has_a_row(tmp_path, run):
    RunReport(run).write_data(tmp_path)
    rows = _rows(tmp_path / 'keyframes.csv')
    assert [(int(r['session']), int(r['keyframe'])) for r in rows] == [
        (k.id.session_id, k.id.keyframe_id) for k in run.keyframes]
    assert float(rows[0]['y_m']) == 0.0
    assert float(rows[-1]['stamp_s']) == 23.0


def test_metrics_are_json_with_what_they_were_made_from(tmp_path, run, true_poses):
    truth = PoseTruth(true_poses)
    report = RunReport(run, truth, {'bag': 'a.bag'})
    report.write_data(tmp_path)
    metrics = report.numbers
    numbers = json.loads((tmp_path / 'metrics.json').read_text())
    assert numbers['run'] == {'bag': 'a.bag'}
    assert SamePlace(**numbers['truth']['same_place']) == SamePlace(5.0, 45.0)
    assert numbers['truth']['recall']['1'] == metrics.truth.recall[1] == 1.0
    assert numbers['latency_ms']['total']['p95'] >= numbers['latency_ms']['total']['p50']


def test_an_empty_run_leaves_whole_files(tmp_path):
    report = RunReport(Run())
    report.write_data(tmp_path)
    report.write_pictures(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'candidates.csv', 'keyframes.csv', 'metrics.json', 'queries.csv',
        'similarity_matrix.png', 'trajectory.png']
    assert (tmp_path / 'candidates.csv').read_text().startswith('query_s,query_ns,')
    assert _rows(tmp_path / 'queries.csv') == []


def test_the_table(run, true_poses):
    table = str(RunReport(run, PoseTruth(true_poses)))
    assert 'images             24 (2 bad image)' in table
    assert 'queries            24, 24 with a pose' in table
    assert '0 false (same place: within 5 m and 45 deg)' in table
    assert 'recall@1/5/10      1.000 / 1.000 / 1.000' in table
    assert 'best by score      recall 1.000 before the first false one, average prec' in table
    assert 'false per km' not in table
    assert 'NO_CANDIDATES' in table
    assert '\nqueries        0, none with a pose' in str(RunReport(Run()))
    assert '\nqueries        0\n' in str(RunReport(Run(knows_poses=False)))


def test_false_closures_are_told_per_km_of_the_way(run, true_poses):
    straight = [(ns, Pose.planar((ns - true_poses[0][0]) * 1e-7, 0, 0)) for ns, _ in true_poses]
    report = RunReport(run, PoseTruth(straight))
    metrics = report.numbers
    assert metrics.way_m == pytest.approx(2300.0)
    per_km = metrics.closures / 2.3
    assert f'false per km       {per_km:.2f}' in str(report)


def test_the_curve_is_drawn_where_there_are_revisits(tmp_path, run, true_poses):
    RunReport(run, PoseTruth(true_poses)).write_pictures(tmp_path)
    assert (tmp_path / 'precision_recall.png').is_file()


def test_every_picture_is_drawn_once_for_folder_and_page(tmp_path, run, true_poses):
    report = RunReport(run, PoseTruth(true_poses), drawings={'more': b'drawn elsewhere'})
    report.write(tmp_path)
    page = (tmp_path / 'report.html').read_text()
    pictures = list(tmp_path.glob('*.png'))
    assert len(pictures) == 4
    for path in pictures:
        assert base64.b64encode(path.read_bytes()).decode() in page


def test_remarks_end_the_table(run):
    assert str(RunReport(run, remarks=[('re-ranking', 'none: why')])).splitlines()[-1].split(
        maxsplit=1) == ['re-ranking', 'none: why']
