"""Settings from the node's parameter file and from `name=value` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from selavpr_ros.errors import SettingError
from selavpr_ros.settings import AUTOSTART, FOREIGN, Settings, make_settings

SECTION = 'ros__parameters'
NODE_NAME = 'vpr'
WILDCARDS = ('*', '**')
NO_SETTINGS = (AUTOSTART.name, *FOREIGN)


def _sections(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All `ros__parameters` sections, each with the last part of its node's name."""
    if not isinstance(tree, Mapping):
        return
    for key, branch in tree.items():
        if key == SECTION:
            yield path[-1] if path else '', branch
        else:
            yield from _sections(branch, (*path, *str(key).strip('/').split('/')))


def _dotted(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from _dotted(value, f'{name}.')
        else:
            yield name, value


def read_params(path: Path) -> dict[str, Any]:
    """Read the node's parameters by dotted name from a ROS parameter file.

    Sections for all nodes (`/**`) and for a node named vpr are read, and values of the latter win.
    Sections of other nodes are ignored.

    Raises:
        SettingError: the file cannot be read or parsed, or has no section for the node.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise SettingError(f'{path} cannot be read as parameters: {reason}') from error
    sections = [(name, section or {}) for name, section in _sections(tree)]
    ours = [section for name, section in sections if name in WILDCARDS]
    ours += [section for name, section in sections if name == NODE_NAME]
    if not ours:
        raise SettingError(f"{path} has no parameters for the node: a section '/**:' or "
                           f"'{NODE_NAME}:' with '{SECTION}:' below it is needed")
    values = dict(pair for section in ours for pair in _dotted(section))
    return {name: v for name, v in values.items() if name.split('.')[0] not in NO_SETTINGS}


def parse_assignment(text: str) -> tuple[str, Any]:
    """Turn 'index.top_k=5' into a name and a value, which is read as yaml.

    Raises:
        SettingError: there is no '=', or the value is not valid YAML.
    """
    name, equals, value = text.partition('=')
    if not equals:
        raise SettingError(f"'{text}' is not of the form name=value, e.g. index.top_k=5")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingError(f"the value in '{text}' cannot be read as yaml") from error


def collect_settings(
    params: Path | None, assignments: Iterable[str], overrides: Mapping[str, Any]
) -> Settings:
    """Settings from a parameter file, then assignments, then overrides; the rest are defaults.

    Raises:
        SettingError: the file cannot be read, or a setting is unknown or out of range.
    """
    values = read_params(params) if params else {}
    return make_settings({**values, **dict(map(parse_assignment, assignments)), **overrides})
