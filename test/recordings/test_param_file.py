"""Parameter files; test/ros/test_param_file.py compares with what ROS itself reads."""

from __future__ import annotations

import pytest

from selavpr_ros.errors import SettingError
from selavpr_ros.recordings.param_file import nodes_in, read_given, read_params, read_sections


@pytest.mark.parametrize('text', [
    '/**: {ros__parameters: {index: {top_k: 7}, model: {weights: hog}}}',
    '/*: {ros__parameters: {index: {top_k: 7}, model: {weights: hog}}}',
    'vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    '/vpr: {ros__parameters: {index: {top_k: 7}, model.weights: hog}}',
    '/robot1/vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    'robot1: {vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}}',
    '/robot1/*: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    '/*/vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    '/**/vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
    'front_vpr: {ros__parameters: {index.top_k: 7, model.weights: hog}}',
])
def test_every_form_of_a_parameter_file(write, text):
    assert read_params(write(text)) == {'index.top_k': 7, 'model.weights': 'hog'}


@pytest.mark.parametrize('names', [
    ('vpr', '/**'), ('/**', 'vpr'), ('/**', '/*'), ('/*', '/**'), ('/**/vpr', '/vpr'),
    ('/*/vpr', '/**')])
def test_of_the_sections_that_mean_the_node_the_last_one_wins(write, names):
    one, two = names
    values = read_params(write(f'{one}: {{ros__parameters: {{index.top_k: 1, robot_id: 2}}}}\n'
                               f'{two}: {{ros__parameters: {{index.top_k: 2}}}}\n'))
    assert values == {'index.top_k': 2, 'robot_id': 2}


def test_a_section_that_comes_again_adds_to_its_first_place(write):
    values = read_params(write('vpr: {ros__parameters: {index.top_k: 1}}\n'
                               '/**: {ros__parameters: {robot_id: 2}}\n'
                               'vpr: {ros__parameters: {robot_id: 3}}\n'))
    assert values == {'index.top_k': 1, 'robot_id': 2}


def test_other_nodes_and_parameters_of_ros_are_left_alone(write):
    values = read_params(write(
        'camera: {ros__parameters: {exposure: 5}}\n'
        'vpr: {ros__parameters: {use_sim_time: true, qos_overrides: {/image: {depth: 3}}, '
        'autostart: true, robot_id: 2}}\n'))
    assert values == {'robot_id': 2}


# ---- which node ---------------------------------------------------------------------------------


def _nodes(write, *names: str, params: str = 'robot_id: 1') -> list[str]:
    return nodes_in(read_sections(write('\n'.join(
        f'{name}: {{ros__parameters: {{{params}}}}}' for name in names))))


@pytest.mark.parametrize(('names', 'nodes'), [
    (('/**',), ['/vpr']), (('/**', 'vpr'), ['/vpr']), (('/**', '/r1/vpr'), ['/r1/vpr']),
    (('/*/vpr', '/r1/vpr'), ['/r1/vpr']), (('/r1/**', '/r1/vpr'), ['/r1/vpr']),
    (('/r1/vpr', '/r2/vpr'), ['/r1/vpr', '/r2/vpr']), (('vpr', '/r2/vpr'), ['/vpr', '/r2/vpr']),
    (('/r1/*', '/r2/*'), ['/r1/vpr', '/r2/vpr']), (('camera',), []),
    (('/**', 'camera'), ['/vpr'])])
def test_the_nodes_that_a_file_is_written_for(write, names, nodes):
    assert _nodes(write, *names) == nodes


def test_a_node_of_another_name_is_known_by_its_parameters(write):
    names = ('/**', 'front', 'rear')
    assert _nodes(write, *names, params='model.weights: hog') == ['/front', '/rear']


