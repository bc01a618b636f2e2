from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from selavpr_ros.errors import ImageError
from selavpr_ros.evaluation.recall import GLOBAL, RERANKED, Evaluation, Ranking, evaluate
from selavpr_ros.evaluation.recall_report import RecallReport, worst_false_answers
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.recordings.ground_truth import SamePlace


@pytest.fixture
def asked(told_image) -> EvaluationSet:
    """The second query is answered wrongly by similarity; the third has no place."""
    database = np.stack([told_image(0, 0), told_image(30, 20), told_image(60, 40)])
    queries = np.stack([told_image(1, 1), told_image(40, 41), told_image(50, 0)])
    return EvaluationSet('half', SamePlace(is_marked=True), database, queries, [[0], [2], []])


def report_of(*evaluations) -> RecallReport:
    report = RecallReport({'settings': {'tolerance': 2}})
    for evaluation in evaluations:
        report.add(evaluation)
    return report


def test_the_worst_are_those_with_the_highest_scores():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    asked = EvaluationSet('four', SamePlace(is_marked=True),
                          images, np.zeros((4, 4, 4, 3), np.uint8),
                          [[0], [1], [], [2]])
    found = {GLOBAL: [Ranking((0, 1), (0.99, 0.1)), Ranking((0, 1), (0.5, 0.4)),
                      Ranking((1, 2), (0.7, 0.6))]}
    nowhere = {GLOBAL: [Ranking((2, 0), (0.9, 0.6))]}
    evaluation = Evaluation('model', asked, 2, found, nowhere)
    assert worst_false_answers(evaluation, GLOBAL) == [(2, 2, 0.9), (3, 1, 0.7), (1, 0, 0.5)]
    assert worst_false_answers(evaluation, GLOBAL, 1) == [(2, 2, 0.9)]
    without = Evaluation('model', asked, 2, found)
    assert worst_false_answers(without, GLOBAL) == [(3, 1, 0.7), (1, 0, 0.5)]


def test_the_page_of_two_methods(asked, told, tmp_path):
    evaluations = [evaluate(told(has_local), asked, top_k=5, all_queries=True)
                   for has_local in (True, False)]
    assert list(evaluations[0].rankings) == [GLOBAL, RERANKED]
    report_of(*evaluations).write(tmp_path)
    page = (tmp_path / 'report.html').read_text()
    assert re.findall('<h2>(.*?)</h2>', page) == [
        'Recall', 'What a score is worth as a gate', 'Latency by stage',
        *['Worst false answers: told//stretch8x8'] * 2, *['Hits and misses: told//stretch8x8'] * 2,
        'Settings and versions']
    assert 'half: 2 queries (1 without a positive left out) in 3 images' in page
    assert '<td>settings.tolerance</td><td>2</td>' in page
    # Re-ranked: only the query without a place; by similarity alone the second one, too.
    assert re.findall(r'<figcaption>(query: .*?)</figcaption>', page) == [
        'query: number 2', 'query: number 1', 'query: number 2']
    assert 'answer: number 0, 8 mutual matches' in page
    assert page.count('no image of the query&#39;s place is in the database') == 2
    assert page.count('a true one: number 2') == 1
    assert page.count('src="data:image/') == 1 + (2 + 3 + 2) + 2


def test_nothing_wrong(asked, told, tmp_path):
    report_of(evaluate(told(), asked)).write(tmp_path)
    assert 'No best answer is false, re-ranked.' in (tmp_path / 'report.html').read_text()


def test_the_folder_explains_itself(asked, told, tmp_path):
    report_of(evaluate(told(), asked, top_k=5)).write(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['answers.csv', 'hits_and_misses_told_stretch8x8.png', 'metrics.json',
                     'precision_recall.png', 'report.html', 'table.md']
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


def test_a_terminal_shows_what_was_asked_and_two_tables(asked, told):
    summary, recall, gates = str(report_of(evaluate(told(), asked))).split('\n\n')
    assert summary.startswith('half: 2 queries')
    assert recall.split()[:3] == ['method', 'order', 'recall@1']
    assert gates.splitlines()[0].endswith('from score')


def test_the_data_are_written_before_an_image_is_read_again(asked, told, tmp_path):
    files = [tmp_path / f'{number}.png' for number in range(3)]
    for file, image in zip(files, asked.database, strict=True):
        cv2.imwrite(str(file), image[..., ::-1])
    report = report_of(evaluate(told(), replace(asked, database=files)))
    files[0].unlink()
    (tmp_path / 'out').mkdir()
    with pytest.raises(ImageError, match='0.png cannot be read'):
        report.write(tmp_path / 'out')
    assert (tmp_path / 'out/answers.csv').is_file()


def test_a_method_that_comes_later_is_drawn_too(asked, told, tmp_path):
    report = report_of(evaluate(told(), asked))
    report.write(tmp_path)
    report.add(evaluate(told(False), asked))
    report.write(tmp_path)
    assert (tmp_path / 'report.html').read_text().count('<h2>Hits and misses: told') == 2
