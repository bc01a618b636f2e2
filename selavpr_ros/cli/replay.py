"""Run a recorded bag through the recogniser, and leave a folder with results.

BAG is a rosbag2: a folder, or one of its .db3 or .mcap files. No ROS is needed. Images go through
the same code, with the same settings, as in the live node.

  vpr replay office.bag
      the only image topic, the odometry if there is one, the baseline without weights
  vpr replay office.bag --topic /front/image_raw/compressed --weights SelaVPR_msls.pth
      a topic and a model of your choice; without --topic, several image topics are listed
  vpr replay office.bag --params vpr.yaml --set index.top_k=5 --set query.max_rate=1.0
      the node's own parameter file, and changes to it
  vpr replay office.bag --ground-truth truth.tum --positive-radius 3
      true poses (a TUM file, or a topic) show which loop closures are true

The folder holds settings.yaml, metrics.json, queries.csv, candidates.csv, keyframes.csv,
similarity_matrix.png, trajectory.png, log.txt and, with true poses, precision_recall.png;
report.html shows all of it on one page, with hits, misses and false answers as pictures. Ctrl-C
ends early, and keeps what was done.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_ros.cli import add_output, positive

if TYPE_CHECKING:
    from selavpr_ros.evaluation.run_report import RunReport
    from selavpr_ros.place_recognizer import PlaceRecognizer
    from selavpr_ros.recordings.bag import Bag, Topic
    from selavpr_ros.recordings.ground_truth import GroundTruth, PoseTruth
    from selavpr_ros.recordings.pose_track import PoseTrack
    from selavpr_ros.recordings.records import QueryRecord, Run
    from selavpr_ros.recordings.topics import Sources
    from selavpr_ros.settings import Settings

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr replay`."""
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder or file')
    add_topics(parser)
    _add_truth(parser)
    add_settings(parser)
    add_output(parser, 'vpr_results/<bag>_<time>')


def add_topics(parser: argparse.ArgumentParser) -> None:
    """Declare the options for topics, which `vpr build-map` shares."""
    topics = parser.add_argument_group('what to read')
    topics.add_argument('--topic', metavar='T', help='images, raw or compressed')
    topics.add_argument('--odom-topic', metavar='T',
                        help="odometry (default: the bag's only one, or the one called odom; "
                        'none: without)')
    topics.add_argument('--camera-info-topic', metavar='T',
                        help='calibration (default: camera_info beside the images; none: without)')
    topics.add_argument('--depth-topic', metavar='T',
                        help="depth images for verify.geometry 'pnp' (default: the only raw "
                        'images that are depth; none: without)')


def _add_truth(parser: argparse.ArgumentParser) -> None:
    from selavpr_ros.pose import SAME_PLACE_M, SAME_PLACE_RAD

    truth = parser.add_argument_group('what counts as the same place')
    truth.add_argument('--ground-truth', metavar='T|FILE',
                       help='topic or TUM file with true poses (default: /ground_truth/odom, '
                       'if there is one; none: without)')
    truth.add_argument('--positive-radius', type=positive, default=SAME_PLACE_M, metavar='M',
                       help='same place: at most so many metres apart (default: %(default)g)')
    truth.add_argument('--positive-heading', type=positive,
                       default=math.degrees(SAME_PLACE_RAD), metavar='DEG',
                       help='same place: turned by at most so many degrees; 180 ignores this '
                       '(default: %(default)g)')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare the options for `settings_from`, which `vpr build-map` shares."""
    settings = parser.add_argument_group('how to recognise')
    settings.add_argument('--weights', metavar='W',
                          help='the path of a checkpoint, or a name that `vpr models` lists')
    settings.add_argument('--device', metavar='D', help='auto, cpu, cuda, cuda:1')
    settings.add_argument('--params', type=Path, metavar='FILE.yaml',
                          help="the node's parameter file")
    settings.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                          dest='assignments', help='any setting, e.g. index.top_k=5')


def settings_from(
    args: argparse.Namespace, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings that the options name; `overrides`, by dotted name, win over all of them."""
    from selavpr_ros.recordings.params import collect_settings

    shortcuts = {
        'model.weights': args.weights, 'model.device': args.device, **(overrides or {})}
    given = {name: value for name, value in shortcuts.items() if value is not None}
    return collect_settings(args.params, args.assignments, given)


