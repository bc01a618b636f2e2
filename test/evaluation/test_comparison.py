from __future__ import annotations

import json

import pytest

from selavpr_ros.errors import FolderError, SettingError
from selavpr_ros.evaluation.comparison import (
    HEAD,
    check_same,
    difference_rows,
    read_result,
    result_rows,
)

STAGES = {'network': {'p50': 20.0, 'p95': 30.0}, 'search': {'p50': 1.5, 'p95': 2.0},
          'local_matching': {'p50': 100.0, 'p95': 120.0}}


def method(name: str, latency: dict | None = None) -> dict:
    def gate(recall):
        return {'average_precision': 0.9, 'recall_at_precision_1': recall, 'from_score': 0.5}

    return {'method': name, 'top_k': 5, 'latency_ms': latency or {},
            'bytes_per_keyframe': {'global': 1920.0},
            'recall': {'global': {'1': 0.5, '5': 0.75}, 're-ranked': {'1': 1.0, '5': 1.0}},
            'gates': {'global': gate(0.25), 're-ranked': gate(0.125)}}


@pytest.fixture
def evaluation(tmp_path):
    """Write a result folder of `vpr evaluate`."""

    def write(folder, *methods, tolerance=2, **settings):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'metrics.json').write_text(json.dumps({
            'run': {'settings': settings, 'versions': {'torch': '2.6'}},
            'set': {'name': 'day', 'same_place': {'frames': tolerance}, 'queries': 7},
            'methods': methods}))
        return read_result(tmp_path / folder)

    return write


@pytest.fixture
def replayed(tmp_path):
    """Write a result folder of `vpr replay`; without truth unless given."""

    def write(folder, truth=None, top_k=20, bag='town.bag'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'settings.yaml').write_text(
            f'/**:\n  ros__parameters:\n    index.top_k: {top_k}\n    model.weights: hog\n')
        (tmp_path / folder / 'metrics.json').write_text(json.dumps({
            'run': {'bag': bag, 'topic': '/image', 'ground_truth': '/truth', 'odometry': None,
                    'reranked': True, 'versions': {'torch': '2.6'}},
            'model_id': 'hog/1/2', 'bytes_per_keyframe': 2000, 'images': 100, 'truth': truth,
            'latency_ms': {'total': {'p50': 40.0, 'p95': 50.0}} if truth else {}}))
        return read_result(tmp_path / folder)

    return write


TRUTH = {'same_place': {'radius_m': 5.0}, 'recall': {'1': 0.5, '5': 0.6, '10': 0.7},
         'average_precision': 0.4, 'recall_at_precision_1': 0.3, 'true_closures': 9,
         'false_closures': 1}


def test_every_method_and_order_is_a_line(evaluation):
    rows = result_rows([evaluation('a', method('hog', STAGES), method('orb'))])
    assert rows == [
        HEAD,
        ('a', 'hog', 'global', '0.500', '0.750', '-', '0.900', '0.250', '-', '-', '21.5',
         '1.9 kB'),
        ('a', 'hog', 're-ranked', '1.000', '1.000', '-', '0.900', '0.125', '-', '-', '121.5', '-'),
        ('a', 'orb', 'global', '0.500', '0.750', '-', '0.900', '0.250', '-', '-', '-', '1.9 kB'),
        ('a', 'orb', 're-ranked', '1.000', '1.000', '-', '0.900', '0.125', '-', '-', '-', '-')]


def test_a_replay_is_one_line(replayed):
    rows = result_rows([replayed('with', TRUTH), replayed('without')])
    assert rows[1:] == [
        ('with', 'hog/1/2', 're-ranked', '0.500', '0.600', '0.700', '0.400', '0.300', '9', '1',
         '40.0', '2.0 kB'),
        ('without', 'hog/1/2', 're-ranked', *'-' * 8, '2.0 kB')]


def test_settings_that_differ(evaluation, replayed):
    runs = [evaluation('a', top_k=5, of_all=False), evaluation('b', top_k=9, of_all=False)]
    assert difference_rows(runs) == [('setting', 'a', 'b'), ('settings.top_k', '5', '9')]
    towns = [replayed('c', top_k=5), replayed('d', top_k=9)]
    assert difference_rows(towns) == [('setting', 'c', 'd'), ('index.top_k', '5', '9')]
    assert difference_rows([runs[0], towns[0]]) == [('setting', 'a', 'c')]  # torch is the same


def test_folders_of_one_name_are_told_by_their_path(evaluation, tmp_path):
    (tmp_path / 'x').mkdir()
    rows = result_rows([evaluation('a', method('hog')), evaluation('x/a', method('hog'))])
    assert {row[0] for row in rows[1:]} == {str(tmp_path / 'a'), str(tmp_path / 'x/a')}


def test_the_same_question_is_compared(evaluation, replayed):
    check_same([evaluation('a'), evaluation('b', top_k=3), evaluation('c')])
    check_same([replayed('d', TRUTH), replayed('e', TRUTH, top_k=3)])


def test_other_questions_are_refused(evaluation, replayed):
    same = evaluation('a'), evaluation('b')
    with pytest.raises(FolderError, match="a and .*c were asked different .* same_place is "
                                          "'within 2 frames' and 'within 3 frames'; --any-set"):
        check_same([*same, evaluation('c', tolerance=3)])
    with pytest.raises(FolderError, match="d and .*e .*: bag is 'town.bag' and 'lab.bag'"):
        check_same([replayed('d', TRUTH), replayed('e', TRUTH, bag='lab.bag')])
    with pytest.raises(FolderError, match="same_place is 'within 5 m' and 'None'"):
        check_same([replayed('f', TRUTH), replayed('g')])
    with pytest.raises(FolderError, match="set is 'day' and 'not told'"):
        check_same([evaluation('h'), replayed('i')])


@pytest.mark.parametrize(('text', 'words'), [
    (None, 'a has no metrics.json: give result folders of vpr evaluate or vpr replay'),
    ('{', 'metrics.json cannot be read: Expecting property name'),
    ('[]', 'metrics.json is of neither vpr evaluate nor vpr replay, or of an older version'),
    ('{"other": 1}', "is of neither .*: KeyError\\('run'\\)"),
])
def test_folders_that_are_none(tmp_path, text, words):
    (tmp_path / 'a').mkdir()
    if text is not None:
        (tmp_path / 'a/metrics.json').write_text(text)
    with pytest.raises(FolderError, match=words):
        read_result(tmp_path / 'a')


def test_a_replay_without_its_settings(replayed, tmp_path):
    replayed('a')
    (tmp_path / 'a/settings.yaml').unlink()
    with pytest.raises(SettingError, match='settings.yaml cannot be read as parameters'):
        read_result(tmp_path / 'a')
