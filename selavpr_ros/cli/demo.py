"""Play a simulated drive, or a bag, into the real node and show the loop closures it finds.

Without --bag a robot drives two laps through a procedural town: the second one beside the first,
in another light. The bag is played over DDS into vpr_node; a listener records what the node
publishes, as a SLAM back-end would, and the end is a table and a picture.

  vpr demo
  vpr demo --bag office.bag --weights SelaVPR_msls.pth --rate 1
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from selavpr_ros.replay.bag import Bag
    from selavpr_ros.replay.ground_truth import PoseTruth
    from selavpr_ros.replay.topics import Sources
    from selavpr_ros.ros.live_run import LiveRun

PAIRS = 4
IMAGES_PER_SECOND = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr demo`."""
    parser.add_argument('--bag', type=Path, metavar='BAG',
                        help='rosbag2 to play (default: simulate a drive)')
    parser.add_argument('--topic', metavar='T', help="images (default: the bag's only ones)")
    parser.add_argument('--weights', default='embedded', metavar='W',
                        help="'embedded', 'hog' (no weights), or a checkpoint (default: "
                        'embedded)')
    parser.add_argument('--rate', type=float, default=1.0,
                        help='how many times faster than recorded (default: %(default)g)')
    parser.add_argument('--seed', type=int, default=0, help='which town (default: 0)')
    parser.add_argument('--length', type=float, default=160.0, metavar='M',
                        help='length of a lap in metres (default: %(default)g)')
    parser.add_argument('-o', '--output', type=Path, default=Path('results/demo'), metavar='OUT',
                        help='folder for picture, tables and log (default: %(default)s)')


@contextmanager
def _bag(args: argparse.Namespace) -> Iterator[Path]:
    """The given bag, or a simulated one that is gone afterwards."""
    if args.bag:
        yield args.bag
        return
    with tempfile.TemporaryDirectory(prefix='vpr_demo_') as folder:
        path = Path(folder) / 'town.bag'
        _simulate(args, path)
        yield path


def _simulate(args: argparse.Namespace, path: Path) -> None:
    from tqdm import tqdm

    from selavpr_ros.simulation import (
        Camera,
        DriveSettings,
        World,
        drive,
        take_images,
        write_bag,
    )

    world, camera = World.generate(args.seed, args.length), Camera(width=320, height=240)
    trajectory = drive(world.route, DriveSettings(image_rate_hz=IMAGES_PER_SECOND), args.seed)
    images = take_images(world, camera, trajectory, seed=args.seed)
    total = len(trajectory.image_stamps_ns)
    write_bag(path, camera, trajectory, tqdm(images, 'simulating', total, unit='image'))


def _read_truth(bag: Bag, sources: Sources) -> PoseTruth | None:
    from selavpr_ros.replay.ground_truth import PoseTruth

    return PoseTruth(bag.poses(sources.truth.name)) if sources.truth else None


def _play(args: argparse.Namespace, path: Path, sources: Sources) -> LiveRun:
    """Run node, player and listener; the topics of the bag become those of the node."""
    from tqdm import tqdm

    from selavpr_ros.ros.live_run import record_live_run

    compressed = sources.images.type.endswith('CompressedImage')
    parameters = {
        'model.weights': args.weights,
        'image_transport': 'compressed' if compressed else 'raw',
        'pose_source': 'odom' if sources.odometry else 'none',
    }
    topics = {sources.images.name: 'image/compressed' if compressed else 'image'}
    if sources.odometry:
        topics[sources.odometry.name] = 'odom'
    with tqdm(desc=f'playing at {args.rate:g}x', unit='message') as bar:
        def on_progress(played: int, total: int) -> None:
            bar.total = total
            bar.update(played - bar.n)

        return record_live_run(
            path, topics, parameters, args.output / 'node.log', rate=args.rate,
            on_progress=on_progress)


def _pair_images(bag: Bag, topic: str, live: LiveRun) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """Some of the queries with a loop closure, spread over the run, and both their images."""
    from selavpr_ros.image_decoding import decode

    closed = [query for query in live.records.queries if query.closure]
    chosen = closed[len(closed) // (2 * PAIRS):: max(1, len(closed) // PAIRS)][:PAIRS]
    wanted = {ns for q in chosen if q.closure for ns in (q.stamp_ns, q.closure.match_stamp_ns)}
    images = {ns: decode(message) for ns, message in bag.images(topic) if ns in wanted}
    return [(q, images[q.stamp_ns], images[q.closure.match_stamp_ns]) for q in chosen if q.closure]


def _node_lines(status: Any) -> list[tuple[str, str]]:
    """What only the live node can tell."""
    latency = f'p50 {status.latency_p50_ms:.0f} ms, p95 {status.latency_p95_ms:.0f} ms'
    return [('in the node', f'{latency} from receipt to candidates'),
            ('dropped images', str(status.frames_dropped))]


def run(args: argparse.Namespace) -> None:
    """Simulate, play, listen; then table and picture."""
    from selavpr_ros.replay import report
    from selavpr_ros.replay.bag import Bag
    from selavpr_ros.replay.metrics import summarise
    from selavpr_ros.replay.plots import draw_report
    from selavpr_ros.replay.topics import choose_sources

    args.output.mkdir(parents=True, exist_ok=True)
    with _bag(args) as path, Bag(path) as bag:
        sources = choose_sources(bag, args.topic, None, None)
        live = _play(args, path, sources)
        truth = _read_truth(bag, sources)
        pairs = _pair_images(bag, sources.images.name, live)
    draw_report(live.records, truth, pairs).savefig(args.output / 'report.png')
    report.write_tables(args.output, live.records, truth)
    print(report.format_table(summarise(live.records, truth), _node_lines(live.status)))
    print(f'\npicture: {args.output / "report.png"}')