def _output_folder(args: argparse.Namespace, bag: Bag) -> Path:
    from selavpr_ros.evaluation.result_folder import make_folder

    default = Path('vpr_results') / f'{bag.name}_{datetime.now():%Y%m%d_%H%M%S}'
    return make_folder(args.output or default, args.overwrite)


def _truth_file(args: argparse.Namespace) -> Path | None:
    path = Path(args.ground_truth or '')
    return path if path.is_file() else None


def topics_from(
    args: argparse.Namespace, bag: Bag, settings: Settings, truth: str | None = None
) -> Sources:
    """The topics that the options and the settings name, else those that the bag has."""
    from selavpr_ros.recordings.topics import NONE, choose_sources

    odometry = NONE if settings.pose_source == 'none' else args.odom_topic
    depth = args.depth_topic if settings.verify.geometry == 'pnp' else NONE
    return choose_sources(
        bag, args.topic, odometry, truth, args.camera_info_topic, depth,
        settings.image.encoding_override)


def _sources(args: argparse.Namespace, bag: Bag, settings: Settings) -> Sources:
    from selavpr_ros.recordings.topics import NONE

    return topics_from(args, bag, settings, NONE if _truth_file(args) else args.ground_truth)


def _read_truth(args: argparse.Namespace, bag: Bag, topic: Topic | None) -> PoseTruth | None:
    from selavpr_ros.recordings.ground_truth import PoseTruth, read_tum

    file = _truth_file(args)
    if file:
        poses = read_tum(file)
    elif topic:
        poses = bag.poses(topic.name)
    else:
        return None
    return PoseTruth(poses, args.positive_radius, math.radians(args.positive_heading))


def _facts(
    args: argparse.Namespace, bag: Bag, sources: Sources, recognizer: PlaceRecognizer
) -> dict[str, Any]:
    """What the results were made from and with."""
    from selavpr_ros.evaluation.result_folder import versions

    file = _truth_file(args)
    return {
        'bag': bag.path.resolve().name,
        'topic': sources.images.name,
        'odometry': sources.odometry and sources.odometry.name,
        'camera_info': sources.camera_info and sources.camera_info.name,
        'depth': sources.depth and sources.depth.name,
        'ground_truth': file.name if file else sources.truth and sources.truth.name,
        'model_id': recognizer.model.model_id,
        'reranked': not recognizer.why_not_reranked,
        'versions': versions(),
    }


def _run_all(queries: Iterable[QueryRecord], run: Run, images: int) -> BaseException | None:
    """Go through the bag; return the error that ended it early, to write results first."""
    from tqdm import tqdm

    from selavpr_ros.errors import BagError

    with tqdm(total=images, unit='image') as bar:
        try:
            for _ in queries:
                closures = sum(query.closure is not None for query in run.queries)
                bar.set_postfix(keyframes=len(run.keyframes), closures=closures, refresh=False)
                bar.update(run.images - bar.n)
        except (KeyboardInterrupt, BagError) as error:
            return error
        finally:
            bar.update(run.images - bar.n)
    return None


def queries_of(
    bag: Bag, sources: Sources, recognizer: PlaceRecognizer, record: Run
) -> Iterator[QueryRecord]:
    """Replay the images of a bag with all that the node would receive; see `replay`."""
    from selavpr_ros.recordings.context import RecordedContext
    from selavpr_ros.recordings.pose_track import PoseTrack
    from selavpr_ros.recordings.replay import replay

    odometry = PoseTrack(bag.poses(sources.odometry.name) if sources.odometry else ())
    context = RecordedContext(bag, sources, recognizer.settings)
    return replay(bag.images(sources.images.name), recognizer, record, odometry, context.at)


