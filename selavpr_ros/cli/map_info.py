"""Tell what a map holds, and draw it.

  vpr map-info office.vprmap
      model, size and what it consists of, and one line per session
  vpr map-info office.vprmap --thumbnails office.png
      also a picture of keyframes from the whole map, with their ids
  vpr map-info office.vprmap --json
      the same for programs: stamps in ns, sizes in bytes
  vpr map-info milvus://fleet:19530
      what robots have delivered to a map that they share

Nothing is written into the map, so a node may go on adding to it. An origin is the map where a
session was recorded (the first digits of its uuid), and its id there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_ros.text import date, size, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from selavpr_ros.maps.keyframe import KeyframeId, SessionId, SessionSummary
    from selavpr_ros.maps.store import KeyframeStore

SECOND_NS = 1_000_000_000
HEADS = ('id', 'robot', 'label', 'start (UTC)', 'duration', 'frame', 'keyframes', 'with pose',
         'optimised', 'origin')
SHORT_UUID = 8

# The contact sheet, in pixels.
PICTURES = 48
COLUMNS = 8
GAP, CAPTION, LINE, MARGIN = 12, 26, 20, 16
LISTED = 10  # sessions above the pictures
COLOURS = ('#1f77b4', '#d95f02', '#1a9641', '#7570b3', '#e7298a', '#8c6d31', '#17becf', '#666666')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr map-info`."""
    parser.add_argument('map', metavar='MAP', help='map file, or address of a shared map')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument('--thumbnails', type=Path, metavar='PICTURE.png',
                        help=f'draw up to {PICTURES} keyframes, evenly spread over the map')


# ---- facts -------------------------------------------------------------------------------------


def _session_facts(summary: SessionSummary) -> dict[str, Any]:
    session = summary.session
    return {
        'id': str(session.id), 'robot_id': session.id.robot_id,
        'session_id': session.id.session_id, 'label': session.label,
        'started_ns': session.started_ns, 'last_ns': summary.last_ns, 'frame': session.frame,
        'model_id': session.model_id, 'keyframes': summary.keyframes,
        'with_pose': summary.with_pose, 'with_map_pose': summary.with_map_pose,
        'origin': session.origin}


def _facts(store: KeyframeStore) -> dict[str, Any]:
    """All facts about a map, as --json prints them."""
    return {
        'path': store.name, 'uuid': store.uuid, 'model_id': store.model_id, 'codec': store.codec,
        **store.describe(), 'keyframes': len(store),
        'sessions': [_session_facts(summary) for summary in store.summaries()]}


# ---- text --------------------------------------------------------------------------------------


def _duration(nanoseconds: int) -> str:
    return str(timedelta(seconds=round(nanoseconds / SECOND_NS)))


def _short_origin(origin: str) -> str:
    uuid, _, old_id = origin.partition('/')
    return f'{uuid[:SHORT_UUID]}/{old_id}'


