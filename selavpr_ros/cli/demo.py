"""Play a simulated drive, or a bag, into the real node and show the loop closures it finds.

Without --bag a robot drives two laps through a procedural town: the second one beside the first,
in another light. The bag is played over DDS into vpr_node; a listener records what the node
publishes, as a SLAM back-end would. The results are a table and a picture.

  vpr demo
  vpr demo --bag office.bag --weights SelaVPR_msls.pth --rate 1
  vpr demo --days 2                           a lap today; tomorrow from another start, in
                                              another light, by a new run on the same map
  vpr demo --bag monday.bag tuesday.bag       the same with your own
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from selavpr_ros.recordings.ground_truth import PoseTruth
    from selavpr_ros.recordings.records import Run
    from selavpr_ros.recordings.topics import Sources
    from selavpr_ros.ros.live_run import LiveRun

PAIRS = 4
IMAGES_PER_SECOND = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr demo`."""
    parser.add_argument('--bag', type=Path, nargs='+', default=[], metavar='BAG',
                        help='rosbag2 to play (default: simulate a drive); each further one is '
                        'played into a new run of the node, on the same map')
    parser.add_argument('--days', type=int, default=1, metavar='N',
                        help='simulate N days in one town, each played into a new run of the '
                        'node (default: 1)')
    parser.add_argument('--topic', metavar='T', help="images (default: the bag's only ones)")
    parser.add_argument('--weights', default='embedded', metavar='W',
                        help='checkpoint, or a name that `vpr models` lists (default: '
                        '%(default)s)')
    parser.add_argument('--rate', type=float, default=1.0,
                        help='how many times faster than recorded (default: %(default)g)')
    parser.add_argument('--seed', type=int, default=0, help='which town (default: 0)')
    parser.add_argument('--length', type=float, default=160.0, metavar='M',
                        help='length of a lap in metres (default: %(default)g)')
    parser.add_argument('-o', '--output', type=Path, default=Path('results/demo'), metavar='OUT',
                        help='folder for picture, tables and log (default: %(default)s)')


@contextmanager
def _bags(args: argparse.Namespace) -> Iterator[list[Path]]:
    """The given bags, or simulated ones that are deleted afterwards."""
    if args.bag:
        yield args.bag
        return
    with tempfile.TemporaryDirectory(prefix='vpr_demo_') as folder:
        paths = [Path(folder) / f'day_{day}.bag' for day in range(1, args.days + 1)]
        for day, path in enumerate(paths, start=1):
            _simulate(args, path, day)
        yield paths


def _simulate(args: argparse.Namespace, path: Path, day: int) -> None:
    from selavpr_ros.cli import simulate

    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    laps = 2 if args.days == 1 else 1
    simulate.run(parser.parse_args([
        str(path), '--seed', str(args.seed), '--length', str(args.length), '--laps', str(laps),
        '--session', str(day), '--rate', str(IMAGES_PER_SECOND)]))


def _play(args: argparse.Namespace, path: Path, sources: Sources, folder: Path,
          keyframe_map: Path | None) -> LiveRun:
    """Run node, player and listener; the topics of the bag are remapped to the node's."""
    from tqdm import tqdm

    from selavpr_ros.ros.live_run import record_live_run

    compressed = sources.images.type.endswith('CompressedImage')
    parameters = {
        'model.weights': args.weights,
        'image_transport': 'compressed' if compressed else 'raw',
        'pose_source': 'odom' if sources.odometry else 'none',
    }
    if keyframe_map:
        parameters['map.path'] = str(keyframe_map)
    topics = {sources.images.name: 'image/compressed' if compressed else 'image'}
    if sources.odometry:
        topics[sources.odometry.name] = 'odom'
    with tqdm(desc=f'playing at {args.rate:g}x', unit='message') as bar:
        def on_progress(played: int, total: int) -> None:
            bar.total = total
            bar.update(played - bar.n)

        return record_live_run(
            path, topics, parameters, folder / 'node.log', rate=args.rate,
            on_progress=on_progress)


