"""Simulated worlds by seed: closures, true and false, and what a SLAM back-end makes of them.

  python benchmarks/trajectory.py                  two laps of a town
  python benchmarks/trajectory.py --world days     three days, a lap and a session each
  python benchmarks/trajectory.py --world wings --length 60
  python benchmarks/trajectory.py --world floors --length 60
                                                   parts of a building that look alike
  python benchmarks/trajectory.py --seeds 0 1 2 --weights hog --length 160

A robot with drifting odometry drives through the world of each seed. Its images go through the
place recogniser at default settings, and odometry and loop closures into the pose graph of
selavpr_ros.backend. The errors are absolute trajectory errors (root mean square after alignment)
of all queries. --false says how many false loop closures, between places at random, are added for
each true one; the last column is the error with them. The buildings have no errors, as the robot
is put from one part into the next.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm
from worlds import SCENARIOS, Scenario

from selavpr_ros.backend.offline import optimise_runs
from selavpr_ros.cli.simulate import positive
from selavpr_ros.errors import VprError
from selavpr_ros.evaluation.closure_metrics import judge
from selavpr_ros.models import VprModel, load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.recordings.ground_truth import PoseTruth
from selavpr_ros.recordings.records import Run
from selavpr_ros.settings import make_settings
from selavpr_ros.text import line

COLUMNS = ('seed', 'queries', 'true', 'false', 'revisits closed', 'odometry', 'optimised',
           'with added')
# Two places farther apart than this are never the same.
FALSE_M = 10.0


def record(recognizer: PlaceRecognizer, scenario: Scenario, title: str = '') -> list[Run]:
    """Drive through the world, and record what was recognised, session by session."""
    runs: list[Run] = []
    with tqdm(total=len(scenario), desc=title, unit='image', leave=False) as bar:
        for part in scenario.parts:
            if len(runs) < part.session:
                runs.append(Run())
                if part.session > 1:
                    recognizer.start_session()
            for visit in part.visits(scenario.world):
                if recognizer.is_due(visit.stamp_ns, visit.told):
                    runs[-1].add(recognizer.recognize(visit.image, visit.stamp_ns, visit.told))
                bar.update()
    return runs


def joined(runs: Sequence[Run]) -> Run:
    """All sessions as one run."""
    return Run(queries=[query for run in runs for query in run.queries],
               keyframes=[keyframe for run in runs for keyframe in run.keyframes])


def add_false(run: Run, truth: PoseTruth, count: int, seed: int) -> Run:
    """The same run, in which `count` of the queries without a closure have a false one."""
    rng = np.random.default_rng(seed)
    accepted = next(query.closure for query in run.queries if query.closure)
    queries = list(run.queries)
    free = [i for i, query in enumerate(queries) if not query.closure and i > 1]
    for i in rng.permutation(free)[:count].tolist():
        here = truth.pose_at(queries[i].stamp_ns)
        far = [k for k in run.keyframes if k.stamp_ns < queries[i].stamp_ns
               and here.distance_to(truth.pose_at(k.stamp_ns)) > FALSE_M]
        if far:
            there = far[rng.integers(len(far))]
            closure = replace(accepted, match_id=there.id, match_stamp_ns=there.stamp_ns)
            queries[i] = replace(queries[i], candidates=(closure,))
    return replace(run, queries=queries)


def errors(
    runs: Sequence[Run], truth: PoseTruth, true_closures: int, seed: int, share: float
) -> tuple[str, ...]:
    """Cells of the trajectory errors."""
    found = optimise_runs(runs, truth)
    cells = (f'{found.error_before_m:.2f} m', f'{found.error_after_m:.2f} m')
    if not (share and true_closures and len(runs) == 1):
        return (*cells, '-')
    worse = add_false(runs[0], truth, round(share * true_closures), seed)
    return (*cells, f'{optimise_runs([worse], truth).error_after_m:.2f} m')


def measure_row(model: VprModel, seed: int, args: argparse.Namespace) -> tuple[str, ...]:
    """Cells of the line of a seed."""
    scenario = SCENARIOS[args.world](seed, args.length, args.rate)
    recognizer = PlaceRecognizer(model, make_settings({'model.weights': args.weights}))
    runs, truth = record(recognizer, scenario, f'seed {seed}'), scenario.truth()
    found = judge(joined(runs), truth)
    cells = (str(seed), str(sum(len(run.queries) for run in runs)), str(found.true_closures),
             str(found.false_closures), f'{found.closed or 0.0:.0%} of {found.revisits}')
    if not scenario.is_one_way:
        return (*cells, '-', '-', '-')
    return cells + errors(runs, truth, found.true_closures, seed, args.false)


def show(cells: Sequence[str]) -> None:
    """Print one line of the table."""
    print(line(cells, (6, *(15 for _ in cells[1:])), 0), flush=True)


def measure(args: argparse.Namespace) -> None:
    """Print the table row by row."""
    model = load_model(args.weights)
    print(f'{model.name}: {args.world}, {args.length:g} m a lap')
    show(COLUMNS)
    for seed in args.seeds:
        show(measure_row(model, seed, args))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--world', choices=tuple(SCENARIOS), default='laps',
                        help='(default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=list(range(10)), metavar='N',
                        help='seeds of the worlds (default: 0 to 9)')
    parser.add_argument('--weights', default='embedded', metavar='W',
                        help="'embedded', 'hog' or a checkpoint (default: %(default)s)")
    parser.add_argument('--length', type=positive, default=120.0, metavar='M',
                        help='length of a lap (default: %(default)g)')
    parser.add_argument('--rate', type=positive, default=2.0, metavar='HZ',
                        help='images a second (default: %(default)g)')
    parser.add_argument('--false', type=float, default=0.1, metavar='SHARE',
                        help='false closures to add for each true one (default: %(default)g)')
    return parser.parse_args(arguments)


if __name__ == '__main__':
    try:
        measure(parse())
    except VprError as error:
        sys.exit(str(error))
