"""How numbers and tables are shown to people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from difflib import get_close_matches
from typing import Any

Row = tuple[str, ...]


def size(nbytes: float) -> str:
    """A number of bytes in a readable unit, e.g. '1.5 MB'."""
    for unit, factor in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if nbytes >= factor:
            return f'{nbytes / factor:.1f} {unit}'
    return f'{nbytes:.0f} bytes'


def counts(numbers: Mapping[str, int]) -> str:
    """Numbers by name as a list, e.g. '2 bad image, 1 unreadable message'."""
    return ', '.join(f'{number} {name}' for name, number in numbers.items())


def date(stamp_ns: int) -> str:
    """A stamp in nanoseconds since 1970 as date and time in UTC, to the second."""
    return f'{datetime.fromtimestamp(stamp_ns // 1_000_000_000, timezone.utc):%Y-%m-%d %H:%M:%S}'


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that a misspelt one may mean, as the end of a sentence; empty if none is near."""
    near = get_close_matches(name, names, n=1)
    return f": do you mean '{near[0]}'?" if near else ''


def line(cells: Sequence[str], widths: Sequence[int], texts: int | None = None) -> str:
    """One row of a table that is printed while it grows; see `table`."""
    def pad(column: int, cell: str, width: int) -> str:
        to_the_right = cell.isdigit() if texts is None else column >= texts
        return cell.rjust(width) if to_the_right else cell.ljust(width)

    return '  '.join(map(pad, range(len(cells)), cells, widths)).rstrip()


def table(rows: Sequence[Sequence[str]], texts: int | None = None) -> str:
    """Rows as text with aligned columns.

    Args:
        rows: the first one is the head.
        texts: number of leading columns of text, aligned left; the others are aligned right.
            None aligns whole numbers right and everything else left, in any column.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(line(row, widths, texts) for row in rows)


def markdown_line(cells: Sequence[str]) -> str:
    """One row of a table in Markdown."""
    return f'| {" | ".join(cells)} |'


def markdown_rule(columns: int, texts: int) -> Row:
    """Cells of the rule below the head; the first `texts` columns hold text."""
    return ('---',) * texts + ('---:',) * (columns - texts)


def markdown_table(rows: Sequence[Row], texts: int) -> str:
    """Rows in Markdown; the first one is the head, the first `texts` columns hold text."""
    head, *lines = rows
    return ''.join(f'{markdown_line(row)}\n'
                   for row in (head, markdown_rule(len(head), texts), *lines))


def flatten(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
    """Dotted names and values, as text, of nested settings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', str(value)