def _pair_images(
    bags: Sequence[tuple[Path, str]], live: LiveRun
) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """Some of the queries with a loop closure, spread over the run, and both their images."""
    from selavpr_ros.images.decoding import decode
    from selavpr_ros.recordings.bag import Bag

    closed = [query for query in live.records.queries if query.closure]
    chosen = closed[len(closed) // (2 * PAIRS):: max(1, len(closed) // PAIRS)][:PAIRS]
    wanted = {ns for q in chosen if q.closure for ns in (q.stamp_ns, q.closure.match_stamp_ns)}
    images: dict[int, np.ndarray] = {}
    for path, topic in bags:
        with Bag(path) as bag:
            images |= {ns: decode(message) for ns, message in bag.stamped(topic) if ns in wanted}
    return [(q, images[q.stamp_ns], images[q.closure.match_stamp_ns]) for q in chosen if q.closure]


def _node_lines(live: LiveRun) -> Iterator[tuple[str, str]]:
    """Figures that only the live node has: name and text."""
    status = live.status
    latency = f'p50 {status.latency_p50_ms:.0f} ms, p95 {status.latency_p95_ms:.0f} ms'
    yield 'in the node', f'{latency} from receipt to candidates'
    yield 'dropped images', str(status.frames_dropped)
    if live.relocalizations:
        yield 'relocalized', _relocalized(live)


def _relocalized(live: LiveRun) -> str:
    """When the robot was first relocalized in another session's map, and how often."""
    from selavpr_ros.ros.conversions import stamp_to_ns

    found = live.relocalizations
    after_s = (stamp_to_ns(found[0].header.stamp) - live.records.queries[0].stamp_ns) * 1e-9
    return f'{after_s:.1f} s after the first query; {len(found)} times'


def _truth(poses: Sequence[Any]) -> PoseTruth | None:
    from selavpr_ros.recordings.ground_truth import PoseTruth

    return PoseTruth(poses) if poses else None


def _require_use(live: LiveRun, path: Path, sources: Sources, log: Path) -> None:
    """Raise NodeError if the node made nothing of the images."""
    from selavpr_ros.errors import NodeError

    if not live.records.queries:
        error, topic = live.status.last_error, sources.images
        raise NodeError(f'{path}: the node used none of the {topic.count} images of {topic.name}'
                        f'{f" ({error})" if error else ""}: see {log}')


def _require_truth(live: LiveRun, truth: PoseTruth | None, sources: Sources) -> None:
    """Raise GroundTruthError if there are true poses, but none of any image."""
    from selavpr_ros.errors import GroundTruthError

    stamps_ns = [query.stamp_ns for query in live.records.queries]
    unknown = truth.why_unknown(
        stamps_ns, sources.truth.name) if truth and sources.truth else ''
    if unknown:
        raise GroundTruthError(f'nothing was judged: {unknown}')


def run(args: argparse.Namespace) -> None:
    """Simulate, play, listen; then table and picture of every day."""
    # The report's libraries are an extra: a missing one is told before minutes of work, not after.
    import selavpr_ros.evaluation.run_report  # noqa: F401
    from selavpr_ros.cli.replay import trajectory_gain
    from selavpr_ros.recordings.bag import Bag
    from selavpr_ros.recordings.pose_track import PoseTrack
    from selavpr_ros.recordings.topics import choose_sources

    with _bags(args) as paths:
        is_one = len(paths) == 1
        keyframe_map = None if is_one else args.output / 'town.vprmap'
        if keyframe_map:
            keyframe_map.unlink(missing_ok=True)
        poses: list[Any] = []
        odometry: list[Any] = []
        runs: list[Run] = []
        bags: list[tuple[Path, str]] = []
        for day, path in enumerate(paths, start=1):
            folder = args.output if is_one else args.output / f'day_{day}'
            folder.mkdir(parents=True, exist_ok=True)
            with Bag(path) as bag:
                sources = choose_sources(bag, args.topic, None, None)
                poses += bag.poses(sources.truth.name) if sources.truth else []
                odometry += bag.poses(sources.odometry.name) if sources.odometry else []
            bags.append((path, sources.images.name))
            live = _play(args, path, sources, folder, keyframe_map)
            if keyframe_map and not any(each.keyframes for each in (*runs, live.records)):
                keyframe_map.unlink(missing_ok=True)
            _require_use(live, path, sources, folder / 'node.log')
            runs.append(live.records)
            told = _report(folder, bags, live, _truth(poses), trajectory_gain(
                runs, _truth(poses), PoseTrack(odometry)))
            print(*([] if is_one else [f'\nday {day}']), told, sep='\n')
            _require_truth(live, _truth(poses), sources)


def _report(
    folder: Path, bags: Sequence[tuple[Path, str]], live: LiveRun, truth: PoseTruth | None,
    gain: tuple[list[tuple[str, str]], dict[str, bytes]],
) -> str:
    """Write the tables and the pictures of a day; returns what to print."""
    from selavpr_ros.evaluation.html import png_of
    from selavpr_ros.evaluation.run_plots import draw_report
    from selavpr_ros.evaluation.run_report import RunReport

    remarks, pictures = gain
    report = RunReport(live.records, truth, remarks=[*_node_lines(live), *remarks])
    report.write_tables(folder)
    drawn = draw_report(live.records, truth, _pair_images(bags, live))
    for name, png in {**pictures, 'report': png_of(drawn)}.items():
        (folder / f'{name}.png').write_bytes(png)
    return f'{report}\n\npicture: {folder / "report.png"}'