def _process(
    bag: Bag, sources: Sources, recognizer: PlaceRecognizer
) -> tuple[Run, BaseException | None]:
    """Replay the images; the second value is the error that ended it early, or None."""
    from selavpr_ros.models import warm_up
    from selavpr_ros.recordings.records import Run

    warm_up(recognizer.model, recognizer.settings.model.warmup_iters)
    record = Run()
    queries = queries_of(bag, sources, recognizer, record)
    stopped_by = _run_all(queries, record, sources.images.count)
    record.skipped += bag.skipped
    return record, stopped_by


def _remarks(recognizer: PlaceRecognizer) -> Iterator[tuple[str, str]]:
    """Remarks that qualify the figures: name and text."""
    reason = recognizer.why_not_reranked
    if reason:
        yield 're-ranking', f'none: {reason}'


def trajectory_gain(
    runs: Sequence[Run], truth: GroundTruth | None, odometry: PoseTrack | None = None
) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """What a back-end gains by the loop closures: a line for the table, and a picture.

    `vpr demo` uses it, too.
    """
    from selavpr_ros.backend.offline import optimise_runs
    from selavpr_ros.backend.picture import draw_trajectories
    from selavpr_ros.errors import BackendError
    from selavpr_ros.evaluation.html import png_of

    try:
        optimised = optimise_runs(runs, truth, odometry)
    except BackendError as error:
        return [('trajectory error', f'not measured: {error}')], {}
    pictures = {'trajectories': png_of(draw_trajectories(optimised))} if optimised.poses else {}
    told = [('trajectory error', str(optimised))] if optimised.true is not None else []
    return told, pictures


def _photos(bag: Bag, sources: Sources, report: RunReport) -> dict[int, str]:
    """The images that the page shows; the bag is read again, as images are not kept."""
    from selavpr_ros.evaluation.run_page import read_photos
    from selavpr_ros.settings import Settings

    stamps_ns = {ns for shown in report.examples.values() for example in shown
                 for ns in example.stamps_ns}
    settings = report.settings or Settings()
    return read_photos(bag.images(sources.images.name), stamps_ns, settings.image)


def _write(report: RunReport, folder: Path, bag: Bag, sources: Sources) -> None:
    """Write the data first, so that an interruption of what takes longer does not lose them."""
    report.write_data(folder)
    gain, report.drawings = trajectory_gain([report.run], report.truth)
    report.remarks = [*report.remarks, *gain]
    report.write_pictures(folder)
    report.photos = _photos(bag, sources, report)
    report.write_page(folder)


def run(args: argparse.Namespace) -> None:
    """Replay the bag, write the folder, print the table."""
    from selavpr_ros.evaluation.result_folder import log_to, write_settings
    from selavpr_ros.evaluation.run_report import RunReport
    from selavpr_ros.models import load_from_settings
    from selavpr_ros.place_recognizer import PlaceRecognizer
    from selavpr_ros.recordings.bag import Bag

    settings = settings_from(args)
    with Bag(args.bag) as bag:
        sources = _sources(args, bag, settings)
        truth = _read_truth(args, bag, sources.truth)
        recognizer = PlaceRecognizer(load_from_settings(settings.model), settings)
        facts = _facts(args, bag, sources, recognizer)
        folder = _output_folder(args, bag)
        with log_to(folder / 'log.txt'):
            logger.info('replay of %s', facts)
            write_settings(folder / 'settings.yaml', settings, facts)
            record, stopped_by = _process(bag, sources, recognizer)
            report = RunReport(record, truth, facts, settings, list(_remarks(recognizer)))
            _write(report, folder, bag, sources)
            logger.info('ended by %s\n%s',
                        repr(stopped_by) if stopped_by else 'the end of the bag', report)
    print(f'{report}\n\nresults: {folder}')
    if stopped_by:
        raise stopped_by
