"""Which systems there are: the rows of all families, read without waiting seconds for torch."""

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
    """The literal `System(...)` of a family's file, which is not imported."""
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) \
                and node.func.id == System.__name__:
            yield System(**{str(given.arg): ast.literal_eval(given.value)
                            for given in node.keywords})


_ALL = tuple(system for file in FILES.values() for system in _read(file))
SYSTEMS = tuple(system for system in _ALL if not system.is_built_in)
# Their figures on other data are in `weights/README.md`.
BUILT_IN = tuple(system for system in _ALL if system.is_built_in)


def build(system: System) -> VprModel:
    """The network in full size, with the random values of its start: for tests and timings."""
    model = family_named(system.family).network(**system.sizes)
    model.name, model.image_size = system.name, system.image_size
    return model.eval().requires_grad_(False)
