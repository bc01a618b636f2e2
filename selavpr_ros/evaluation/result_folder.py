"""The folder of a result, with a log, the settings and the versions."""

from __future__ import annotations

import csv
import json
import logging
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import selavpr_ros
from selavpr_ros.errors import FolderError
from selavpr_ros.recordings.param_file import plain_value
from selavpr_ros.settings import Settings

LOG_FORMAT = '%(asctime)s %(levelname)s %(name)s: %(message)s'


def make_folder(path: Path, overwrite: bool = False) -> Path:
    """Make the folder for the results; `overwrite` allows one that holds files already.

    Raises:
        FolderError: it is not empty and may not be overwritten, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise FolderError(f'{path} cannot take the results: {error.strerror}') from error
    if taken and not overwrite:
        raise FolderError(f'{path} is not empty: choose another folder, or pass --overwrite')
    return path


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what the package logs into a file."""
    logger = logging.getLogger('selavpr_ros')
    handler = logging.FileHandler(path, mode='w', encoding='utf-8')
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that are loaded."""
    loaded = {name: sys.modules[name] for name in ('torch', 'timm', 'faiss', 'numpy', 'cv2')
              if name in sys.modules}
    return {
        'selavpr_ros': selavpr_ros.__version__,
        'python': platform.python_version(),
        **{name: str(getattr(module, '__version__', '?')) for name, module in loaded.items()},
    }


class _Dumper(yaml.SafeDumper):
    """Puts quotes around texts that ROS would take for something else, such as y and 1e3."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if plain_value(text) == text else "'"
        return self.represent_scalar('tag:yaml.org,2002:str', text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def write_settings(path: Path, settings: Settings, facts: dict[str, Any]) -> None:
    """Write the settings as a parameter file for the node, with the facts as comments."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.flat().items()
    }
    comment = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    lines = [f'# {line}' for line in comment.splitlines()]
    body = yaml.dump({'/**': {'ros__parameters': values}}, Dumper=_Dumper, sort_keys=False,
                     allow_unicode=True)
    path.write_text('\n'.join(lines) + '\n' + body, encoding='utf-8')


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a tree of numbers and words."""
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    path.write_text(text + '\n', encoding='utf-8')


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table; the first row is its head."""
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(rows)
