"""Merge maps into a new one, which has all their sessions and keyframes.

  vpr merge-maps monday.vprmap tuesday.vprmap -o week.vprmap
      maps of one model; they stay as they are
  vpr merge-maps monday.vprmap tuesday.vprmap -o small.vprmap --codec binary
      with local features in a sixteenth of the bytes; also with one map alone
  vpr merge-maps milvus://fleet:19530 -o fleet.vprmap
      a shared map as a file; without thumbnails, which a shared map does not have
  vpr merge-maps monday.vprmap tuesday.vprmap -o milvus://fleet:19530#week
      a map that robots share from then on

A session keeps its id if that is free, else it gets the next one of its robot. Its origin, which
`vpr map-info` shows, stays. The new map appears only when it is complete.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selavpr_ros.settings import CODECS
from selavpr_ros.text import size, table

if TYPE_CHECKING:
    from selavpr_ros.maps.merge import MergedSession

# Seconds; a bar that appears at once would stand above an error.
BAR_AFTER_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr merge-maps`."""
    parser.add_argument('maps', nargs='+', metavar='MAP',
                        help='map files, or addresses of shared maps')
    parser.add_argument('-o', '--output', required=True, metavar='OUT',
                        help='map file to write, or address of a new shared map')
    parser.add_argument('--codec', choices=CODECS,
                        help='how OUT keeps local features (default: as all MAPs do); not richer '
                        'than in any MAP')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace an existing OUT, if it is a file')


def _merge(args: argparse.Namespace) -> list[MergedSession]:
    from tqdm import tqdm

    from selavpr_ros.maps.merge import merge_maps

    with tqdm(unit='keyframe', delay=BAR_AFTER_S) as bar:
        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return merge_maps(args.maps, args.output, codec=args.codec, overwrite=args.overwrite,
                          progress=on_progress)


def _short(source: str) -> str:
    """A file without its folder; an address as it is."""
    return source if '://' in source else Path(source).name


def _rows(merged: Sequence[MergedSession]) -> list[tuple[str, ...]]:
    heads = ('map', 'session', 'becomes', 'label', 'keyframes')
    return [heads, *(
        (_short(session.source), str(session.old_id), str(session.session.id),
         session.session.label or '-', str(session.keyframes)) for session in merged)]


def run(args: argparse.Namespace) -> None:
    """Merge, print which session became which."""
    from selavpr_ros.maps.fleet.milvus_connection import is_address, without_secrets

    merged = _merge(args)
    keyframes = sum(session.keyframes for session in merged)
    told = f'{without_secrets(args.output)}: {len(merged)} sessions, {keyframes} keyframes'
    if not is_address(args.output):
        told += f', {size(Path(args.output).stat().st_size)}'
    print(f'{table(_rows(merged))}\n\n{told}')
