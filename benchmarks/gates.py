"""What each gate does: true and false closures, with all gates and with each of them loosened.

  python benchmarks/gates.py town.bag --weights embedded -o gates.md
      bags with true poses (`vpr simulate town.bag`), and two buildings with parts that look alike

One more line loosens all of them. A closure is true within 5 m and 45 degrees.
The buildings are those of worlds.py: two wings, 200 m apart, and three floors, 4 m apart; the last
lap is where the first one was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remembering import Remembering
from tqdm import tqdm
from worlds import SCENARIOS

from selavpr_ros.decision.gates import GATES
from selavpr_ros.models import load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.ground_truth import PoseTruth
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.topics import choose_sources
from selavpr_ros.settings import Settings, make_settings
from selavpr_ros.text import markdown_table

# Loosened settings by their names; gates that share their settings are one line.
LOOSE: dict[str, Mapping[str, Any]] = {', '.join(gate.loosened): gate.loosened for gate in GATES}
LOOSE['gates.look_back'] = {'gates.look_back': 0}
BUILDINGS, SEED, LENGTH_M, RATE_HZ = ('wings', 'floors'), 3, 60.0, 2.0

Frame = tuple[Any, int, Pose | None]  # image, stamp in ns, odometry


@dataclass(frozen=True)
class Recording:
    """Images with odometry and true poses."""

    name: str
    frames: Sequence[Frame]
    truth: PoseTruth


def read_bag(path: Path, settings: Settings) -> Recording:
    """The images that the node would ask about, at its rate."""
    from selavpr_ros.images.decoding import ImageReader

    read, frames, last_ns = ImageReader(settings.image), [], 0
    with Bag(path) as bag:
        sources = choose_sources(bag, None, None, None)
        assert sources.odometry
        assert sources.truth
        track = PoseTrack(bag.poses(sources.odometry.name))
        truth = PoseTruth(bag.poses(sources.truth.name))
        for stamp_ns, message in bag.images(sources.images.name):
            if (stamp_ns - last_ns) * 1e-9 >= 0.9 / settings.query.max_rate:
                frames.append((read(message), stamp_ns, track.at(stamp_ns)))
                last_ns = stamp_ns
    return Recording(bag.name, frames, truth)


def read_scenario(name: str) -> Recording:
    """All images of a simulated building with parts that look alike."""
    scenario = SCENARIOS[name](SEED, LENGTH_M, RATE_HZ)
    frames = [(visit.image, visit.stamp_ns, visit.told)
              for part in scenario.parts for visit in part.visits(scenario.world)]
    return Recording(name, frames, scenario.truth())


def count(model: Any, recording: Recording, settings: Settings) -> tuple[int, int]:
    """Numbers of true and of false closures."""
    recognizer, verdicts = PlaceRecognizer(model, settings), []
    for image, stamp_ns, pose in recording.frames:
        closure = recognizer.recognize(image, stamp_ns, pose).loop_closure
        if closure:
            verdicts.append(recording.truth.is_same_place(
                stamp_ns, closure.match.keyframe.stamp_ns))
    return sum(map(bool, verdicts)), sum(verdict is False for verdict in verdicts)


def variants() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and settings of each line."""
    yield 'all gates', {}
    for name, settings in LOOSE.items():
        yield f'loose: {name}', settings
    yield 'all of them loose', {k: v for each in LOOSE.values() for k, v in each.items()}


def table(model: Any, recordings: Sequence[Recording]) -> Iterable[tuple[str, ...]]:
    """Head and lines of the table."""
    yield ('closures, true / false', *(recording.name for recording in recordings))
    lines = list(variants())
    with tqdm(total=len(lines) * len(recordings), unit='run') as bar:
        for name, settings in lines:
            cells = []
            for recording in recordings:
                true, false = count(model, recording, make_settings(dict(settings)))
                cells.append(f'{true} / {false}')
                bar.update()
            yield (name, *cells)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bags', type=Path, nargs='*', metavar='BAG')
    parser.add_argument('--weights', default='embedded')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE.md')
    args = parser.parse_args()
    settings = make_settings({})
    recordings = [*map(read_scenario, BUILDINGS),
                  *(read_bag(path, settings) for path in args.bags)]
    text = markdown_table(list(table(Remembering(load_model(args.weights)), recordings)), 1)
    print(text)
    if args.output:
        args.output.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
