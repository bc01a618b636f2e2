"""How numbers and tables are shown to people."""

from __future__ import annotations

from collections.abc import Sequence


def size(nbytes: float) -> str:
    """Bytes for people."""
    for unit, factor in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if nbytes >= factor:
            return f'{nbytes / factor:.1f} {unit}'
    return f'{nbytes:.0f} bytes'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows below each other, whole numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(cell.rjust(width) if cell.isdigit() else cell.ljust(width)
                  for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows)
