from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.evaluation.recall import evaluate
from selavpr_ros.evaluation.recall_tables import (
    answer_rows,
    describe_set,
    gate_rows,
    metrics,
    table_rows,
)
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.recordings.ground_truth import SamePlace
from selavpr_ros.text import table


@pytest.fixture
def evaluations(told, told_image):
    """Two models on three queries: one is found at once, one when re-ranked, one has no place."""
    database = np.stack([told_image(0, 0), told_image(30, 20), told_image(60, 40)])
    queries = np.stack([told_image(1, 1), told_image(40, 41), told_image(50, 0)])
    asked = EvaluationSet('half', SamePlace(is_marked=True), database, queries, [[0], [2], []])
    return [evaluate(told(has_local), asked, top_k=5) for has_local in (True, False)]


def test_the_table_for_a_terminal(evaluations):
    head, *lines = table(list(table_rows(evaluations)), 2).splitlines()
    assert head.split() == ['method', 'order', 'recall@1', 'recall@5', 'recall@10', 'keyframe']
    assert [line.split()[1:] for line in lines] == [
        ['global', '0.500', '1.000', '-', '12', 'bytes'],
        ['re-ranked', '1.000', '1.000', '-', '4.1', 'kB'],
        ['global', '0.500', '1.000', '-', '12', 'bytes']]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert '0.333' in list(table_rows(evaluations, of_all=True))[1]


def test_the_table_of_gates(evaluations):
    head, *lines = table(list(gate_rows(evaluations)), 2).splitlines()
    assert head.split('  ')[0] == 'method'
    assert len(lines) == 3
    assert lines[1].split()[1:4] == ['re-ranked', '1.000', '1.000']


def test_what_the_recall_is_over(evaluations):
    asked = evaluations[0].evaluation_set
    assert describe_set(asked) == ('half: 2 queries (1 without a positive left out) in 3 images; '
                                   'same place: marked pairs')
    assert '(1 without a positive counted as misses)' in describe_set(asked, of_all=True)


def test_every_answer_is_a_row(evaluations):
    head, *lines = answer_rows(evaluations)
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert len(rows) == 3 * 2 * 3
    assert list(rows[3].values()) == ['told//stretch8x8', 'global', '1', '1', '1', '0.984808',
                                      'false']
    assert [row['image'] for row in rows if row['same_place'] == 'true'] == list('020202')
    assert len(metrics(evaluations, {})['methods']) == 2
