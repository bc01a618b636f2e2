"""What `make params` writes is what lies in the repository."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml

from selavpr_ros.decision.gates import Decision
from selavpr_ros.settings import AUTOSTART, Settings, describe

ROOT = Path(__file__).parents[1]
FILES = runpy.run_path(str(ROOT / 'scripts/reference.py'))['files']()


@pytest.mark.parametrize('path', FILES, ids=str)
def test_what_is_made_is_up_to_date(path):
    assert (ROOT / path).read_text(encoding='utf-8') == FILES[path], (
        f'{path} is out of date: run make params')


def test_the_parameter_file_holds_the_defaults():
    text = FILES[Path('config/vpr.yaml')]
    tree = yaml.safe_load(text)['/**']['ros__parameters']
    assert tree.pop('autostart') is True
    for name, value in Settings().flat().items():
        found = tree
        for part in name.split('.'):
            found = found[part]
        assert found == (list(value) if isinstance(value, tuple) else value), name
    assert max(map(len, text.splitlines())) <= 99


def test_every_parameter_is_in_the_table():
    rows = [line for line in FILES[Path('docs/parameters.md')].splitlines()
            if line.startswith('| `')]
    assert [row.split('`')[1] for row in rows] == [
        info.name for info in [AUTOSTART, *describe()]]
    assert all(row.replace('\\|', '').count('|') == 6 for row in rows)


def test_every_reason_is_on_the_page():
    page = FILES[Path('docs/decision.md')]
    assert all(f'`{decision.name}`' in page for decision in Decision
               if decision is not Decision.ACCEPTED)
