from __future__ import annotations

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest

from selavpr_ros.evaluation.recall import evaluate
from selavpr_ros.evaluation.report import (
    describe_set,
    format_gates,
    format_table,
    write_results,
)
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.recordings.ground_truth import SamePlace


@pytest.fixture
def evaluations(told, told_image):
    """Two models on three queries: one is found at once, one when re-ranked, one has no place."""
    database = np.stack([told_image(0, 0), told_image(30, 20), told_image(60, 40)])
    queries = np.stack([told_image(1, 1), told_image(40, 41), told_image(50, 0)])
    asked = EvaluationSet('half', SamePlace(is_marked=True), database, queries, [[0], [2], []])
    return [evaluate(told(has_local), asked, top_k=5) for has_local in (True, False)]


def test_the_table_for_a_terminal(evaluations):
    head, *lines = format_table(evaluations).splitlines()
    assert head.split() == ['method', 'order', 'recall@1', 'recall@5', 'recall@10', 'keyframe']
    assert [line.split()[1:] for line in lines] == [
        ['global', '0.500', '1.000', '-', '12', 'bytes'],
        ['re-ranked', '1.000', '1.000', '-', '4.1', 'kB'],
        ['global', '0.500', '1.000', '-', '12', 'bytes']]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert '0.333' in format_table(evaluations, of_all=True)


def test_the_table_of_gates(evaluations):
    head, *lines = format_gates(evaluations).splitlines()
    assert head.split('  ')[0] == 'method'
    assert len(lines) == 3
    assert lines[1].split()[1:4] == ['re-ranked', '1.000', '1.000']


def test_what_the_recall_is_over(evaluations):
    asked = evaluations[0].evaluation_set
    assert describe_set(asked) == ('half: 2 queries (1 without a positive left out) in 3 images; '
                                   'same place: marked pairs')
    assert '(1 without a positive counted as misses)' in describe_set(asked, of_all=True)


def test_the_folder_explains_itself(evaluations, tmp_path):
    write_results(tmp_path, evaluations[:1], {'settings': {'tolerance': 2}})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['answers.csv', 'hits_and_misses_told_stretch8x8.png', 'metrics.json',
                     'precision_recall.png', 'table.md']
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['run'] == {'settings': {'tolerance': 2}}
    assert metrics['set'] == {
        'name': 'half', 'same_place': asdict(SamePlace(is_marked=True)), 'database': 3,
        'queries': 3, 'answerable': 2, 'recall_of_all': False}
    (method,) = metrics['methods']
    assert set(method['latency_ms']) == {'preprocess', 'network', 'search', 'local_matching'}
    assert 0.0 < method['latency_ms']['network']['p50'] <= method['latency_ms']['network']['p95']
    assert method['method'] == 'told//stretch8x8'
    assert method['recall'] == {'global': {'1': 0.5, '5': 1.0}, 're-ranked': {'1': 1.0, '5': 1.0}}
    assert method['first_positive'] == {'global': {'0': 1, '1': 2}, 're-ranked': {'0': 1, '1': 1}}
    assert method['gates']['re-ranked']['recall_at_precision_1'] == 1.0
    table = (tmp_path / 'table.md').read_text()
    assert table.startswith('half: 2 queries')
    assert '| method | order | average precision | recall at precision 1 | from score |' in table


def test_every_answer_is_a_row(evaluations, tmp_path):
    write_results(tmp_path, evaluations, {})
    with (tmp_path / 'answers.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 3
    assert list(rows[3].values()) == ['told//stretch8x8', 'global', '1', '1', '1', '0.984808',
                                      'false']
    assert [row['image'] for row in rows if row['same_place'] == 'true'] == list('020202')
    assert len(json.loads((tmp_path / 'metrics.json').read_text())['methods']) == 2
