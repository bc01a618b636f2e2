from __future__ import annotations

import pytest

from selavpr_ros.errors import SettingError
from selavpr_ros.recordings.params import collect_settings, parse_assignment


@pytest.mark.parametrize(('text', 'pair'), [
    ('index.top_k=5', ('index.top_k', 5)),
    ('gates.min_motion=0.25', ('gates.min_motion', 0.25)),
    ('model.weights=a=b.pth', ('model.weights', 'a=b.pth')),
    ('model.input_size=[224, 320]', ('model.input_size', [224, 320])),
    ('verify.enabled=false', ('verify.enabled', False)),
    ('gates.max_drift=1e-1', ('gates.max_drift', 0.1)),
    ('map.path=', ('map.path', '')),
    ("map.path='5'", ('map.path', '5')),
])
def test_assignments(text, pair):
    assert parse_assignment(text) == pair


def test_a_broken_assignment():
    with pytest.raises(SettingError, match="'index.top_k' is not of the form name=value"):
        parse_assignment('index.top_k')
    with pytest.raises(SettingError, match=r"value in 'a=\[' cannot be read as yaml"):
        parse_assignment('a=[')


def test_overrides_go_before_assignments_before_the_file(write):
    path = write('/**: {ros__parameters: {index.top_k: 3, robot_id: 1, model.weights: a}}')
    settings = collect_settings(path, ['index.top_k=5', 'model.weights=b'], {'model.weights': 'c'})
    assert (settings.index.top_k, settings.robot_id, settings.model.weights) == (5, 1, 'c')


def test_an_unknown_name_is_named():
    with pytest.raises(SettingError, match="no setting 'index.topk'"):
        collect_settings(None, ['index.topk=5'], {})


@pytest.mark.parametrize(('text', 'line', 'reason'), [
    ('vpr:\n  ros__parameters:\n    robot_id: 1\n    index:\n      topk: 5\n', 5,
     "there is no setting 'index.topk'"),
    ('vpr:\n  ros__parameters:\n    index.top_k: 5.5\n', 3,
     r'index.top_k = 5.5 should be like 20 .a whole number.'),
    ('vpr:\n  ros__parameters:\n    index.top_k: 500\n', 3, r'index.top_k = 500 is not in'),
    ('vpr:\n  ros__parameters:\n    index.top_k: []\n', 3, r'index.top_k = \[\] should be like'),
])
def test_a_wrong_setting_in_a_file_tells_the_line(write, text, line, reason):
    with pytest.raises(SettingError, match=rf'params.yaml, line {line}: {reason}'):
        collect_settings(write(text), [], {})


def test_of_two_robots_in_a_file_the_named_one_is_read(write):
    path = write('/r1/vpr: {ros__parameters: {robot_id: 1}}\n'
                 '/r2/vpr: {ros__parameters: {robot_id: 2}}\n')
    assert collect_settings(path, [], {}, '/r2/vpr').robot_id == 2
