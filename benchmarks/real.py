"""Loop closures on real recordings, at default settings.

  python benchmarks/real.py DATA
  python benchmarks/real.py DATA --only gardens --weights embedded
  python benchmarks/real.py DATA -o real.md --picture posterior.png --curve precision.png

DATA holds gardenspoint, rtabmap_loop, campus_keyframes, tum_fr1_xyz and ie_tower; docs/decision.md
says what they are. Their images go through the place recogniser as from a bag, two a second unless
the name says otherwise. Most have no odometry. Where the name has 'odometry', that is made up for
Gardens Point and the tower: a metre a frame, and in the tower the floor's height. 'closed' is the
share of the queries with a true keyframe in the map that were closed; 'off' is the largest number
of frames that a closure is off; the last column is the expected calibration error of the
probabilities of all candidates. 'random' is the embedded network without training.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from remembering import Remembering
from tqdm import tqdm

from selavpr_ros.errors import VprError
from selavpr_ros.evaluation.baselines import load_untrained
from selavpr_ros.evaluation.precision import precision_recall
from selavpr_ros.evaluation.reliability import reliability
from selavpr_ros.evaluation.run_plots import Curve, draw_curves
from selavpr_ros.images.compressed import read_image
from selavpr_ros.models import load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.image_folders import list_images
from selavpr_ros.recordings.records import Run
from selavpr_ros.settings import make_settings
from selavpr_ros.text import markdown_table

COLUMNS = ('recording', 'weights', 'queries', 'keyframes', 'closed', 'off', 'false',
           'calibration error')
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
PAUSE_S = 100.0  # between two traverses
GARDENS_TRUE, GARDENS_FALSE = 2, 5  # frames apart: one place up to 2, a false closure beyond 5
STOREY_M = 4.0
RANDOM = 'random'


@dataclass(frozen=True)
class Frame:
    """An image, when it was taken, where odometry sees it, and what its place is called."""

    file: Path
    stamp_s: float
    place: Any
    pose: Pose | None = None


@dataclass(frozen=True)
class Recording:
    """Frames in order, and the truth of their places.

    Attributes:
        is_same: tells whether two places are one.
        is_false: tells whether a closure between two places is a mistake.
        off: number of frames between two places; None if there is no such number.
    """

    name: str
    frames: Sequence[Frame]
    is_same: Callable[[Any, Any], bool]
    is_false: Callable[[Any, Any], bool]
    off: Callable[[Any, Any], int] | None = None

    def shuffled(self, seed: int) -> Recording:
        """The same images in another order, at the same stamps."""
        order = np.random.default_rng(seed).permutation(len(self.frames)).tolist()
        frames = [replace(self.frames[i], stamp_s=frame.stamp_s, pose=None)
                  for i, frame in zip(order, self.frames, strict=True)]
        return replace(self, name=f'{self.name}, shuffled', frames=frames)


# ---- recordings ---------------------------------------------------------------------------------


def _never(*_: Any) -> bool:
    return False


def _always(*_: Any) -> bool:
    return True


def gardens(data: Path, sides: Sequence[str], odometry: bool) -> Recording:
    """Traverses of one walk; a place is the number of the frame."""
    frames = []
    for lap, side in enumerate(sides):
        files = list_images(data / 'gardenspoint' / side)
        for number, file in enumerate(files):
            stamp_s = lap * (len(files) / 2 + PAUSE_S) + number / 2
            pose = Pose.planar(float(number), 2.0 * lap, 0.0) if odometry else None
            frames.append(Frame(file, stamp_s, (lap, number), pose))
    name = ' then '.join(sides) + (', odometry' if odometry else '')

    def off(first: tuple[int, int], second: tuple[int, int]) -> int:
        return abs(first[1] - second[1])

    return Recording(f'Gardens Point, {name}', frames,
                     lambda a, b: a[0] != b[0] and off(a, b) <= GARDENS_TRUE,
                     lambda a, b: a[0] == b[0] or off(a, b) > GARDENS_FALSE, off)


def corridor(data: Path, step_s: float) -> Recording:
    """A robot's two laps; a place is the number of the frame, the pairs are the authors'."""
    with (data / 'rtabmap_loop/loops.csv').open(encoding='utf-8') as file:
        pairs = {(int(row['image_a']), int(row['image_b'])) for row in csv.DictReader(file)}
    frames = [Frame(image, number * step_s, int(image.stem))
              for number, image in enumerate(list_images(data / 'rtabmap_loop/images'))]
    return Recording(f'corridor, {step_s:g} s a frame', frames, lambda a, b: (a, b) in pairs,
                     lambda a, b: (a, b) not in pairs)


def campus(data: Path, odometry: bool) -> Recording:
    """A drive of 217 m that never comes back."""
    frames = []
    with (data / 'campus_keyframes/poses.csv').open(encoding='utf-8') as file:
        rows = [row for row in csv.reader(file) if row and row[0].endswith('.png')]
    for number, (image, *numbers) in enumerate(rows):
        pose = Pose.planar(*map(float, numbers))
        frames.append(Frame(data / 'campus_keyframes/images' / image, 3.0 * number, number,
                            pose if odometry else None))
    name = 'campus, 3 s a frame' + (', odometry' if odometry else '')
    return Recording(name, frames, _never, _always)


def desk(data: Path) -> Recording:
    """A camera in a hand before a desk."""
    files = list_images(data / 'tum_fr1_xyz/images')
    frames = [Frame(file, float(file.stem) - float(files[0].stem), number)
              for number, file in enumerate(files)]
    return Recording('TUM fr1/xyz', frames, _never, _always)


def tower(data: Path, odometry: bool) -> Recording:
    """Twenty-five floors of one building, one after the other; a place is the floor."""
    frames: list[Frame] = []
    with (data / 'ie_tower/dataset.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    floors = {label: number for number, label in enumerate(
        dict.fromkeys(row['label'] for row in rows))}
    along_m = 0.0
    for number, row in enumerate(rows):
        floor = floors[row['label']]
        along_m += -1.0 if floor % 2 else 1.0  # each floor back: no robot leaps
        pose = Pose(np.array([along_m, 0.0, STOREY_M * floor]), np.array([0.0, 0.0, 0.0, 1.0]))
        frames.append(Frame(data / 'ie_tower' / row['image_path'], float(number), row['label'],
                            pose if odometry else None))
    name = '25 floors of a tower' + (', odometry with height' if odometry else '')
    return Recording(name, frames, _never, lambda a, b: a != b)


def recordings(data: Path) -> Iterator[Recording]:
    """All recordings, with and without odometry, and some of them shuffled."""
    sides = ['day_left', 'day_right']
    for odometry in (False, True):
        yield gardens(data, sides, odometry)
        yield gardens(data, sides[::-1], odometry)
    yield gardens(data, sides, odometry=False).shuffled(0)
    for side in sides:
        yield gardens(data, [side], odometry=False)
    for step_s in (1.0, 5.0):
        yield corridor(data, step_s)
    yield corridor(data, 1.0).shuffled(0)
    for odometry in (False, True):
        yield campus(data, odometry)
    yield desk(data)
    for odometry in (False, True):
        yield tower(data, odometry)


# ---- models -------------------------------------------------------------------------------------


def load(weights: str) -> Any:
    """A model by name; 'random' is the embedded network without training."""
    return Remembering(load_untrained() if weights == RANDOM else load_model(weights))


# ---- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Result of one recording.

    Attributes:
        run: the records.
        beliefs: for each query the probabilities by keyframe, for the picture.
    """

    run: Run
    beliefs: list[dict[int, float]]


