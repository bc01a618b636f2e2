"""Measure model, matching, map search and node overhead on this machine, side by side.

Matching and map search are compared with a plain reference in the same run, so their ratios hold
on other machines, too, where the milliseconds do not. Stop other programs first.

  vpr benchmark
  vpr benchmark --weights hog embedded SelaVPR_msls.pth --device cuda
  vpr benchmark --models                    every system in full size, no files needed
  vpr benchmark --models --only SelaVPR hog --device cuda --precision fp16
  vpr benchmark --map                       what a keyframe map costs: bytes, times, memory
  vpr benchmark --map --frames day_left day_right --pairs loop/images loop/loops.csv
      and what its codecs cost in recall on these images, as in `vpr evaluate`

--map takes five to ten minutes (with --quick two), and 4 GB on the disk that it measures: that of
the result folder, which then holds map_costs.json and map_costs.png.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from selavpr_ros.cli import add_output
from selavpr_ros.errors import SettingError
from selavpr_ros.models.catalogue import BUILT_IN
from selavpr_ros.text import line, markdown_line, markdown_rule

if TYPE_CHECKING:
    from selavpr_ros.evaluation.map_costs.plan import Plan
    from selavpr_ros.evaluation.measure import Cost
    from selavpr_ros.evaluation.truth import EvaluationSet

LEAST_SIZE = 100  # keyframes: 20 are searched for, and another 20 are too recent
MAP_FOLDER = Path('results/map')
COLUMNS, WIDTHS = ('', 'ms', 'plain ms', 'ratio', ''), (24, 8, 10, 6, 0)
COST_COLUMNS = (
    'system', 'input', 'M params', 'forward ms', 'relative', 'match ms', 'query ms', 'global kB',
    'local kB')
COST_WIDTHS = (18, *(10 for _ in COST_COLUMNS[1:]))


class Row(NamedTuple):
    """One measurement: milliseconds, those of the reference or None, and a remark."""

    what: str
    milliseconds: float
    reference: float | None = None
    remark: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('--weights', nargs='*',
                        help='models to measure (default: all that come with the package; with '
                        '--map: embedded)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, auto (default: cpu)')
    parser.add_argument('--keyframes', type=int, default=10_000,
                        help='size of the map that is searched (default: 10000)')
    parser.add_argument('--candidates', type=int, default=20,
                        help='candidates that are matched at once (default: 20)')
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument('--models', action='store_true',
                         help='instead: what every system costs, full size with random values')
    instead.add_argument('--map', action='store_true',
                         help='instead: what a keyframe map costs, by codec and by size')
    parser.add_argument('--only', nargs='+', metavar='SYSTEM', default=[],
                        help="with --models: those whose names begin so, e.g. hog 'FoL, large'")
    parser.add_argument('--precision', choices=('auto', 'fp32', 'fp16', 'bf16'), default='fp32',
                        help='number type of the networks (default: fp32; auto: fp16 on a GPU)')
    parser.add_argument('--markdown', action='store_true',
                        help='with --models: print the table as Markdown')
    _add_map(parser)


def _size(text: str) -> int:
    """A size of a map, for argparse."""
    if int(text) < LEAST_SIZE:
        raise argparse.ArgumentTypeError(f'{text} is below {LEAST_SIZE}')
    return int(text)


def _add_map(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('with --map')
    group.add_argument('--sizes', type=_size, nargs='+', metavar='N',
                       help='keyframes of the maps (default: 1000 10000 100000)')
    group.add_argument('--quick', action='store_true',
                       help='two small maps, and no map in a separate process')
    group.add_argument('--frames', type=Path, nargs=2, action='append', default=[],
                       metavar=('DATABASE', 'QUERIES'),
                       help='images for recall: two folders, same place by same number')
    group.add_argument('--pairs', type=Path, nargs=2, action='append', default=[],
                       metavar=('IMAGES', 'LOOPS.csv'),
                       help='images for recall: one folder, and the pairs that show one place')
    add_output(parser, f'{MAP_FOLDER}; only --map leaves results')


def measure_forward(weights: list[str], device: str, precision: str) -> Iterator[Row]:
    """Forward pass of one image, the descriptors brought to the CPU."""
    import torch

    from selavpr_ros.evaluation.measure import describe, median_ms
    from selavpr_ros.models import load_model

    for name in weights:
        model = load_model(name, device=device, dtype=precision)
        height, width = model.image_size
        image = torch.randn(1, 3, height, width, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            milliseconds = median_ms(partial(describe, model, image))
        yield Row(f'forward, {name}', milliseconds, remark=f'{height}x{width}, {model.device}')


def plain_counts(query: Any, matches: Any) -> Any:
    """Mutual matches by the plain formula: the reference for `count_mutual_matches`."""
    import torch

    similarities = torch.einsum('nd,kmd->knm', query, matches)
    nearest_match, nearest_query = similarities.argmax(2), similarities.argmax(1)
    back = nearest_query.gather(1, nearest_match)
    return (back == torch.arange(len(query), device=query.device)).sum(1)


def measure_matching(candidates: int, device: str) -> Row:
    """Match SelaVPR's 61 x 61 grid of 128 numbers with noisy copies of it."""
    import torch

    from selavpr_ros.evaluation.measure import alike_features, median_ms
    from selavpr_ros.matching.mutual import count_mutual_matches
    from selavpr_ros.models import choose_device

    query, matches = alike_features(candidates, 3721, 128)
    query, matches = query.to(choose_device(device)), matches.to(choose_device(device))
    if not torch.equal(count_mutual_matches(query, matches), plain_counts(query, matches)):
        raise AssertionError('count_mutual_matches and the plain formula disagree')
    ours = median_ms(lambda: count_mutual_matches(query, matches).cpu(), 5) / candidates
    plain = median_ms(lambda: plain_counts(query, matches).cpu(), 5) / candidates
    return Row('matching a candidate', ours, plain, f'same counts, {candidates} at once')


