"""Measure recall on image folders with truth, and leave a folder with tables and pictures.

Every query is answered twice: by the most similar global descriptors, and by the mutual matches
of the best 20 (re-ranked). recall@N is the share of queries with a true image among the first N.

  vpr evaluate --frames gardenspoint/day_left gardenspoint/day_right
      two walks along one way, DATABASE and QUERIES (Gardens Point, Nordland): images with the
      same number in their names show the same place, without such numbers the n-th of both
  vpr evaluate --pairs rtabmap_loop/images rtabmap_loop/loops.csv
      one recording that comes back; rows image_a,image_b say which images (counted from 1) show
      one place; every image is compared with those before it, except for the 10 newest
  vpr evaluate --positions campus_keyframes --exclude 0
      one recording with a poses.csv: rows image,x_m,y_m,yaw_rad; compared with itself
  vpr evaluate --positions pitts30k/test/database pitts30k/test/queries --of-all
      published data sets, whose images are named '@utm_east@utm_north@...jpg'
  vpr evaluate --msls train_val/cph
      a city of Mapillary Street-Level Sequences as it is published: folders query and database
  vpr evaluate --frames left right --weights hog embedded SelaVPR_msls.pth --baselines
      several models, and the baselines that they have to beat, on the same queries

A rosbag2 recording is measured by `vpr replay`, which knows its true poses.

The second table rates each score as a gate: the area under precision over recall, and the recall
before the first false answer. Queries without any true image count here, too.

The folder holds metrics.json (settings, versions, recall, ranks, gates), answers.csv (what every
query found), table.md, precision_recall.png, a picture of hits and misses for every method (misses
come first), and report.html: all of it on one page, with the worst false answers side by side.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_ros.cli import add_output, positive
from selavpr_ros.errors import SettingError
from selavpr_ros.models.catalogue import BUILT_IN
from selavpr_ros.settings import Settings

if TYPE_CHECKING:
    from selavpr_ros.evaluation.recall import Evaluation
    from selavpr_ros.evaluation.truth import EvaluationSet

# Which options belong to which kind of truth.
KINDS = {'frames': ('tolerance',), 'pairs': ('exclude',),
         'positions': ('radius', 'heading', 'exclude'), 'msls': ('radius',)}


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f'{text} is below {least}')
        return value

    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr evaluate`."""
    _add_set(parser)
    _add_truth(parser)
    _add_methods(parser)
    add_output(parser, 'vpr_results/evaluate-<set>_<time>')