def drive(model: Any, recording: Recording) -> Result:
    """All images through the place recogniser at default settings."""
    recognizer, run = PlaceRecognizer(model, make_settings({})), Run()
    beliefs = []
    for frame in tqdm(recording.frames, desc=recording.name, unit='image', leave=False):
        stamp_ns = START_NS + round(frame.stamp_s * SECOND)
        if recognizer.is_due(stamp_ns, frame.pose):
            recognition = recognizer.recognize(read_image(frame.file), stamp_ns, frame.pose)
            run.add(recognition)
            beliefs.append({c.match.keyframe.stamp_ns: c.probability
                            for c in recognition.candidates})
    return Result(run, beliefs)


def places_of(recording: Recording) -> dict[int, Any]:
    """Places of the frames by their stamps in ns."""
    return {START_NS + round(frame.stamp_s * SECOND): frame.place for frame in recording.frames}


def is_revisit(recording: Recording, run: Run, places: dict[int, Any], stamp_ns: int) -> bool:
    """Whether a query could be closed: an earlier keyframe shows its place."""
    return any(recording.is_same(places[stamp_ns], places[keyframe.stamp_ns])
               for keyframe in run.keyframes if keyframe.stamp_ns < stamp_ns)


def measure(recording: Recording, run: Run) -> tuple[str, ...]:
    """Cells of the line, but the first two."""
    places = places_of(recording)
    revisits = closed = false = 0
    offs, probabilities, are_true = [0], [], []
    for query in run.queries:
        here = places[query.stamp_ns]
        can_close = is_revisit(recording, run, places, query.stamp_ns)
        revisits += can_close
        for candidate in query.candidates:
            probabilities.append(candidate.probability)
            are_true.append(recording.is_same(here, places[candidate.match_stamp_ns]))
        if query.closure:
            there = places[query.closure.match_stamp_ns]
            is_false = recording.is_false(here, there)
            false += is_false
            closed += can_close and not is_false
            offs.append(recording.off(here, there) if recording.off else 0)
    error = reliability(probabilities, are_true).expected_calibration_error
    share = f'{closed / revisits:.3f} of {revisits}' if revisits else '-'
    return (str(len(run.queries)), str(len(run.keyframes)), share,
            str(max(offs)) if recording.off and len(offs) > 1 else '-', str(false), f'{error:.3f}')


