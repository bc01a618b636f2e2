"""The command line: one verb, one file; here is what several verbs share."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def positive(text: str) -> float:
    """Read a finite number above zero, for argparse."""
    value = float(text)
    if not (math.isfinite(value) and value > 0.0):
        raise argparse.ArgumentTypeError(f'{text} is not above zero')
    return value


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare the folder for results; the help names `default` as its default."""
    parser.add_argument('-o', '--output', type=Path, metavar='OUT',
                        help=f'folder for the results (default: {default})')
    parser.add_argument('--overwrite', action='store_true',
                        help='write into a folder that is not empty')
