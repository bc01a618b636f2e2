"""ROS parameter files, read as ROS reads them (rcl_yaml_param_parser), but without ROS.

A file has sections by the names of nodes, in which `*` stands for one name and `**` for any number
of them. Of several sections that mean a node, the last one in the file wins. Plain values have the
types of ROS, which are not those of YAML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selavpr_ros.errors import SettingError
from selavpr_ros.settings import AUTOSTART, FOREIGN, describe

SECTION = 'ros__parameters'
NODE_NAME = 'vpr'
WILDCARDS = {'*': '/[^/]+', '**': '(/[^/]+)*'}
NO_SETTINGS = (AUTOSTART.name, *FOREIGN)

PLAIN, TEXT = '!plain', 'tag:yaml.org,2002:str'
WORDS = {'y': True, 'yes': True, 'true': True, 'on': True,
         'n': False, 'no': False, 'false': False, 'off': False}
BOOLS = {text: value for word, value in WORDS.items()
         for text in (word, word.capitalize(), word.upper())}
INTEGER = re.compile(r'[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)')
FLOAT = re.compile(r'[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?)')
SPECIAL = re.compile(r'([+-]?)\.?(inf|nan|infinity)', re.IGNORECASE)


@dataclass(frozen=True)
class Given:
    """A value in a parameter file, and the number of its line."""

    value: Any
    line: int


Params = dict[str, Given]


# ---- values -------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Keeps plain values apart from quoted ones, and refuses aliases, as ROS does."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        is_plain = kind is yaml.ScalarNode and implicit[0]
        return PLAIN if is_plain else str(super().resolve(kind, value, implicit))

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem='ROS reads no aliases: write the values out',
                problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


def _integer(text: str) -> int | float:
    digits = text.lstrip('+-').lower()
    base = 16 if digits.startswith('0x') else 8 if digits.startswith('0') else 10
    value = int(text, base)
    return value if -2**63 <= value < 2**63 else float(value)


def plain_value(text: str) -> bool | int | float | str:
    """The value of a word without quotes: 1e3 is a number, 010 eight, y true, and null a text."""
    if text in BOOLS:
        return BOOLS[text]
    if INTEGER.fullmatch(text):
        return _integer(text)
    if FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    special = SPECIAL.fullmatch(text)
    return float(special[1] + special[2]) if special else text


def _value(node: yaml.Node) -> Any:
    """The value of a word or of a list."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        return {}
    text = str(node.value)
    return text if node.style or node.tag == TEXT else plain_value(text)


def read_value(text: str) -> Any:
    """The value of a text on the command line, as it would be in a parameter file.

    Raises:
        yaml.YAMLError: it is not valid YAML.
    """
    node = yaml.compose(text, Loader=_Loader)
    return '' if node is None else _value(node)


# ---- parameter files ----------------------------------------------------------------------------


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _check_value(name: str, node: yaml.Node) -> None:
    """Raise SettingError for values that ROS does not take."""
    if isinstance(node, yaml.ScalarNode) and not node.value and not node.style:
        raise SettingError(f"line {_line(node)}: {name} has no value; '' is an empty text")
    if isinstance(node, yaml.SequenceNode):
        kinds = {type(_value(item)) for item in node.value}
        if len(kinds) > 1 or kinds & {list, dict}:
            raise SettingError(
                f'line {_line(node)}: {name} mixes values of several types, which ROS does not '
                'take; all numbers of a list have a decimal point or none has')


def _params(tree: yaml.MappingNode, prefix: str = '') -> Iterator[tuple[str, Given]]:
    """Parameters by dotted name, in the order of the file."""
    for key, node in tree.value:
        name = f'{prefix}{key.value}'
        if isinstance(node, yaml.MappingNode):
            yield from _params(node, f'{name}.')
        else:
            _check_value(name, node)
            yield name, Given(_value(node), _line(key))


def _add(params: Params, added: Iterable[tuple[str, Given]]) -> None:
    for name, given in added:
        if name in params:
            raise SettingError(f'line {given.line}: {name} is given a second time, after line '
                               f'{params[name].line}: delete one of the two')
        params[name] = given


def _node_name(keys: Iterable[str], line: int) -> str:
    """Name of a node, with its namespace, from the keys above its parameters."""
    *spaces, name = keys
    spaces = [key.removeprefix('/').removesuffix('/') for key in spaces]
    parts = '/'.join([*filter(None, spaces), name.removeprefix('/')]).split('/')
    for part in parts:
        if part not in WILDCARDS and not re.fullmatch(r'[A-Za-z_]\w*', part, re.ASCII):
            raise SettingError(f"line {line}: '{part}' is no name of a node or a namespace; * and "
                               '** stand for whole names')
    return '/' + '/'.join(parts)


