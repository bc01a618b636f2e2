"""Run a recorded bag through the recogniser, and leave a folder with results.

BAG is a rosbag2: a folder, or one of its .db3 or .mcap files. No ROS is needed. Images go through
the same code, with the same settings, as in the live node.

  vpr replay office.bag
      the only image topic, the odometry if there is one, the baseline without weights
  vpr replay office.bag --topic /front/image_raw/compressed --weights SelaVPR_msls.pth
      a topic and a model of your choice; without --topic, several image topics are listed
  vpr replay office.bag --params vpr.yaml --set index.top_k=5 --set query.max_rate=1.0
      the node's own parameter file, and changes to it
  vpr replay today.bag --params robots.yaml --node /robot1/vpr --set map.mode=localization
      one of several nodes in a file; in localization, map.path is the map that it looks in, and
      is not written to
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
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_ros.cli import add_output, positive

if TYPE_CHECKING:
    from selavpr_ros.errors import VprError
    from selavpr_ros.evaluation.run_report import RunReport
    from selavpr_ros.maps.keyframe_map import KeyframeMap
    from selavpr_ros.models import VprModel
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
    settings.add_argument('--node', default='', metavar='NAME',
                          help='node whose parameters are read from --params, e.g. /robot1/vpr '
                          '(default: the only place recognition node in the file)')
    settings.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                          dest='assignments', help='any setting, e.g. index.top_k=5')


def settings_from(
    args: argparse.Namespace, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings that the options name; `overrides`, by dotted name, win over all of them."""
    from selavpr_ros.errors import SettingError
    from selavpr_ros.recordings.params import collect_settings

    if args.node and not args.params:
        raise SettingError('--node names a node in a parameter file: give the file as --params')
    shortcuts = {
        'model.weights': args.weights, 'model.device': args.device, **(overrides or {})}
    given = {name: value for name, value in shortcuts.items() if value is not None}
    return collect_settings(args.params, args.assignments, given, args.node)


def _looks_in_map(settings: Settings) -> bool:
    """Whether no keyframes are kept, so that the places have to be in a map that is there."""
    return settings.map.mode == 'localization' or settings.map.read_only


def _open_map(settings: Settings, model: VprModel) -> KeyframeMap:
    """The map that `map.path` names, to look in; nothing is written to it.

    Raises:
        SettingError: no map file is named.
        MapError: it cannot be opened, or has no keyframe.
    """
    from selavpr_ros.errors import MapError, SettingError
    from selavpr_ros.maps.fleet.milvus_connection import is_address, without_secrets
    from selavpr_ros.maps.opening import open_map
    from selavpr_ros.settings import replace_setting

    path = settings.map.path
    if not path:
        raise SettingError('no keyframes are kept with map.mode localization or map.read_only, so '
                           'there has to be a map to look in: set map.path, or map.mode mapping')
    if is_address(path):
        raise SettingError(f'map.path {without_secrets(path)} is shared by robots, and vpr replay '
                           'looks only in map files: make one with vpr merge-maps')
    keyframe_map = open_map(
        replace_setting(settings, 'map.read_only', True), model.model_id, model.global_dim)
    if not len(keyframe_map):
        keyframe_map.close()
        raise MapError(f'{path}: it has no keyframe that could be recognised')
    return keyframe_map


def _load(settings: Settings, opened: ExitStack) -> PlaceRecognizer:
    """The recogniser, on the map that the settings name if it only looks in it."""
    from selavpr_ros.models import load_from_settings
    from selavpr_ros.place_recognizer import PlaceRecognizer

    model = load_from_settings(settings.model)
    if not _looks_in_map(settings):
        return PlaceRecognizer(model, settings)
    return PlaceRecognizer(
        model, settings, opened.enter_context(closing(_open_map(settings, model))))


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
    from selavpr_ros.errors import GroundTruthError
    from selavpr_ros.recordings.ground_truth import PoseTruth, read_tum

    file = _truth_file(args)
    if file:
        poses = read_tum(file)
    elif topic:
        poses = bag.poses(topic.name)
    else:
        return None
    if not poses:
        raise GroundTruthError(f'{topic} of {bag.path} holds no true pose: name another topic or '
                               'file with --ground-truth, or none')
    return PoseTruth(poses, args.positive_radius, math.radians(args.positive_heading))