def draw(result: Result, recording: Recording, path: Path) -> None:
    """Draw the probability of every keyframe, query by query."""
    from matplotlib.figure import Figure

    numbers = {START_NS + round(f.stamp_s * SECOND): n for n, f in enumerate(recording.frames)}
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    seen = [(numbers[query.stamp_ns], numbers[ns], probability)
            for query, belief in zip(result.run.queries, result.beliefs, strict=True)
            for ns, probability in belief.items()]
    x, y, shade = np.array(sorted(seen, key=lambda each: each[2])).T
    points = axes.scatter(x, y, c=shade, s=6, cmap='viridis', vmin=0.0, vmax=1.0)
    closures = [(numbers[q.stamp_ns], numbers[q.closure.match_stamp_ns])
                for q in result.run.queries if q.closure]
    if closures:
        axes.plot(*np.array(closures).T, '.', color='tab:red', markersize=2, label='loop closure')
        axes.legend(loc='upper left')
    axes.set(xlabel='query (frame)', ylabel='keyframe (frame)', title=recording.name)
    figure.colorbar(points, label='probability of the same place, when the query came')
    figure.savefig(path, dpi=110)


def draw_curve(result: Result, recording: Recording, path: Path) -> None:
    """Precision over recall: by the probability, and by the mutual matches of single images."""
    places = places_of(recording)
    queries = [query for query in result.run.queries if query.candidates]
    revisits = sum(is_revisit(recording, result.run, places, query.stamp_ns) for query in queries)
    curves = []
    for field, name, colour in (('probability', 'probability, all views so far', 'C0'),
                                ('local_matches', 'mutual matches of one image', 'C1')):
        best = [max(query.candidates, key=attrgetter(field)) for query in queries]
        are_true = [not recording.is_false(places[query.stamp_ns], places[found.match_stamp_ns])
                    for query, found in zip(queries, best, strict=True)]
        scores = [getattr(found, field) for found in best]
        curves.append(Curve(name, precision_recall(scores, are_true, revisits), colour))
    draw_curves(curves, recording.name).savefig(path)


def main() -> None:
    """Measure, print line by line, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, metavar='DATA')
    parser.add_argument('--weights', nargs='+', default=['embedded', 'hog', RANDOM], metavar='W',
                        help='(default: embedded hog random)')
    parser.add_argument('--only', default='', metavar='TEXT',
                        help='recordings with this in their name')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE.md')
    parser.add_argument('--picture', type=Path, metavar='FILE.png',
                        help='the probabilities of the first recording')
    parser.add_argument('--curve', type=Path, metavar='FILE.png',
                        help='precision over recall of the first recording')
    args = parser.parse_args()
    rows: list[tuple[str, ...]] = [COLUMNS]
    for weights in args.weights:
        model = load(weights)
        for recording in recordings(args.data):
            if args.only.lower() not in recording.name.lower():
                continue
            result = drive(model, recording)
            rows.append((recording.name, weights, *measure(recording, result.run)))
            print('  '.join(rows[-1]), flush=True)
            if args.picture and len(rows) == 2:
                draw(result, recording, args.picture)
            if args.curve and len(rows) == 2:
                draw_curve(result, recording, args.curve)
            if args.output:
                args.output.write_text(markdown_table(rows, 2), encoding='utf-8')


if __name__ == '__main__':
    try:
        main()
    except (VprError, OSError) as error:
        sys.exit(f'real.py: {error}')