def _entries(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    count, file_bytes = facts['keyframes'], facts.get('file_bytes')
    told = [facts['path']]
    if file_bytes is not None:
        told.append(size(file_bytes))
        if count:
            told.append(f'{size(file_bytes / count)} per keyframe')
    yield 'map', ', '.join(told)
    yield 'model', facts['model_id']
    yield 'codec', f'{facts["codec"]} (of local features)'
    if 'created_ns' in facts:
        yield 'created', f'{date(facts["created_ns"])} UTC by {facts["creator"]}'
    yield 'uuid', facts['uuid']
    yield 'keyframes', str(count)
    for name, content in facts.get('contents', {}).items():
        number, nbytes = content['count'], content['bytes']
        each = f'{number}, {size(nbytes)}, {size(nbytes / number)} each' if number else 'none'
        yield f'  {name.replace("_", " ")}', each


def _session_row(facts: dict[str, Any]) -> tuple[str, ...]:
    return (str(facts['session_id']), str(facts['robot_id']), facts['label'] or '-',
            date(facts['started_ns']), _duration(facts['last_ns'] - facts['started_ns']),
            facts['frame'], str(facts['keyframes']), str(facts['with_pose']),
            str(facts['with_map_pose']), _short_origin(facts['origin']))


def _text(facts: dict[str, Any]) -> str:
    lines = [table(list(_entries(facts)), texts=2)]
    if facts['sessions']:
        lines += ['', table([HEADS, *map(_session_row, facts['sessions'])])]
    return '\n'.join(lines)


# ---- picture -----------------------------------------------------------------------------------


def _choose(store: KeyframeStore) -> list[tuple[KeyframeId, int]]:
    """Ids and stamps of keyframes with a thumbnail, evenly spread over the map."""
    from selavpr_ros.errors import MapError

    stamps = list(store.stamps(with_thumbnail=True))
    if not stamps:
        raise MapError(f'{store.name}: it holds no thumbnails: only map files have '
                       'them, and only of keyframes added while map.thumbnails is on')
    count = min(PICTURES, len(stamps))
    return [stamps[number * len(stamps) // count] for number in range(count)]


def _pictures(store: KeyframeStore, chosen: Sequence[tuple[KeyframeId, int]]) -> Iterator[Any]:
    """(H, W, 3) uint8 RGB of each keyframe; a picture that cannot be read is grey."""
    import cv2
    import numpy as np

    for keyframe_id, _ in chosen:
        jpeg = np.frombuffer(store.thumbnail(keyframe_id), np.uint8)
        picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        grey = np.full((120, 160, 3), 128, np.uint8)
        yield grey if picture is None else picture[:, :, ::-1]


def _head(store: KeyframeStore, colours: Mapping[SessionId, str]) -> Iterator[tuple[str, str]]:
    """The title, and a line for each session in the pictures, with their colours."""
    summaries = store.summaries()
    count = sum(summary.keyframes for summary in summaries)
    yield f'{Path(store.name).name}: {count} keyframes of {store.model_id}', 'black'
    shown = [summary for summary in summaries if summary.session.id in colours]
    for summary in shown[:LISTED]:
        session = summary.session
        yield (f'session {session.id}  {session.label}  {date(session.started_ns)} UTC, '
               f'{summary.keyframes} keyframes', colours[session.id])
    if len(shown) > LISTED:
        yield f'... and {len(shown) - LISTED} more sessions', 'black'


def _write(axes: Axes, x: int, y: int, text: str, colour: str, points: int) -> None:
    # A '$' in a label does not begin a formula.
    axes.text(x, y, text, fontsize=points, color=colour, va='top', parse_math=False)


def _draw_cell(axes: Axes, picture: Any, x: int, y: int, text: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(x, x + width, y + height, y), aspect='auto',
                interpolation='nearest')
    axes.add_patch(Rectangle((x - 1, y - 1), width + 2, height + 2, fill=False, edgecolor=colour,
                             linewidth=2))
    _write(axes, x, y + height + 6, text, colour, 8)


def _canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """A figure whose coordinates are pixels from the upper left corner."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.axis('off')
    return figure, axes


def draw_contact_sheet(store: KeyframeStore) -> Figure:
    """Keyframes from the whole map in their order; below each its id and the time in its session.

    Raises:
        MapError: the map has no thumbnails.
    """
    chosen = _choose(store)
    pictures = list(_pictures(store, chosen))
    starts = {session.id: session.started_ns for session in store.sessions()}
    shown = dict.fromkeys(keyframe_id.session for keyframe_id, _ in chosen)
    colours = dict(zip(shown, cycle(COLOURS), strict=False))
    head = list(_head(store, colours))
    height = max(picture.shape[0] for picture in pictures) + CAPTION
    width = max(picture.shape[1] for picture in pictures) + GAP
    top = MARGIN + LINE * len(head) + GAP
    figure, axes = _canvas(2 * MARGIN + COLUMNS * width - GAP,
                           top + -(-len(chosen) // COLUMNS) * height + MARGIN)
    for line, (text, colour) in enumerate(head):
        _write(axes, MARGIN, MARGIN + line * LINE, text, colour, 10)
    for i, ((keyframe_id, stamp_ns), picture) in enumerate(zip(chosen, pictures, strict=True)):
        session = keyframe_id.session
        _draw_cell(axes, picture, MARGIN + i % COLUMNS * width, top + i // COLUMNS * height,
                   f'{keyframe_id}   +{_duration(stamp_ns - starts[session])}', colours[session])
    return figure


def _save(figure: Figure, path: Path) -> None:
    from selavpr_ros.errors import FolderError

    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: no such format
        raise FolderError(f'{path}: the picture cannot be written: {error}') from error


def run(args: argparse.Namespace) -> None:
    """Read the map, print, draw."""
    from selavpr_ros.maps.opening import open_store

    with closing(open_store(args.map)) as store, store.snapshot():
        facts = _facts(store)
        figure = draw_contact_sheet(store) if args.thumbnails else None
    print(json.dumps(facts, indent=1) if args.json else _text(facts))
    if figure:
        _save(figure, args.thumbnails)
