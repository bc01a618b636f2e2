"""Build a map from recorded bags, or add them to one.

BAG is a rosbag2: a folder, or one of its .db3 or .mcap files. No ROS is needed. Each bag becomes
a session of the map; a node that starts with map.path=OUT recognises the places in it.

  vpr build-map monday.bag tuesday.bag -o office.vprmap
      the only image topic, the odometry if there is one, the settings' model
  vpr build-map wednesday.bag -o office.vprmap --label 'with new shelves'
      one more session in the same map
  vpr build-map office.bag -o small.vprmap --set map.local_codec=binary
      a new map with local features in a sixteenth of the bytes
  vpr build-map robot_3.bag -o milvus://fleet:19530 --robot-id 3
      delivered to a shared map by way of the robot's own file, which map.own_path names, as the
      node does it

Every keyframe is on the disk before the next image is read: Ctrl-C, or a power cut, keeps what
was done.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from selavpr_ros.cli.replay import (
    add_settings,
    add_topics,
    queries_of,
    settings_from,
    topics_from,
)
from selavpr_ros.text import counts, size

if TYPE_CHECKING:
    from selavpr_ros.maps.keyframe import KeyframeId
    from selavpr_ros.maps.keyframe_map import KeyframeMap
    from selavpr_ros.place_recognizer import PlaceRecognizer
    from selavpr_ros.recordings.bag import Bag
    from selavpr_ros.recordings.topics import Sources
    from selavpr_ros.settings import Settings

Recording = tuple['Bag', 'Sources']
# Seconds to wait at the end for a shared map that does not answer, or refuses something.
PATIENCE_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr build-map`."""
    parser.add_argument('bags', type=Path, nargs='+', metavar='BAG',
                        help='rosbag2 folders or files')
    parser.add_argument('-o', '--output', required=True, metavar='OUT',
                        help='map file, or address of a shared map; one that exists is added to')
    parser.add_argument('--label', metavar='L',
                        help="label of the new sessions (default: each bag's name)")
    parser.add_argument('--robot-id', type=int, metavar='N',
                        help='id of the robot that recorded the bags, where a map has several '
                        '(default: 0)')
    add_topics(parser)
    add_settings(parser)


def _settings(args: argparse.Namespace) -> Settings:
    return settings_from(args, {
        'map.path': args.output, 'map.mode': 'mapping', 'map.read_only': False,
        'robot_id': args.robot_id})


# ---- one bag -----------------------------------------------------------------------------------


def _require_new(recording: Recording, recognizer: PlaceRecognizer) -> None:
    """Refuse a bag that is in the map: its images would be recognised as themselves.

    Stamps increase, so the bag is read only up to the newest keyframe of the map.
    """
    from selavpr_ros.errors import MapError

    (bag, sources), settings = recording, recognizer.settings
    known = {k.stamp_ns for k in recognizer.keyframe_map if k.id.robot_id == settings.robot_id}
    newest_ns = max(known, default=-1)
    for stamp_ns, _ in bag.stamped(sources.images.name):
        if stamp_ns > newest_ns:
            return
        if stamp_ns in known:
            raise MapError(
                f'{settings.map.path}: it holds keyframes of robot {settings.robot_id} with the '
                f'stamps of {bag.path} already, e.g. {stamp_ns} ns: leave this bag out, or pass '
                '--robot-id if another robot recorded it')


def _require_room(recognizer: PlaceRecognizer) -> None:
    """Raise MapError if no more keyframes would be kept."""
    from selavpr_ros.errors import MapError
    from selavpr_ros.maps.keyframe_map import REJECT_NEW

    keyframe_map, settings = recognizer.keyframe_map, recognizer.settings.map
    if keyframe_map.unsaved:
        raise MapError(keyframe_map.store_error)
    if len(keyframe_map) >= settings.max_keyframes and settings.eviction == REJECT_NEW:
        raise MapError(f'{settings.path}: it is full with {len(keyframe_map)} keyframes: build it '
                       f'anew with --set map.max_keyframes={2 * settings.max_keyframes}')


def _count_sessions(ids: Iterable[KeyframeId]) -> int:
    return len({keyframe_id.session for keyframe_id in ids})