def _add_set(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('what to compare (one of them)')
    kind = group.add_mutually_exclusive_group(required=True)
    kind.add_argument('--frames', type=Path, nargs=2, metavar=('DATABASE', 'QUERIES'),
                      help='two folders, same place by same number')
    kind.add_argument('--pairs', type=Path, nargs=2, metavar=('IMAGES', 'LOOPS.csv'),
                      help='one folder and the pairs of images that show one place')
    kind.add_argument('--positions', type=Path, nargs='+', metavar='FOLDER',
                      help='DATABASE [QUERIES]: folders with positions')
    kind.add_argument('--msls', type=Path, metavar='CITY',
                      help='a city of MSLS: a folder with query and database')


def _add_truth(parser: argparse.ArgumentParser) -> None:
    from selavpr_ros.evaluation import truth
    from selavpr_ros.pose import SAME_PLACE_M, SAME_PLACE_RAD

    group = parser.add_argument_group('what counts as the same place')
    group.add_argument('--tolerance', type=_at_least(0), metavar='N',
                       help=f'--frames: at most so many frames off (default: {truth.TOLERANCE})')
    group.add_argument('--radius', type=positive, metavar='M',
                       help='--positions, --msls: at most so many metres apart (default: '
                       f'{SAME_PLACE_M:g}; {truth.PUBLISHED_RADIUS_M:g} for MSLS and '
                       'positions in names)')
    group.add_argument('--heading', type=positive, metavar='DEG',
                       help='--positions: turned by at most so many degrees; 180 ignores this '
                       f'(default: {math.degrees(SAME_PLACE_RAD):.0f}, if headings are known)')
    group.add_argument('--exclude', type=_at_least(0), metavar='N',
                       help='in one recording: leave out the N images before the query, with '
                       f'--positions also those after it (default: {truth.EXCLUDED})')
    group.add_argument('--of-all', action='store_true',
                       help='count queries without any true image as misses, as published '
                       'protocols do (default: leave them out)')


def _add_methods(parser: argparse.ArgumentParser) -> None:
    top_k = Settings().index.top_k
    group = parser.add_argument_group('what to measure')
    built_in = [system.name for system in BUILT_IN]
    group.add_argument('--weights', nargs='*', default=built_in, metavar='W',
                       help='names that `vpr models` lists, or paths of checkpoints (default: '
                       f'{" ".join(built_in)})')
    group.add_argument('--baselines', action='store_true',
                       help='also a thumbnail, ORB matched with every database image, and the '
                       'embedded network without training')
    group.add_argument('--top-k', type=_at_least(1), default=top_k, metavar='K',
                       help='images that are ranked, and re-ranked (default: %(default)s)')
    group.add_argument('--no-reranking', action='store_true',
                       help='global descriptors only: much faster, and little memory')
    group.add_argument('--input-size', type=_at_least(1), nargs=2, metavar=('H', 'W'),
                       help="input of the models in pixels (default: each model's own)")
    group.add_argument('--device', default='cpu', metavar='D',
                       help='auto, cpu, cuda, cuda:1 (default: cpu)')


def _check_options(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that would have no effect."""
    for option in {option for options in KINDS.values() for option in options}:
        if getattr(args, option) is not None and option not in KINDS[kind]:
            kinds = ' and '.join(f'--{k}' for k, options in KINDS.items() if option in options)
            raise SettingError(f'--{option} belongs to {kinds}, not to --{kind}')
    if kind == 'positions' and len(args.positions) > 2:
        raise SettingError(f'--positions takes one or two folders, got {len(args.positions)}')
    if kind == 'positions' and len(args.positions) == 2 and args.exclude is not None:
        raise SettingError('--exclude is for one recording that is compared with itself')
    if not (args.weights or args.baselines):
        raise SettingError('nothing to measure: name --weights, or ask for --baselines')


def _read_set(args: argparse.Namespace) -> EvaluationSet:
    from selavpr_ros.evaluation import truth

    kind = next(kind for kind in KINDS if getattr(args, kind))
    _check_options(args, kind)
    exclude = truth.EXCLUDED if args.exclude is None else args.exclude
    if kind == 'frames':
        tolerance = truth.TOLERANCE if args.tolerance is None else args.tolerance
        database, queries = args.frames
        return truth.read_frames(database, queries, tolerance)
    if kind == 'pairs':
        images, pairs = args.pairs
        return truth.read_pairs(images, pairs, exclude)
    if kind == 'msls':
        return truth.read_msls(args.msls, args.radius or truth.PUBLISHED_RADIUS_M)
    heading_rad = None if args.heading is None else math.radians(args.heading)
    return truth.read_positions(*args.positions, radius_m=args.radius, heading_rad=heading_rad,
                                exclude=exclude)


def _methods(args: argparse.Namespace) -> Iterator[Callable[[EvaluationSet], Evaluation]]:
    """The evaluations to run, each with its loaded model."""
    from selavpr_ros.evaluation.baselines import Thumbnail, evaluate_orb, load_untrained
    from selavpr_ros.evaluation.recall import evaluate
    from selavpr_ros.models import choose_device, load_model

    size = tuple(args.input_size) if args.input_size else None
    ask = partial(evaluate, top_k=args.top_k, reranking=not args.no_reranking, all_queries=True,
                  progress=True)
    if args.baselines:
        yield partial(ask, Thumbnail())
        yield partial(evaluate_orb, top_k=args.top_k, progress=True)
        yield partial(ask, load_untrained(image_size=size).to(choose_device(args.device)))
    for weights in args.weights:
        yield partial(ask, load_model(weights, image_size=size, device=args.device))


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    """What the results were made with."""
    from selavpr_ros.evaluation.result_folder import versions

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.name if isinstance(value, Path) else value

    left_out = ('verb', 'run', 'output', 'overwrite')
    settings = {name: plain(value) for name, value in vars(args).items() if name not in left_out}
    return {'settings': settings, 'versions': versions()}


def run(args: argparse.Namespace) -> None:
    """Evaluate every method, write the folder, print the tables."""
    from selavpr_ros.evaluation.recall_report import RecallReport
    from selavpr_ros.evaluation.result_folder import make_folder

    asked = _read_set(args)
    # All models are loaded first: a wrong path must not show up after an hour.
    methods = list(_methods(args))
    default = Path('vpr_results') / f'evaluate-{asked.name}_{datetime.now():%Y%m%d_%H%M%S}'
    folder = make_folder(args.output or default, args.overwrite)
    report = RecallReport(_facts(args), args.of_all)
    for method in methods:
        report.add(method(asked))
        # After each one, so that an interruption loses only what was not finished.
        report.write(folder)
    print(f'{report}\n\nresults: {folder}')
