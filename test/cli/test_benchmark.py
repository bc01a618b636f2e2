"""The benchmark runs and compares like with like; its times are nobody's test."""

from __future__ import annotations

import torch

from selavpr_ros.cli.benchmark import (
    Row,
    format_row,
    measure_matching,
    measure_search,
    plain_counts,
)
from selavpr_ros.cli.main import main


def test_plain_formula_is_the_definition():
    query = torch.eye(3)
    matches = torch.stack([torch.eye(3)[[2, 0, 1]], torch.eye(3)[[0, 0, 0]]])
    assert plain_counts(query, matches).tolist() == [3, 1]


def test_matching_and_search_compare_with_a_reference():
    assert measure_matching(1, 'cpu').reference > 0
    assert measure_search(500).reference > 0


def test_rows_show_the_ratio():
    assert format_row(Row('matching', 10.0, 45.0, 'same')).split() == [
        'matching', '10.00', '45.00', '4.5x', 'same']


def test_the_verb_prints_a_table(capsys):
    assert main(['benchmark', '--weights', 'hog', '--keyframes', '200', '--candidates', '1']) == 0
    text = capsys.readouterr().out
    for what in ('forward, hog', 'matching a candidate', 'map search', 'node overhead',
                 'import selavpr_ros', 'vpr --help'):
        assert what in text
