"""The picture is drawn and says what it should; how it looks is for eyes."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from selavpr_ros.errors import ImageError
from selavpr_ros.evaluation.baselines import evaluate_orb
from selavpr_ros.evaluation.recall import Evaluation, evaluate
from selavpr_ros.evaluation.recall_plots import choose_queries, draw_hits_and_misses
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.recordings.ground_truth import SamePlace


@pytest.fixture
def evaluation(told, told_image) -> Evaluation:
    """Of three queries the first is a hit both ways, the last only re-ranked."""
    database = np.stack([told_image(degrees, 20 * degrees // 30) for degrees in (0, 30, 60, 90)])
    queries = np.stack([told_image(1, 0), told_image(0, 0), told_image(40, 41)])
    asked = EvaluationSet('made', SamePlace(is_marked=True), database, queries, [[0], [3], [2]])
    return evaluate(told(), asked, top_k=3)


def texts(figure) -> list[str]:
    return [text for axes in figure.axes
            for text in (axes.get_title(), axes.get_title('left'), axes.get_xlabel()) if text]


def colours(figure) -> list[tuple[str, str]]:
    """Frame colours of the two answers of every row."""
    _, *grid = figure.axes
    to_hex = {(26, 150, 65): 'green', (215, 25, 28): 'red'}

    def of(axes) -> str:
        return to_hex[tuple(round(255 * c) for c in axes.spines['left'].get_edgecolor()[:3])]

    return [(of(grid[row + 1]), of(grid[row + 2])) for row in range(0, len(grid), 4)]


def test_misses_first_and_spread_over_the_set():
    hits = [number % 4 != 0 for number in range(40)]
    chosen = choose_queries(hits, 12)
    assert len(chosen) == 12
    assert [hits[number] for number in chosen] == [False] * 9 + [True] * 3
    assert chosen[:9] == sorted(chosen[:9])
    assert chosen[8] >= 32
    assert chosen[11] > 26


@pytest.mark.parametrize(('hits', 'expected'), [
    ([], []), ([True] * 3, [0, 1, 2]), ([False] * 3, [0, 1, 2]), ([True, False], [1, 0])])
def test_few_queries_are_all_shown(hits, expected):
    assert choose_queries(hits, 12) == expected


def test_many_misses_leave_room_for_hits():
    assert choose_queries([False] * 100 + [True], 4)[-1] == 100
    assert len(choose_queries([False] * 100, 4)) == 4


def test_what_the_picture_says(evaluation):
    figure = draw_hits_and_misses(evaluation)
    assert colours(figure) == [('red', 'red'), ('green', 'green'), ('red', 'green')]
    said = texts(figure)
    assert said[0].startswith(f'{evaluation.method} on made: recall@1')
    for words in ('query', 'best, global', 'best, re-ranked', 'a true image', 'number 2',
                  'miss: number 1, similarity 0.985', 'hit: number 2, 7 mutual matches',
                  'number 3; first true at rank - / -', 'number 2; first true at rank 2 / 1'):
        assert words in said, said
    stripes = figure.axes[0].get_images()[0].get_array()
    assert stripes.tolist() == [[True, False, False], [True, False, True]]


def test_it_can_be_written(evaluation):
    buffer = io.BytesIO()
    draw_hits_and_misses(evaluation, count=2).savefig(buffer)
    height, width = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), 1).shape[:2]
    assert (height, width) == (570, 1040)


def test_one_way_of_ordering_is_one_column_less(evaluation):
    said = texts(draw_hits_and_misses(evaluate_orb(evaluation.evaluation_set)))
    assert 'best, all matched' in said
    assert 'miss: number 0, 0 matches' in said
    assert 'best, global' not in said


def test_files_are_named(told, tmp_path):
    for name in ('place_7.png', 'a_name_that_is_too_long_for_a_line.png'):
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 800, 3), np.uint8))
    files = sorted(tmp_path.iterdir())
    asked = EvaluationSet('made', SamePlace(is_marked=True),
                          files, files, [[1], []], [range(1), range(2)])
    evaluation = evaluate(told(), asked)
    figure = draw_hits_and_misses(evaluation)
    assert 'number 0' in texts(figure)
    assert 'hit: place_7, similarity 1.000' in texts(figure)
    assert figure.axes[1].get_images()[0].get_array().shape == (16, 320, 3)
    files[0].unlink()
    with pytest.raises(ImageError, match='cannot be read: No such file'):
        draw_hits_and_misses(evaluation)
