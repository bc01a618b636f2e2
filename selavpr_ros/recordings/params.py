"""Settings from the node's parameter file and from `name=value` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from selavpr_ros.errors import SettingError
from selavpr_ros.recordings.param_file import Params, read_given, read_value
from selavpr_ros.settings import Settings, make_settings


def parse_assignment(text: str) -> tuple[str, Any]:
    """Turn 'index.top_k=5' into a name and a value, which is read as in a parameter file.

    Raises:
        SettingError: there is no '=', or the value is not valid YAML.
    """
    name, equals, value = text.partition('=')
    if not equals:
        raise SettingError(f"'{text}' is not of the form name=value, e.g. index.top_k=5")
    try:
        return name.strip(), read_value(value)
    except yaml.YAMLError as error:
        raise SettingError(f"the value in '{text}' cannot be read as yaml") from error


def _checked(path: Path, params: Params) -> dict[str, Any]:
    """The values, each of which is a setting's; an error tells the line."""
    for name, given in params.items():
        try:
            make_settings({name: given.value})
        except SettingError as error:
            raise SettingError(f'{path}, line {given.line}: {error}') from error
    return {name: given.value for name, given in params.items()}


def collect_settings(
    params: Path | None, assignments: Iterable[str], overrides: Mapping[str, Any], node: str = ''
) -> Settings:
    """Settings from a parameter file, then assignments, then overrides; the rest are defaults.

    Args:
        params: the file, or None.
        assignments: 'name=value'.
        overrides: values by dotted name.
        node: see `read_given`.

    Raises:
        SettingError: the file cannot be read, or a setting is unknown or out of range.
    """
    values = _checked(params, read_given(params, node)) if params else {}
    return make_settings({**values, **dict(map(parse_assignment, assignments)), **overrides})