def test_several_nodes_are_an_error_that_names_them(write):
    path = write('/**: {ros__parameters: {index.top_k: 3}}\n'
                 '/r1/vpr: {ros__parameters: {robot_id: 1}}\n'
                 'r2: {vpr: {ros__parameters: {robot_id: 2}}}\n')
    with pytest.raises(SettingError, match='params.yaml has parameters for several nodes, /r1/vpr '
                                           'and /r2/vpr: pass --node and one of these names'):
        read_params(path)
    assert read_params(path, '/r1/vpr') == {'index.top_k': 3, 'robot_id': 1}
    assert read_params(path, 'r2/vpr') == {'index.top_k': 3, 'robot_id': 2}
    assert read_params(path, 'vpr') == {'index.top_k': 3}


def test_a_node_that_is_not_in_the_file(write):
    path = write('/r1/vpr: {ros__parameters: {robot_id: 1}}')
    with pytest.raises(SettingError, match='params.yaml has no parameters for the node /vpr, but '
                                           'for /r1/vpr'):
        read_params(path, 'vpr')
    with pytest.raises(SettingError, match=r"has no parameters for the node: a section '/\*\*:'.*"
                                           'those of /camera are there: pass --node NAME'):
        read_params(write('camera: {ros__parameters: {exposure: 5}}'))


# ---- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize(('text', 'reason'), [
    ('', 'cannot be read as parameters: there are none in it'),
    ('# nothing\n', 'cannot be read as parameters: there are none in it'),
    ('vpr: {}\n', 'cannot be read as parameters: there are none in it'),
    ('- a\n', "line 1: 'ros__parameters:' is missing under the name of a node, or '/**'"),
    ('hello\n', "line 1: 'ros__parameters:' is missing under the name of a node, or '/**'"),
    ('vpr:\n  index.top_k: 3\n', "line 2: 'ros__parameters:' is missing under 'vpr/index.top_k'"),
    ('vpr:\n', "line 1: 'ros__parameters:' is missing under 'vpr'"),
    ('/**:\n  ros__parameters:\n', "line 2: 'ros__parameters:' needs the name of a node"),
    ('\nros__parameters: {a: 1}\n', "line 2: 'ros__parameters:' needs the name of a node"),
    ('/**:\n\tros__parameters:\n', 'line 2: a tab, but YAML is indented by spaces'),
    ('a: ]\n', 'cannot be read as parameters: line 1: '),
    ('/**:\n  ros__parameters:\n    a: 1\n    b: 2\n    a: 3\n',
     'line 5: a is given a second time, after line 3: delete one of the two'),
    ('/**:\n  ros__parameters:\n    a.b: 1\n    a: {b: 2}\n', 'line 4: a.b is given a second'),
    ('vpr: {ros__parameters: {a: 1}}\n/vpr: {ros__parameters: {a: 1}}\n',
     'line 2: a is given a second time, after line 1'),
    ('/**:\n  ros__parameters:\n    a:\n', 'line 3: a has no value'),
    ('/**:\n  ros__parameters:\n    a: [0.3, 0]\n', 'line 3: a mixes values of several types'),
    ('x: &a {ros__parameters: {a: 1}}\n/**: *a\n', 'line 2: ROS reads no aliases'),
    ('/r*/vpr: {ros__parameters: {a: 1}}\n', "line 1: 'r*' is no name of a node"),
    ('a: ' + '[' * 5000, 'cannot be read as parameters: '),
], ids=range(19))
def test_what_is_wrong_is_one_line_with_the_number_of_the_line(write, text, reason):
    with pytest.raises(SettingError) as caught:
        read_given(write(text))
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(write(text)))
    assert '\n' not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(SettingError, match='gone.yaml cannot be read as parameters: '):
        read_params(tmp_path / 'gone.yaml')
    (tmp_path / 'wide.yaml').write_text('vpr: {}', encoding='utf-16')
    with pytest.raises(SettingError, match='cannot be read as parameters: it is no text in UTF-8'):
        read_params(tmp_path / 'wide.yaml')
