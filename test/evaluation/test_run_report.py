from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
import yaml
from bags import image_message

from selavpr_ros.errors import FolderError
from selavpr_ros.evaluation.closure_metrics import summarise
from selavpr_ros.evaluation.run_report import (
    format_table,
    log_to,
    make_folder,
    versions,
    write_results,
    write_settings,
)
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PoseTruth, SamePlace
from selavpr_ros.recordings.params import read_params
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import EVIDENCE, Run
from selavpr_ros.recordings.replay import replay
from selavpr_ros.settings import Settings, make_settings


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
    write_results(tmp_path, run, summarise(run, truth), truth)
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
    write_results(tmp_path, run, summarise(run))
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
    write_results(tmp_path, run, summarise(run))
    rows = _rows(tmp_path / 'keyframes.csv')
    assert [(int(r['session']), int(r['keyframe'])) for r in rows] == [
        (k.id.session_id, k.id.keyframe_id) for k in run.keyframes]
    assert float(rows[0]['y_m']) == 0.0
    assert float(rows[-1]['stamp_s']) == 23.0


def test_metrics_are_json_with_what_they_were_made_from(tmp_path, run, true_poses):
    truth = PoseTruth(true_poses)
    metrics = summarise(run, truth)
    write_results(tmp_path, run, metrics, truth, {'bag': 'a.bag'})
    numbers = json.loads((tmp_path / 'metrics.json').read_text())
    assert numbers['run'] == {'bag': 'a.bag'}
    assert SamePlace(**numbers['truth']['same_place']) == SamePlace(5.0, 45.0)
    assert numbers['truth']['recall']['1'] == metrics.truth.recall[1] == 1.0
    assert numbers['latency_ms']['total']['p95'] >= numbers['latency_ms']['total']['p50']


def test_an_empty_run_leaves_whole_files(tmp_path):
    write_results(tmp_path, Run(), summarise(Run()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'candidates.csv', 'keyframes.csv', 'metrics.json', 'queries.csv',
        'similarity_matrix.png', 'trajectory.png']
    assert (tmp_path / 'candidates.csv').read_text().startswith('query_s,query_ns,')
    assert _rows(tmp_path / 'queries.csv') == []


def test_settings_can_be_used_again(tmp_path):
    settings = make_settings({'index.top_k': 3, 'model.input_size': [48, 64]})
    path = tmp_path / 'settings.yaml'
    write_settings(path, settings, {'bag': 'Büro.bag', 'versions': versions()})
    assert make_settings(read_params(path)) == settings
    assert path.read_text(encoding='utf-8').startswith('# bag: Büro.bag\n# versions:\n')
    parameters = yaml.safe_load(path.read_text(encoding='utf-8'))['/**']['ros__parameters']
    assert set(parameters) == set(Settings().flat())


def test_versions_name_what_computes():
    assert {'selavpr_ros', 'python', 'torch', 'faiss', 'numpy', 'cv2'} <= set(versions())


def test_the_folder_must_be_new_or_empty(tmp_path):
    assert make_folder(tmp_path / 'a' / 'b').is_dir()
    make_folder(tmp_path / 'a' / 'b')
    with pytest.raises(FolderError, match='a is not empty: choose another folder, or pass --over'):
        make_folder(tmp_path / 'a')
    make_folder(tmp_path / 'a', overwrite=True)
    (tmp_path / 'file').write_text('')
    with pytest.raises(FolderError, match='file cannot take the results: File exists'):
        make_folder(tmp_path / 'file', overwrite=True)


def test_the_log_belongs_to_the_package_and_ends(tmp_path):
    logger = logging.getLogger('selavpr_ros.somewhere')
    with log_to(tmp_path / 'log.txt'):
        logger.info('inside')
        logging.getLogger('other').error('not ours')
    logger.error('outside')
    assert (tmp_path / 'log.txt').read_text().endswith('INFO selavpr_ros.somewhere: inside\n')
    assert logging.getLogger('selavpr_ros').handlers == []


def test_the_table(run, true_poses):
    table = format_table(summarise(run, PoseTruth(true_poses)))
    assert 'images             24 (2 bad image)' in table
    assert 'queries            24, 24 with a pose' in table
    assert '0 false (same place: within 5 m and 45 deg)' in table
    assert 'recall@1/5/10      1.000 / 1.000 / 1.000' in table
    assert 'best by score      recall 1.000 before the first false one, average prec' in table
    assert 'false per km' not in table
    assert 'NO_CANDIDATES' in table
    assert '\nqueries        0, none with a pose' in format_table(summarise(Run()))
    assert '\nqueries        0\n' in format_table(summarise(Run(knows_poses=False)))


def test_false_closures_are_told_per_km_of_the_way(run, true_poses):
    straight = [(ns, Pose.planar((ns - true_poses[0][0]) * 1e-7, 0, 0)) for ns, _ in true_poses]
    metrics = summarise(run, PoseTruth(straight))
    assert metrics.way_m == pytest.approx(2300.0)
    per_km = metrics.closures / 2.3
    assert f'false per km       {per_km:.2f}' in format_table(metrics)


def test_the_curve_is_drawn_where_there_are_revisits(tmp_path, run, true_poses):
    truth = PoseTruth(true_poses)
    write_results(tmp_path, run, summarise(run, truth), truth)
    assert (tmp_path / 'precision_recall.png').is_file()