def _sections(
    tree: yaml.Node, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, yaml.MappingNode]]:
    """All `ros__parameters` with the names of their nodes, in the order of the file."""
    if not isinstance(tree, yaml.MappingNode):
        where = f"under '{'/'.join(keys)}'" if keys else "under the name of a node, or '/**'"
        raise SettingError(
            f"line {_line(tree)}: '{SECTION}:' is missing {where}, above the parameters")
    for key, branch in tree.value:
        if key.value != SECTION:
            yield from _sections(branch, (*keys, str(key.value)))
        elif keys and isinstance(branch, yaml.MappingNode):
            yield _node_name(keys, _line(key)), branch
        else:
            raise SettingError(f"line {_line(key)}: '{SECTION}:' needs the name of a node, or "
                               "'/**', above it, and parameters below it")


def _read_sections(path: Path) -> dict[str, Params]:
    """Parameters by the names of nodes; a name that comes again adds to its first place."""
    sections: dict[str, Params] = {}
    text = path.read_text(encoding='utf-8')
    for tree in yaml.compose_all(text, Loader=_Loader):
        for name, branch in _sections(tree):
            _add(sections.setdefault(name, {}), _params(branch))
    return sections


def _explain(error: Exception) -> str:
    """What is wrong with a file, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        problem = str(error.problem)
        if "'\\t'" in problem:
            problem = 'a tab, but YAML is indented by spaces'
        return f'line {error.problem_mark.line + 1}: {problem}'
    if isinstance(error, UnicodeDecodeError):
        return f'it is no text in UTF-8: save it as such ({error})'
    return ' '.join(str(error).split())


def read_sections(path: Path) -> dict[str, Params]:
    """Parameters by the names of nodes, wildcards included, in the order in which ROS takes them.

    Raises:
        SettingError: the file cannot be read, or ROS would not read it, or it gives one parameter
            of a node twice; the message tells the line.
    """
    try:
        sections = _read_sections(path)
    except SettingError as error:
        raise SettingError(f'{path}, {error}') from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SettingError(f'{path} cannot be read as parameters: {_explain(error)}') from error
    if not sections:
        raise SettingError(f'{path} cannot be read as parameters: there are none in it')
    return sections


# ---- which node ---------------------------------------------------------------------------------


def means(section: str, node: str) -> bool:
    """Whether the name of a section, with wildcards, means a node, by its full name."""
    return re.fullmatch(''.join(
        WILDCARDS.get(part, f'/{part}') for part in section.split('/')[1:]), node) is not None


def _node_in(section: str, params: Params) -> str:
    """The place recognition node that a section is written for; '' if for other nodes.

    It is called vpr, or has parameters of ours. A * in its namespace stays as it is.
    """
    *spaces, name = section.split('/')[1:]
    ours = {info.name for info in describe() if '.' in info.name}
    if name in WILDCARDS:
        name = NODE_NAME
    elif name != NODE_NAME and not ours & params.keys():
        return ''
    return ''.join(f'/{part}' for part in (*spaces, name) if part != '**')


def nodes_in(sections: Mapping[str, Params]) -> list[str]:
    """Full names of the place recognition nodes that a file is written for."""
    found = [(_node_in(section, params), section) for section, params in sections.items()]
    found = [(node, section) for node, section in found if node]
    # A section that means another one's node, such as /**, is written for all of them.
    return list(dict.fromkeys(
        node for node, section in found
        if not any(means(section, other) for other, _ in found if other != node)))


def _choose_node(sections: Mapping[str, Params]) -> str:
    nodes = nodes_in(sections)
    if not nodes:
        raise SettingError(
            f"no parameters for the node: a section '/**:' or '{NODE_NAME}:' with '{SECTION}:' "
            f'below it is needed; those of {", ".join(sections)} are there: pass --node NAME if '
            'one of them is it')
    if len(nodes) > 1:
        raise SettingError(f'parameters for several nodes, {" and ".join(nodes)}: pass --node '
                           f'and one of these names')
    return nodes[0]


def read_given(path: Path, node: str = '') -> Params:
    """Read a node's parameters by dotted name from a ROS parameter file.

    Args:
        path: of the file.
        node: the node's name with its namespace; '' is the only place recognition node in the
            file.

    Raises:
        SettingError: the file cannot be read, has no parameters for the node, or is written for
            several nodes and none was named.
    """
    sections = read_sections(path)
    try:
        name = f'/{node.strip("/")}' if node else _choose_node(sections)
    except SettingError as error:
        raise SettingError(f'{path} has {error}') from error
    ours = [params for section, params in sections.items() if means(section, name)]
    if not ours:
        raise SettingError(f'{path} has no parameters for the node {name}, but for '
                           f'{", ".join(sections)}')
    return {name: given for params in ours for name, given in params.items()
            if name.split('.')[0] not in NO_SETTINGS}


def read_params(path: Path, node: str = '') -> dict[str, Any]:
    """The values of `read_given`."""
    return {name: given.value for name, given in read_given(path, node).items()}
