"""Learn what a model's evidence means on your recordings: how probable the same place is.

  vpr calibrate monday.bag tuesday.bag --weights SelaVPR_msls.pth
      recordings with true poses (topic /ground_truth/odom) that come back to their places
  vpr calibrate --positions campus --frames left right --weights embedded -o site.json
      image folders with truth, as `vpr evaluate` reads them; all kinds can be mixed

The file goes beside the weights, where the node finds it, and every candidate then has a
probability. Without one the node says so. Every recording is held out once to measure whether the
probabilities are true (one alone: a fifth of its time after the other); the picture beside the
file shows it. Use recordings on which you will not measure anything else.

The fit is scikit-learn's: pip install scikit-learn.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from selavpr_ros.cli import positive
from selavpr_ros.cli.replay import (
    add_settings,
    add_topics,
    queries_of,
    settings_from,
    topics_from,
)

if TYPE_CHECKING:
    from selavpr_ros.calibration import Calibration
    from selavpr_ros.config import Settings
    from selavpr_ros.evaluation.calibrate import Samples
    from selavpr_ros.evaluation.truth import EvaluationSet
    from selavpr_ros.models import VprModel

# Every candidate is looked at, also those that the gates would stop.
OPEN_GATES = {'gates.min_similarity': -0.999, 'gates.min_local_matches': 0,
              'gates.min_inlier_share': 0.0, 'gates.calibration': 'none'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr calibrate`."""
    parser.add_argument('bags', type=Path, nargs='*', metavar='BAG',
                        help='rosbag2 folders or files')
    add_topics(parser)
    group = parser.add_argument_group('what is true')
    group.add_argument('--ground-truth', metavar='T', help='topic of a bag with true poses '
                       '(default: /ground_truth/odom)')
    group.add_argument('--positive-radius', type=positive, default=5.0, metavar='M',
                       help='same place: at most so many metres apart (default: %(default)g)')
    group.add_argument('--positive-heading', type=positive, default=45.0, metavar='DEG',
                       help='and turned by at most so much (default: %(default)g)')
    group.add_argument('--frames', type=Path, nargs=2, action='append', default=[],
                       metavar=('DATABASE', 'QUERIES'), help='two folders: same number'
                       ', same place')
    group.add_argument('--pairs', type=Path, nargs=2, action='append', default=[],
                       metavar=('IMAGES', 'LOOPS.csv'), help='one folder and its marked pairs')
    group.add_argument('--positions', type=Path, nargs='+', action='append', default=[],
                       metavar='FOLDER', help='DATABASE [QUERIES]: folders with positions')
    add_settings(parser)
    parser.add_argument('-o', '--output', type=Path, metavar='FILE.json',
                        help='where to write (default: beside the weights)')
    parser.add_argument('--overwrite', action='store_true', help='replace a calibration')


def _sets(args: argparse.Namespace) -> Iterator[EvaluationSet]:
    from selavpr_ros.evaluation import truth

    for database, queries in args.frames:
        yield truth.read_frames(database, queries)
    for images, pairs in args.pairs:
        yield truth.read_pairs(images, pairs)
    for folders in args.positions:
        yield truth.read_positions(*folders, radius_m=args.positive_radius)


def _samples_of_bag(
    args: argparse.Namespace, path: Path, model: VprModel, settings: Settings
) -> Samples:
    from tqdm import tqdm

    from selavpr_ros.errors import GroundTruthError
    from selavpr_ros.evaluation.calibrate import samples_of_run
    from selavpr_ros.place_recognizer import PlaceRecognizer
    from selavpr_ros.replay.bag import Bag
    from selavpr_ros.replay.ground_truth import PoseTruth
    from selavpr_ros.replay.records import Run

    with Bag(path) as bag:
        sources = topics_from(args, bag, settings, args.ground_truth)
        if sources.truth is None:
            raise GroundTruthError(f'{path} has no true poses: name their topic by --ground-truth')
        truth = PoseTruth(bag.poses(sources.truth.name), args.positive_radius,
                          math.radians(args.positive_heading))
        recognizer, run = PlaceRecognizer(model, settings), Run()
        with tqdm(total=sources.images.count, desc=bag.name, unit='image') as bar:
            for _ in queries_of(bag, sources, recognizer, run):
                bar.update(run.images - bar.n)
    return samples_of_run(bag.name, run, truth)


def _collect(
    args: argparse.Namespace, model: VprModel, settings: Settings
) -> Iterator[Samples]:
    from selavpr_ros.evaluation.calibrate import samples_of_set

    sets = list(_sets(args))  # a wrong path shall not show up after an hour
    for bag in args.bags:
        yield _samples_of_bag(args, bag, model, settings)
    for asked in sets:
        yield samples_of_set(
            model, asked, settings.map.local_codec, settings.index.top_k, progress=True)


def _target(args: argparse.Namespace, model: VprModel, weights: str) -> Path:
    """Where to write; nothing is replaced by chance."""
    from selavpr_ros.calibration import beside
    from selavpr_ros.errors import FolderError

    path: Path = args.output or beside(weights, model.name)
    if path.exists() and not args.overwrite:
        raise FolderError(f'{path} exists: choose another name with -o, or pass --overwrite')
    if not path.parent.is_dir():
        raise FolderError(f'{path.parent} is no folder')
    return path


def _require_fit() -> None:
    from importlib.util import find_spec

    from selavpr_ros.errors import CalibrationError

    if find_spec('sklearn') is None:
        raise CalibrationError('the fit is made by scikit-learn: pip install scikit-learn')


def run(args: argparse.Namespace) -> None:
    """Go through the recordings, fit, write the file and its picture."""
    from selavpr_ros.errors import SettingError
    from selavpr_ros.evaluation.calibrate import calibrate
    from selavpr_ros.evaluation.reliability import draw_reliability
    from selavpr_ros.models import load_from_settings

    if not (args.bags or args.frames or args.pairs or args.positions):
        raise SettingError('nothing to learn from: name a bag, or --frames, --pairs, --positions')
    _require_fit()
    settings = settings_from(args, OPEN_GATES)
    model = load_from_settings(settings.model)
    target = _target(args, model, settings.model.weights)
    found, held_out = calibrate(
        model.model_id, settings.map.local_codec, list(_collect(args, model, settings)))
    picture = target.with_suffix('.png')
    draw_reliability(held_out).savefig(picture)
    found.save(target)
    print(_text(found, target, picture))


def _text(found: Calibration, target: Path, picture: Path) -> str:
    told = found.reliability
    lines = [f'model        {found.model_id}, local features in {found.codec}',
             f'made from    {found.provenance}',
             f'candidates   {told["candidates"]}, {told["true"]} of them true',
             f'error        {told["expected_calibration_error"]:.3f} expected, held out: '
             f'{told["held_out"]}',
             f'unrelated    {found.unrelated_score:.3f} of the local features match by chance']
    for model in found.models:
        known = ', '.join(f'{name} {value:.3g}' for name, value in model.coefficients.items())
        lines.append(f'P = logistic {known}, intercept {model.intercept:.3g}')
    return '\n'.join([*lines, '', f'calibration: {target}', f'picture:     {picture}'])
