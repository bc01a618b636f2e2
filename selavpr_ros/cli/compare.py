"""Put the results of several runs side by side, and say which settings differ.

RUN is a result folder of `vpr evaluate` or `vpr replay`.

  vpr compare vpr_results/town_hog vpr_results/town_embedded
      one line per method: recall, what its score is worth as a gate, loop closures, latency
  vpr compare vpr_results/evaluate-* -o comparison.html
      the same as a page with the curves, or as a table: comparison.csv

Figures can be compared only if the same was asked: folders with different images, or different
definitions of the same place, are refused unless --any-set is given. The columns true and false
count loop closures, of `vpr replay` alone. The latency is the median per query; of `vpr evaluate`
it is the sum of the stages' medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selavpr_ros.errors import FolderError, SettingError

if TYPE_CHECKING:
    from selavpr_ros.evaluation.comparison import Result

SUFFIXES = ('.html', '.csv')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr compare`."""
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN', help='result folder')
    parser.add_argument('--any-set', action='store_true',
                        help='compare also runs on different sets or truths')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE',
                        help='also write FILE.html or FILE.csv')


def _page(results: Sequence[Result]) -> str:
    from selavpr_ros.evaluation import comparison
    from selavpr_ros.evaluation.html import Picture, Section, png_source, render

    names = comparison.run_names(results)
    curves = [Picture(png_source(path.read_bytes()), name) for name, result in zip(
        names, results, strict=True)
        if (path := result.folder / 'precision_recall.png').is_file()]
    asked = [(name, '; '.join(f'{key}: {value}' for key, value in result.asked.items()))
             for name, result in zip(names, results, strict=True)]
    return render('Comparison', f'{len(results)} runs', [
        Section('Results', table=comparison.result_rows(results), texts=comparison.TEXTS),
        Section('Precision and recall',
                pictures=[curves[start: start + 2] for start in range(0, len(curves), 2)]),
        Section('Settings that differ', table=comparison.difference_rows(results),
                texts=1 + len(results)),
        Section('What was asked', table=[('run', 'question'), *asked], texts=2)])


def _write(path: Path, results: Sequence[Result]) -> None:
    from selavpr_ros.evaluation.comparison import result_rows
    from selavpr_ros.evaluation.result_folder import write_csv

    try:
        if path.suffix == '.html':
            path.write_text(_page(results), encoding='utf-8')
        else:
            write_csv(path, result_rows(results))
    except OSError as error:
        raise FolderError(f'{path} cannot be written: {error.strerror}') from error


def run(args: argparse.Namespace) -> None:
    """Read the folders, print the tables, write the file."""
    from selavpr_ros.evaluation import comparison
    from selavpr_ros.text import table

    if args.output and args.output.suffix not in SUFFIXES:
        raise SettingError(f'{args.output} ends in neither {" nor ".join(SUFFIXES)}')
    results = [comparison.read_result(folder) for folder in args.runs]
    if not args.any_set:
        comparison.check_same(results)
    if args.output:
        _write(args.output, results)
    print(table(comparison.result_rows(results), comparison.TEXTS))
    differences = comparison.difference_rows(results)
    if len(differences) > 1:
        print(f'\n{table(differences, len(results) + 1)}')