@dataclass
class _Work:
    """What was done so far.

    Attributes:
        keyframes: ids of the keyframes that were kept.
        skipped: number of messages that could not be used, by reason.
        notes: what else is missing or wrong in the bags, a sentence each.
        start_s: time of the start, by time.perf_counter().
    """

    keyframes: list[KeyframeId] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    start_s: float = field(default_factory=time.perf_counter)

    def lines(self, keyframe_map: KeyframeMap, settings: Settings) -> Iterator[str]:
        """Lines that say what became of the map."""
        from selavpr_ros.maps.fleet.milvus_connection import is_address, without_secrets
        from selavpr_ros.maps.opening import own_path

        new, all_ids = self.keyframes, [keyframe.id for keyframe in keyframe_map]
        yield f'keyframes  {len(new)} new, {len(all_ids)} in the map'
        yield f'sessions   {_count_sessions(new)} new, {_count_sessions(all_ids)} in the map'
        if self.skipped:
            yield f'left out   {counts(dict(self.skipped.most_common()))}'
        yield from (f'note       {note}' for note in self.notes)
        path = own_path(settings)
        told = f'{path}, {size(path.stat().st_size)}' if path.exists() else 'none, as it is empty'
        if is_address(settings.map.path):
            told = f'{without_secrets(settings.map.path)}, by way of {told}'
        yield f'map        {told}'
        yield f'seconds    {time.perf_counter() - self.start_s:.1f}'


def _add(recording: Recording, recognizer: PlaceRecognizer, work: _Work) -> None:
    """Replay a bag into the map.

    Raises:
        BagError: no image of it could be used, or it is damaged.
    """
    from tqdm import tqdm

    from selavpr_ros.errors import BagError
    from selavpr_ros.recordings.records import Run

    bag, sources = recording
    bag.skipped.clear()  # its messages are read, and counted, again
    record, used = Run(), False
    with tqdm(desc=bag.name, total=sources.images.count, unit='image') as bar:
        try:
            for _ in queries_of(bag, sources, recognizer, record):
                used = True
                record.queries.clear()  # those of hours would fill the memory
                bar.set_postfix(keyframes=len(record.keyframes), refresh=False)
                bar.update(record.images - bar.n)
                _require_room(recognizer)
        finally:
            bar.update(record.images - bar.n)
            work.keyframes += [keyframe.id for keyframe in record.keyframes]
            work.skipped += record.skipped
            work.notes += record.notes
    if not used:
        topic = sources.images
        raise BagError(f'{bag.path}: {record.describe_loss(topic.name, topic.count)}')


# ---- all bags ----------------------------------------------------------------------------------


def _add_all(
    recordings: Sequence[Recording], recognizer: PlaceRecognizer, label: str | None, work: _Work
) -> BaseException | None:
    """Replay the bags; return what went wrong, to print the result first.

    A bag that cannot be used keeps no other one out of the map.
    """
    from selavpr_ros.errors import BagError, VprError

    unused: list[str] = []
    try:
        for recording in recordings:
            _require_new(recording, recognizer)  # it may be one of the bags before
            recognizer.adopt(
                recognizer.keyframe_map, recording[0].name if label is None else label)
            try:
                _add(recording, recognizer, work)
            except BagError as error:
                unused.append(str(error))
    except (KeyboardInterrupt, VprError) as error:
        return error
    return BagError('; '.join(unused)) if unused else None


@contextmanager
def _no_empty_map(path: Path, work: _Work) -> Iterator[None]:
    """Remove a new map file in which nothing was kept."""
    was_there = path.exists()
    try:
        yield
    finally:
        if not was_there and not work.keyframes:
            path.unlink(missing_ok=True)


def _deliver(keyframe_map: KeyframeMap) -> BaseException | None:
    """Wait until a shared map has all keyframes; return the error if it does not get them."""
    from selavpr_ros.errors import MapError

    until_s = time.monotonic() + PATIENCE_S
    try:
        while count := keyframe_map.undelivered:
            if not keyframe_map.shared_error:
                until_s = time.monotonic() + PATIENCE_S
            elif time.monotonic() > until_s:
                return MapError(f'{count} keyframes wait to be delivered, which the next node or '
                                f'vpr build-map of this robot does: {keyframe_map.shared_error}')
            time.sleep(0.05)
    except KeyboardInterrupt as error:
        return error
    return None


def run(args: argparse.Namespace) -> None:
    """Open everything, replay, print what the map has now."""
    from selavpr_ros.maps.opening import open_map, own_path
    from selavpr_ros.models import load_from_settings, warm_up
    from selavpr_ros.place_recognizer import PlaceRecognizer
    from selavpr_ros.recordings.bag import Bag

    settings, work = _settings(args), _Work()
    with ExitStack() as opened:
        bags = [opened.enter_context(Bag(path)) for path in args.bags]
        recordings = [(bag, topics_from(args, bag, settings)) for bag in bags]
        model = load_from_settings(settings.model)
        opened.enter_context(_no_empty_map(own_path(settings), work))
        with closing(open_map(settings, model.model_id, model.global_dim)) as keyframe_map:
            recognizer = PlaceRecognizer(model, settings, keyframe_map)
            for recording in recordings:
                _require_new(recording, recognizer)
            warm_up(model, settings.model.warmup_iters)
            stopped_by = _add_all(recordings, recognizer, args.label, work) or _deliver(
                keyframe_map)
    print('\n'.join(work.lines(keyframe_map, settings)))
    if stopped_by:
        raise stopped_by
