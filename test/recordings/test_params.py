from __future__ import annotations

import pytest

from selavpr_ros.errors import SettingError
from selavpr_ros.recordings.params import collect_settings, parse_assignment, read_params


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / 'params.yaml'
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize('text', [
    '/**: {ros__parameters: {index: {top_k: 7}, model: {weights: hog}}}',
    'vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    '/vpr: {ros__parameters: {index: {top_k: 7}, model.weights: hog}}',
    '/robot1/vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    'robot1: {vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}}',
])
def test_every_form_of_a_parameter_file(write, text):
    assert read_params(write(text)) == {'index.top_k': 7, 'model.weights': 'hog'}


def test_the_section_of_the_node_goes_before_the_one_for_all(write):
    values = read_params(write('vpr: {ros__parameters: {index.top_k: 3}}\n'
                               '/**: {ros__parameters: {index.top_k: 5, robot_id: 2}}\n'))
    assert values == {'index.top_k': 3, 'robot_id': 2}


def test_other_nodes_and_parameters_of_ros_are_left_alone(write):
    values = read_params(write(
        'camera: {ros__parameters: {exposure: 5}}\n'
        'vpr: {ros__parameters: {use_sim_time: true, qos_overrides: {/image: {depth: 3}}, '
        'autostart: true, robot_id: 2}}\n'))
    assert values == {'robot_id': 2}


def test_an_empty_section(write):
    assert read_params(write('/**:\n  ros__parameters:\n')) == {}


@pytest.mark.parametrize('text', ['', '- a\n', 'camera: {ros__parameters: {exposure: 5}}'])
def test_a_file_without_a_section_for_the_node(write, text):
    with pytest.raises(SettingError, match=r"has no parameters for the node: a section '/\*\*:'"):
        read_params(write(text))


def test_a_file_that_cannot_be_read(write, tmp_path):
    with pytest.raises(SettingError, match='gone.yaml cannot be read as parameters: '):
        read_params(tmp_path / 'gone.yaml')
    with pytest.raises(SettingError, match='params.yaml cannot be read as parameters: .*line 1'):
        read_params(write('a: ]'))


@pytest.mark.parametrize(('text', 'pair'), [
    ('index.top_k=5', ('index.top_k', 5)),
    ('gates.min_motion=0.25', ('gates.min_motion', 0.25)),
    ('model.weights=a=b.pth', ('model.weights', 'a=b.pth')),
    ('model.input_size=[224, 320]', ('model.input_size', [224, 320])),
    ('verify.enabled=false', ('verify.enabled', False)),
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
