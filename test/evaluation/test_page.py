from __future__ import annotations

import re

import numpy as np
import pytest

from selavpr_ros.evaluation.page import worst_false_answers, write_page
from selavpr_ros.evaluation.recall import GLOBAL, RERANKED, Evaluation, Ranking, evaluate
from selavpr_ros.evaluation.report import write_results
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.recordings.ground_truth import SamePlace


@pytest.fixture
def asked(told_image) -> EvaluationSet:
    """The second query is answered wrongly by similarity; the third has no place."""
    database = np.stack([told_image(0, 0), told_image(30, 20), told_image(60, 40)])
    queries = np.stack([told_image(1, 1), told_image(40, 41), told_image(50, 0)])
    return EvaluationSet('half', SamePlace(is_marked=True), database, queries, [[0], [2], []])


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
    for count in (1, 2):  # as `vpr evaluate` does
        write_results(tmp_path, evaluations[:count], {})
        write_page(tmp_path, evaluations[:count], {'settings': {'tolerance': 2}})
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
    evaluations = [evaluate(told(), asked)]
    write_results(tmp_path, evaluations, {})
    write_page(tmp_path, evaluations, {})
    assert 'No best answer is false, re-ranked.' in (tmp_path / 'report.html').read_text()
