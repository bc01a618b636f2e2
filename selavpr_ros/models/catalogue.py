"""The list of all systems, read from the files of the families without importing torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from selavpr_ros.models.families import FILES, System, family_named

if TYPE_CHECKING:
    from selavpr_ros.models.base import VprModel

__all__ = ['BUILT_IN', 'SYSTEMS', 'System', 'build']


def _read(file: Path) -> Iterator[System]:
    """Each literal `System(...)` in a family's file, read without importing the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) \
                and node.func.id == System.__name__:
            yield System(**{str(given.arg): ast.literal_eval(given.value)
                            for given in node.keywords})


_ALL = tuple(system for file in FILES.values() for system in _read(file))
SYSTEMS = tuple(system for system in _ALL if not system.is_built_in)
# The built-in systems were measured on other data; `weights/README.md` has these figures.
BUILT_IN = tuple(system for system in _ALL if system.is_built_in)


def build(system: System) -> VprModel:
    """Build a network in full size with its random initial values, for tests and timings.

    Args:
        system: one of `SYSTEMS`; a built-in one is loaded by its name.
    """
    model = family_named(system.family).network(**system.sizes)
    model.name, model.image_size = system.name, system.image_size
    return model.eval().requires_grad_(False)