def measure_search(keyframes: int) -> Row:
    """Search a map of 1024 numbers per keyframe; the reference is numpy over all of them."""
    import numpy as np

    from selavpr_ros.evaluation.measure import median_ms
    from selavpr_ros.maps.keyframe_index import KeyframeIndex

    rows = np.random.default_rng(0).standard_normal((keyframes, 1024)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = KeyframeIndex(1024, 'flat')
    index.add(rows)
    query = rows[keyframes // 2]
    ours = median_ms(lambda: index.search(query, 20, range(keyframes - 20)), 51)
    plain = median_ms(lambda: np.argsort(-(rows @ query))[:20], 51)
    return Row('map search', ours, plain, f'{keyframes} keyframes of 1024 numbers')


def measure_node() -> Iterator[Row]:
    """From the receipt of an image message to its hand-over to the method."""
    try:
        from selavpr_ros.ros.overhead import measure_overhead_ms
    except ImportError as error:
        yield Row('node overhead', float('nan'), remark=f'not measured: {error}')
        return
    yield Row('node overhead', measure_overhead_ms(), remark='640x480 rgb8 over DDS, per image')


def measure_starts() -> Iterator[Row]:
    """Starts in fresh interpreters, less the time that Python itself takes."""
    from selavpr_ros.evaluation.measure import median_ms

    def started_ms(*command: str) -> float:
        return median_ms(lambda: subprocess.run(
            [sys.executable, *command], check=True, capture_output=True), 5)

    empty = started_ms('-c', 'pass')
    yield Row('import selavpr_ros', started_ms('-c', 'import selavpr_ros') - empty)
    yield Row('vpr --help', started_ms('-m', 'selavpr_ros.cli.main', '--help'))


def format_row(row: Row) -> str:
    """One line of the table."""
    reference = ratio = ''
    if row.reference is not None:
        reference = f'{row.reference:.2f}'
        ratio = f'{row.reference / row.milliseconds:.1f}x'
    return line((row.what, f'{row.milliseconds:.2f}', reference, ratio, row.remark), WIDTHS, 1)


def cost_cells(cost: Cost, reference_ms: float, candidates: int) -> list[str]:
    """One line of the table of systems, in the order of COST_COLUMNS."""
    (height, width), footprint = cost.system.image_size, cost.footprint
    relative = cost.forward_ms / reference_ms
    return [
        cost.system.name, f'{height}x{width}', f'{cost.parameters / 1e6:.1f}',
        f'{cost.forward_ms:.1f}', '-' if math.isnan(relative) else f'{relative:.2f}x',
        f'{cost.matching_ms:.1f}' if footprint.local_count else '-',
        f'{cost.query_ms(candidates):.0f}',
        f'{(footprint.global_bytes + footprint.index_bytes) / 1e3:.1f}',
        f'{footprint.local_bytes / 1e3:.1f}' if footprint.local_count else '-']


def print_systems(args: argparse.Namespace) -> None:
    """Print the table of systems row by row; one network at a time is in memory."""
    from tqdm import tqdm

    from selavpr_ros.evaluation.measure import REFERENCE, measure_cost, plan

    def show(cells: Sequence[str]) -> None:
        tqdm.write(markdown_line(cells) if args.markdown else line(cells, COST_WIDTHS, 1))
        sys.stdout.flush()

    reference_ms, bar = math.nan, tqdm(plan(args.only), unit='system', leave=False)
    show(COST_COLUMNS)
    if args.markdown:
        show(markdown_rule(len(COST_COLUMNS), 1))
    for system in bar:
        bar.set_postfix_str(system.name)
        cost = measure_cost(system, args.device, args.precision, args.candidates)
        if system.name == REFERENCE:
            reference_ms = cost.forward_ms
        show(cost_cells(cost, reference_ms, args.candidates))


def _read_sets(args: argparse.Namespace) -> list[EvaluationSet]:
    from selavpr_ros.evaluation.truth import read_frames, read_pairs

    return [*(read_frames(*folders) for folders in args.frames),
            *(read_pairs(*files) for files in args.pairs)]


def plan_map(args: argparse.Namespace) -> Plan:
    """What --map measures; before that, images are found and models are loaded."""
    from selavpr_ros.evaluation.map_costs.plan import QUICK_SIZES, SIZES, Plan
    from selavpr_ros.models import load_model

    sets = _read_sets(args)
    if args.weights == []:
        raise SettingError('--map needs a model: name --weights, or leave the option out')
    weights = ['embedded'] if args.weights is None else args.weights
    models = {name: load_model(name, device=args.device) for name in weights}
    sizes = args.sizes or (QUICK_SIZES if args.quick else SIZES)
    if args.quick:
        return Plan(models, sets, sizes, keyframes=50, repetitions=3, process_keyframes=0,
                    progress=True)
    return Plan(models, sets, sizes, progress=True)


def print_map(args: argparse.Namespace) -> None:
    """Print one table after another; leave the numbers and a picture in a folder."""
    from selavpr_ros.evaluation.map_costs.picture import draw_costs
    from selavpr_ros.evaluation.map_costs.plan import measure_all
    from selavpr_ros.evaluation.map_costs.results import MapCosts
    from selavpr_ros.evaluation.map_costs.tables import format_part, format_verdicts, write_costs
    from selavpr_ros.evaluation.result_folder import make_folder, versions

    plan, costs = plan_map(args), MapCosts()
    folder = make_folder(args.output or MAP_FOLDER, args.overwrite)
    for part in measure_all(plan, folder, costs):
        print(format_part(part, costs), flush=True)
        # After each one, so that an interruption loses only what was not finished.
        write_costs(folder / 'map_costs.json', costs, versions())
    draw_costs(costs).savefig(folder / 'map_costs.png')
    print(f'{format_verdicts(costs)}\nresults: {folder}, '
          f'after {sum(costs.seconds.values()):.0f} s')


def run(args: argparse.Namespace) -> None:
    """Print the table row by row."""
    if args.map:
        print_map(args)
        return
    if args.models:
        print_systems(args)
        return
    built_in = [system.name for system in BUILT_IN]
    weights = built_in if args.weights is None else args.weights
    print(line(COLUMNS, WIDTHS, 1))
    rows = [
        lambda: measure_forward(weights, args.device, args.precision),
        lambda: [measure_matching(args.candidates, args.device)],
        lambda: [measure_search(args.keyframes)],
        measure_node,
        measure_starts,
    ]
    for measure in rows:
        for row in measure():
            print(format_row(row), flush=True)