def _facts(
    args: argparse.Namespace, bag: Bag, sources: Sources, recognizer: PlaceRecognizer
) -> dict[str, Any]:
    """What the results were made from and with."""
    from selavpr_ros.evaluation.result_folder import versions

    file, settings = _truth_file(args), recognizer.settings
    return {
        'bag': bag.path.resolve().name,
        'topic': sources.images.name,
        'odometry': sources.odometry and sources.odometry.name,
        'camera_info': sources.camera_info and sources.camera_info.name,
        'depth': sources.depth and sources.depth.name,
        'ground_truth': file.name if file else sources.truth and sources.truth.name,
        'map': Path(settings.map.path).name if _looks_in_map(settings) else None,
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
    """Replay the images of a bag with all that the node would receive; see `replay`.

    In the end `record` notes what is wrong with the bag, and why no image had a pose.
    """
    from selavpr_ros.recordings.clocks import Span
    from selavpr_ros.recordings.context import RecordedContext
    from selavpr_ros.recordings.pose_track import PoseTrack
    from selavpr_ros.recordings.replay import replay

    odometry = PoseTrack(bag.poses(sources.odometry.name) if sources.odometry else (),
                         recognizer.settings.pose_max_gap)
    context = RecordedContext(bag, sources, recognizer.settings)
    stamps_ns, has_pose = [], False
    try:
        for query in replay(
                bag.images(sources.images.name), recognizer, record, odometry, context.at):
            stamps_ns.append(query.stamp_ns)
            has_pose = has_pose or query.pose is not None
            yield query
    finally:
        record.skipped += bag.skipped
        record.notes += bag.faults
        span = Span.of(stamps_ns)
        if sources.odometry and span and not has_pose:
            record.notes.append(f'{bag.path}: {odometry.why_none(span, sources.odometry.name)}')


def _process(
    bag: Bag, sources: Sources, recognizer: PlaceRecognizer
) -> tuple[Run, BaseException | None]:
    """Replay the images; the second value is the error that ended it early, or None."""
    from selavpr_ros.models import warm_up
    from selavpr_ros.recordings.records import Run

    warm_up(recognizer.model, recognizer.settings.model.warmup_iters)
    record = Run()
    queries = queries_of(bag, sources, recognizer, record)
    return record, _run_all(queries, record, sources.images.count)


def _failure(report: RunReport, bag: Bag, sources: Sources) -> VprError | None:
    """What the run was for and did not come to, or None."""
    from selavpr_ros.errors import BagError, GroundTruthError

    run, topic = report.run, sources.images
    if not run.queries:
        return BagError(f'{bag.path}: {run.describe_loss(topic.name, topic.count)}')
    unknown = report.truth and report.truth.why_unknown(
        [query.stamp_ns for query in run.queries], report.facts['ground_truth'])
    return GroundTruthError(f'nothing was judged: {unknown}') if unknown else None


def _remarks(recognizer: PlaceRecognizer) -> Iterator[tuple[str, str]]:
    """Remarks that qualify the figures: name and text."""
    reason, settings = recognizer.why_not_reranked, recognizer.settings
    if reason:
        yield 're-ranking', f'none: {reason}'
    if _looks_in_map(settings):
        yield 'map', (f'{settings.map.path} with {len(recognizer.keyframe_map)} keyframes, which '
                      'stays as it is')
    elif settings.map.path:
        yield 'map', (f'an empty one, not {settings.map.path}: vpr replay writes to no map; '
                      'map.mode localization looks in it, vpr build-map adds to it')


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
    return read_photos(bag.stamped(sources.images.name), stamps_ns, settings.image)


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
    from selavpr_ros.recordings.bag import Bag

    settings = settings_from(args)
    with Bag(args.bag) as bag, ExitStack() as opened:
        sources = _sources(args, bag, settings)
        truth = _read_truth(args, bag, sources.truth)
        recognizer = _load(settings, opened)
        facts = _facts(args, bag, sources, recognizer)
        folder = _output_folder(args, bag)
        with log_to(folder / 'log.txt'):
            logger.info('replay of %s', facts)
            write_settings(folder / 'settings.yaml', settings, facts)
            record, stopped_by = _process(bag, sources, recognizer)
            report = RunReport(record, truth, facts, settings, list(_remarks(recognizer)))
            stopped_by = stopped_by or _failure(report, bag, sources)
            _write(report, folder, bag, sources)
            logger.info('ended by %s\n%s',
                        repr(stopped_by) if stopped_by else 'the end of the bag', report)
    print(f'{report}\n\nresults: {folder}')
    if stopped_by:
        raise stopped_by
