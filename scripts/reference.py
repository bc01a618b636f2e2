"""Write the files that are made from the code: the parameter file, and tables of the docs.

  make params
      config/vpr.yaml, docs/parameters.md, docs/messages.md, the reasons in docs/decision.md
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from selavpr_ros.decision.gates import GATES
from selavpr_ros.settings import AUTOSTART, SettingInfo, Settings, Value, describe
from selavpr_ros.text import markdown_table

ROOT = Path(__file__).parents[1]
MESSAGES = ROOT / 'selavpr_msgs'
# The text between these lines of a page is generated; the rest is written by hand.
MADE = re.compile(r'(<!-- made by make params -->\n).*?(<!-- end -->\n)', re.DOTALL)


def _yaml_value(value: Value) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return text.removesuffix('\n').removesuffix('\n...')


def _groups() -> Iterator[tuple[str, str, list[SettingInfo]]]:
    """Name, title and parameters of each group; the first one has no name."""
    infos = [AUTOSTART, *describe()]
    for group in dict.fromkeys(info.name.rpartition('.')[0] for info in infos):
        what = getattr(Settings(), group).__doc__ if group else ''
        yield group, what, [info for info in infos if info.name.rpartition('.')[0] == group]


# ---- config/vpr.yaml ----------------------------------------------------------------------------


def _yaml_lines(info: SettingInfo, indent: int) -> Iterator[str]:
    space = ' ' * indent
    one_of = f' One of: {", ".join(info.choices)}.' if info.choices else ''
    yield from textwrap.wrap(info.description + one_of, 99, initial_indent=f'{space}# ',
                             subsequent_indent=f'{space}# ')
    live = '  # live' if info.live else ''
    yield f'{space}{info.name.rpartition(".")[2]}: {_yaml_value(info.default)}{live}'


def parameter_file() -> str:
    """All parameters with their defaults, as a ROS parameter file."""
    lines = [
        '# Every parameter of vpr_node with its default. Those marked "live" can be set while the',
        '# node runs, the others only while it is unconfigured. Written by `make params`.',
        '/**:', '  ros__parameters:']
    for group, _, infos in _groups():
        lines += ['', f'    {group}:'] if group else []
        lines += [line for info in infos for line in _yaml_lines(info, 6 if group else 4)]
    return '\n'.join(lines) + '\n'


# ---- docs ---------------------------------------------------------------------------------------


def _values(info: SettingInfo) -> str:
    """The values that a parameter may have."""
    if info.choices:
        return ', '.join(f'`{choice}`' for choice in info.choices)
    low, high = ('' if end is None else f'{end:.6g}' for end in (info.low, info.high))
    return f'{low} to {high}' if low and high else f'from {low}' if low else ''


def parameter_page() -> str:
    """All parameters as tables, group by group."""
    text = (
        '# Parameters\n\n'
        '<!-- Written by make params from selavpr_ros/settings.py. -->\n\n'
        'Each with its default, as in [`config/vpr.yaml`](../config/vpr.yaml). A *live* parameter '
        'can be set while the node runs (`ros2 param set /vpr gates.min_probability 0.95`), the '
        'others only while it is unconfigured. `vpr replay` takes all of them with '
        '`--params FILE` and `--set NAME=VALUE`.\n')
    for group, what, infos in _groups():
        rows = [(f'`{info.name}`', f'`{_yaml_value(info.default)}`', _values(info),
                 'live' if info.live else '', info.description) for info in infos]
        head = ('parameter', 'default', 'values', '', 'what it is')
        text += (f'\n## {group}\n\n{what}\n\n' if group else '\n') + markdown_table(
            [head, *rows], 5)
    return text


def message_page() -> str:
    """The text of all messages, services and actions."""
    text = ('# Messages\n\n'
            '<!-- Written by make params from the files in selavpr_msgs. -->\n')
    for kind, heading in (('msg', ''), ('srv', '\n## Services\n'), ('action', '\n## Actions\n')):
        text += heading
        for file in sorted((MESSAGES / kind).iterdir()):
            text += f'\n### {file.stem}\n\n```\n{file.read_text(encoding="utf-8")}```\n'
    return text


def _reasons() -> str:
    rows = [(f'`{gate.decision.name}`', gate.why, ', '.join(f'`{name}`' for name in gate.loosened))
            for gate in GATES]
    return markdown_table([('reason', 'what it means', 'settings'), *rows], 3)


def decision_page() -> str:
    """The page on the decision, with a new table of reasons."""
    page = (ROOT / 'docs/decision.md').read_text(encoding='utf-8')
    return MADE.sub(lambda found: f'{found[1]}\n{_reasons()}\n{found[2]}', page)


def files() -> dict[Path, str]:
    """All generated texts, by path in the repository."""
    return {
        Path('config/vpr.yaml'): parameter_file(),
        Path('docs/parameters.md'): parameter_page(),
        Path('docs/messages.md'): message_page(),
        Path('docs/decision.md'): decision_page(),
    }


if __name__ == '__main__':
    for path, text in files().items():
        (ROOT / path).write_text(text, encoding='utf-8')
