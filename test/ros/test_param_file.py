"""Parameter files are read as ROS reads them: the same files, given to real nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rclpy
from live import DOMAIN_ID
from rclpy.context import Context
from rclpy.node import Node

from selavpr_ros.errors import SettingError
from selavpr_ros.recordings.param_file import read_params

ROOT, ROBOT = '/vpr', '/robot1/vpr'
NAMES = ('vpr', '/vpr', '/**', '/*', '/*/vpr', '/**/vpr', '/robot1/vpr', 'robot1/vpr', '/*/*',
         '/**/*', '/robot1/*', '/robot1/**', 'Vpr', 'other', '/r*/vpr', '/v*', '//vpr', 'vpr/')
VALUES = (
    '1e3', '.5', '1.', '0x10', '-0x10', '010', '08', '0o10', '0b1', '1_000', '+5', '1E5', '.inf',
    '-.INF', 'inf', '9223372036854775808', '1e400', '1:30', '2020-01-01', '"5"', "'yes'",
    '!!str 5', '!!int "5"', '!!float 5', '~', 'null', 'y', 'No', 'ON', 'tRue', 'hello world',
    '[1, 2]', '[1., 2.]', '[true, no]', '["a", b]', '[1, .5]', '|\n      text', '12abc', '""', '')
FILES = [
    *(f'/**:\n  ros__parameters:\n    a: {value}\n' for value in VALUES),
    *(f'{name}: {{ros__parameters: {{a: 1}}}}\n' for name in NAMES),
    *(f'{one}: {{ros__parameters: {{a: 1}}}}\n{two}: {{ros__parameters: {{a: 2}}}}\n'
      for one in ('vpr', '/**', '/*', ROBOT) for two in ('/**', '/*', '/**/vpr', 'vpr')
      if one != two),
    'robot1: {vpr: {ros__parameters: {a: {b: 1}}}}', '/: {vpr: {ros__parameters: {a: 1}}}',
    'vpr: {ros__parameters: {a: 1}}\n/**: {ros__parameters: {a: 2}}\n'
    'vpr: {ros__parameters: {b: 3}}',
    '/**: {ros__parameters: {a: 1}}\n---\n/*: {ros__parameters: {a: 2}}',
    'x: &d {ros__parameters: {a: 1}}\n/**: *d', 'vpr: {a: 1}', 'vpr:', '- a', '/**: 3',
    '/**:\n  ros__parameters:\n', '/**:\n\tros__parameters: {}\n',
    '\ufeff/**: {ros__parameters: {}}']


def _by_ros(path: Path, node: str) -> dict[str, Any] | None:
    """The parameters that a node gets; None if ROS does not start with this file."""
    context, (namespace, _, name) = Context(), node.rpartition('/')
    try:
        rclpy.init(args=['--ros-args', '--params-file', str(path)], context=context,
                   domain_id=DOMAIN_ID)
    except Exception:  # the class is private
        return None
    try:
        made = Node(name, namespace=namespace or None, context=context, enable_rosout=False,
                    start_parameter_services=False,
                    automatically_declare_parameters_from_overrides=True)
        values = {name: parameter.value
                  for name, parameter in made.get_parameters_by_prefix('').items()}
        made.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    own = ('use_sim_time', 'start_type_description_service')
    return {name: value for name, value in values.items() if name not in own}


def _by_us(path: Path, node: str) -> dict[str, Any] | None:
    """The same; ROS takes no parameters for a node as none at all, where we say so."""
    try:
        return read_params(path, node)
    except SettingError as error:
        return {} if 'has no parameters for the node' in str(error) else None


@pytest.mark.parametrize('text', FILES)
def test_a_file_means_what_it_means_to_ros(tmp_path, text):
    path = tmp_path / 'params.yaml'
    path.write_text(text)
    for node in (ROOT, ROBOT):
        found, expected = _by_us(path, node), _by_ros(path, node)
        assert repr(found) == repr(expected)  # so that 1, 1.0 and True are three values
