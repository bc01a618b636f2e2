"""What the loop closures are worth to a SLAM back-end: trajectory errors in simulated towns.

  python benchmarks/trajectory.py
  python benchmarks/trajectory.py --seeds 0 1 2 --weights hog --length 160 --laps 2

A robot with drifting odometry drives laps through the town of each seed. Its images go through
the place recogniser at default settings, and odometry and loop closures into the pose graph of
selavpr_ros.backend. The errors are absolute trajectory errors (root mean square after alignment)
of all queries. With --false, so many false loop closures are added for each true one, between
places at random: the error with them is the last column.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from selavpr_ros.backend.offline import optimise_runs
from selavpr_ros.cli.simulate import positive
from selavpr_ros.config import make_settings
from selavpr_ros.errors import VprError
from selavpr_ros.models import VprModel, load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.replay.ground_truth import PoseTruth
from selavpr_ros.replay.metrics import judge
from selavpr_ros.replay.records import Run
from selavpr_ros.simulation import Camera, DriveSettings, PlanarPose, World, drive, take_images

COLUMNS = ('seed', 'queries', 'true', 'false', 'revisits closed', 'odometry', 'optimised',
           'with added')
# Beyond this, nobody would call two places one.
FALSE_M = 10.0


def to_pose(pose: PlanarPose) -> Pose:
    """The simulator's pose as the recogniser takes it."""
    return Pose.planar(pose.x_m, pose.y_m, pose.yaw_rad)


def record(model: VprModel, seed: int, args: argparse.Namespace) -> tuple[Run, PoseTruth]:
    """Drive through the town of a seed; what was recognised, and where the robot truly was."""
    world = World.generate(seed, args.length)
    settings = DriveSettings(laps=args.laps, image_rate_hz=args.rate)
    trajectory = drive(world.route, settings, seed)
    recognizer = PlaceRecognizer(model, make_settings({'model.weights': args.weights}))
    run, truth = Run(), []
    frames = take_images(world, Camera(width=320, height=240), trajectory, seed=seed)
    for frame in tqdm(frames, total=len(trajectory.image_stamps_ns), desc=f'seed {seed}',
                      unit='image', leave=False):
        truth.append((frame.stamp_ns, to_pose(frame.true_pose)))
        pose = to_pose(frame.odometry_pose)
        if recognizer.is_due(frame.stamp_ns, pose):
            run.add(recognizer.recognize(frame.image, frame.stamp_ns, pose))
    return run, PoseTruth(truth)


def add_false(run: Run, truth: PoseTruth, count: int, seed: int) -> Run:
    """The same run, in which so many queries without a closure have a false one."""
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


def measure_row(model: VprModel, seed: int, args: argparse.Namespace) -> tuple[str, ...]:
    """Cells of the line of a seed."""
    run, truth = record(model, seed, args)
    found, optimised = judge(run, truth), optimise_runs([run], truth)
    cells = (str(seed), str(len(run.queries)), str(found.true_closures),
             str(found.false_closures), f'{found.closed or 0.0:.0%} of {found.revisits}',
             f'{optimised.error_before_m:.2f} m', f'{optimised.error_after_m:.2f} m')
    if not (args.false and found.true_closures):
        return (*cells, '-')
    worse = add_false(run, truth, round(args.false * found.true_closures), seed)
    return (*cells, f'{optimise_runs([worse], truth).error_after_m:.2f} m')


def show(cells: Sequence[str]) -> None:
    """Print one line of the table."""
    print(f'{cells[0]:>6}' + ''.join(f'{cell:>17}' for cell in cells[1:]), flush=True)


def measure(args: argparse.Namespace) -> None:
    """Print the table row by row."""
    model = load_model(args.weights)
    print(f'{model.name}: {args.laps} laps of {args.length:g} m')
    show(COLUMNS)
    for seed in args.seeds:
        show(measure_row(model, seed, args))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=list(range(10)), metavar='N',
                        help='towns (default: 0 to 9)')
    parser.add_argument('--weights', default='embedded', metavar='W',
                        help="'embedded', 'hog' or a checkpoint (default: %(default)s)")
    parser.add_argument('--length', type=positive, default=120.0, metavar='M',
                        help='of a lap (default: %(default)g)')
    parser.add_argument('--laps', type=int, default=2, help='to drive (default: %(default)s)')
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
