"""The program vpr_node: what it says of its parameter files."""

from __future__ import annotations

import pytest
from live import wait_until

NO_SIGNAL = 0  # it ends by itself


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / 'robot.yaml'
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(('text', 'reason'), [
    ('/**:\n\tros__parameters:\n', 'line 2: a tab, but YAML is indented by spaces'),
    ('model.weights: hog\n', "robot.yaml, line 1: 'ros__parameters:' is missing under"),
])
def test_a_file_that_ros_cannot_read_is_one_sentence_with_the_line(
        start_process, write, text, reason):
    node = start_process('--params-file', write(text))
    assert node.stop(NO_SIGNAL) == 1
    assert reason in node.log
    assert 'Traceback' not in node.log


def test_other_arguments_that_ros_cannot_read_are_one_sentence(start_process):
    node = start_process('--log-level', 'banana')
    assert node.stop(NO_SIGNAL) == 1
    assert "parse log level: '--log-level banana'" in node.log
    assert 'Traceback' not in node.log


@pytest.mark.parametrize(('text', 'warning'), [
    ('/robot1/vpr: {ros__parameters: {robot_id: 1}}',
     'robot.yaml has no parameters for the node /vpr, but for /robot1/vpr'),
    ('vpr:\n  ros__parameters:\n    robot_id: 1\n    robot_id: 2\n',
     'robot.yaml, line 4: robot_id is given a second time, after line 3'),
])
def test_a_file_that_does_not_do_what_it_seems_to_is_a_warning(
        start_process, write, text, warning):
    node = start_process('--params-file', write(text), '-p', 'model.weights:=hog')
    wait_until(lambda: 'configured: model hog' in node.log, 'a configured node')
    assert warning in node.log
