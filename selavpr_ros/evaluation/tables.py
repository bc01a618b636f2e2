"""Rows of text, as tables are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = tuple[str, ...]


def aligned(rows: Sequence[Row], texts: int) -> str:
    """Rows below each other; the first `texts` columns are no numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(width) if column < texts else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows)


def flatten(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
    """Names, dotted, and values of nested settings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', str(value)
