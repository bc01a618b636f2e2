"""Several map files into one: all sessions and keyframes, with everything that belongs to them."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from selavpr_ros.errors import MapError, SettingError
from selavpr_ros.maps.file.copies import appearing
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.keyframe import KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.local_codec import BINARY, FLOAT16, INT8, NONE, EncodedFeatures, encode

# Features can be encoded again from left to right only.
RICHEST_FIRST = (FLOAT16, INT8, BINARY, NONE)
# In one transaction, and in memory: 61 MB of SelaVPR's features.
KEYFRAMES_AT_ONCE = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MergedSession:
    """Where a session went.

    Attributes:
        source: the map that it comes from.
        old_id: its identity there.
        session: as it is in the merged map.
        keyframes: how many.
    """

    source: Path
    old_id: SessionId
    session: Session
    keyframes: int


# ---- what cannot be merged ---------------------------------------------------------------------


def _common_model(maps: Sequence[MapFile]) -> str:
    first, *others = maps
    for other in others:
        if other.manifest.model_id != first.manifest.model_id:
            raise MapError(
                f'{first.path} is of model {first.manifest.model_id}, {other.path} of '
                f'{other.manifest.model_id}: their descriptors cannot be compared; merge only '
                'maps of one model')
    return first.manifest.model_id


def _choose_codec(maps: Sequence[MapFile], asked: str | None) -> str:
    """How the merged map keeps local features."""
    if asked is None:
        kept = {file.codec for file in maps}
        if len(kept) > 1:
            told = ', '.join(f'{file.path} {file.codec}' for file in maps)
            raise MapError(f'the maps keep local features in several ways ({told}): choose one '
                           f'codec for all, {max(kept, key=RICHEST_FIRST.index)} at the most')
        return kept.pop()
    if asked not in RICHEST_FIRST:
        raise SettingError(f"codec '{asked}' is none of {', '.join(RICHEST_FIRST)}")
    for file in maps:
        if RICHEST_FIRST.index(asked) < RICHEST_FIRST.index(file.codec):
            raise MapError(f'{file.path}: what it keeps of local features ({file.codec}) cannot '
                           f'become {asked} again: choose {file.codec}, or leave this map out')
    return asked


def _stamps_by_robot(file: MapFile) -> dict[int, np.ndarray]:
    stamps: defaultdict[int, array[int]] = defaultdict(lambda: array('q'))
    for keyframe_id, stamp_ns in file.stamps():
        stamps[keyframe_id.robot_id].append(stamp_ns)
    return {robot_id: np.array(of_robot) for robot_id, of_robot in stamps.items()}


def _date(stamp_ns: int) -> str:
    return f'{datetime.fromtimestamp(stamp_ns // 1_000_000_000, timezone.utc):%Y-%m-%d %H:%M:%S}'


def _require_no_copies(maps: Sequence[MapFile]) -> None:
    """A keyframe that two maps hold would find itself forever."""
    stamps = [(file.path, _stamps_by_robot(file)) for file in maps]
    for (path, of_one), (other_path, of_other) in combinations(stamps, 2):
        shared = {robot_id: np.intersect1d(of_one[robot_id], of_other[robot_id])
                  for robot_id in of_one.keys() & of_other.keys()}
        count = sum(map(len, shared.values()))
        if count:
            robot_id, found = next((r, both) for r, both in sorted(shared.items()) if len(both))
            raise MapError(
                f'{path} and {other_path} both hold {count} keyframes, e.g. that of robot '
                f'{robot_id} at {found[0]} ns ({_date(int(found[0]))}): if one map is a copy or '
                'a continuation of the other, leave the smaller one out; else remove from one of '
                'them what both hold')


# ---- merging -----------------------------------------------------------------------------------


def _free_id(wanted: SessionId, taken: Collection[SessionId]) -> SessionId:
    """The wanted id, else the next after all ids of that robot."""
    if wanted not in taken:
        return wanted
    last = max(known.session_id for known in taken if known.robot_id == wanted.robot_id)
    return SessionId(last + 1, wanted.robot_id)


def _place_sessions(maps: Iterable[MapFile]) -> list[MergedSession]:
    """Give every session that has keyframes an id in the merged map."""
    placed: dict[SessionId, MergedSession] = {}
    for file in maps:
        assert file.path
        for summary in file.summaries():
            if summary.keyframes:
                session = summary.session
                new_id = _free_id(session.id, placed)
                placed[new_id] = MergedSession(
                    file.path, session.id, replace(session, id=new_id), summary.keyframes)
    return list(placed.values())


def _encoded(local: EncodedFeatures | None, codec: str) -> EncodedFeatures | None:
    return local if local is None or local.codec == codec else encode(local.decode(), codec)


def _keyframes(
    file: MapFile, sessions: Mapping[SessionId, Session], codec: str
) -> Iterator[NewKeyframe]:
    """All keyframes of a map as those of sessions in another one."""
    for keyframe in file.keyframes():
        session = sessions[keyframe.id.session]
        new_id = KeyframeId(
            session.id.session_id, keyframe.id.keyframe_id, session.id.robot_id)
        yield NewKeyframe(
            replace(keyframe, id=new_id), session,
            _encoded(file.local_features(keyframe.id), codec), file.thumbnail(keyframe.id),
            *file.details(keyframe.id))


def _merge(
    maps: Sequence[MapFile], merged: Sequence[MergedSession], target: MapFile, progress: Progress
) -> None:
    total, done = sum(session.keyframes for session in merged), 0
    for file in maps:
        sessions = {m.old_id: m.session for m in merged if m.source == file.path}
        rest = _keyframes(file, sessions, target.codec)
        while batch := list(islice(rest, KEYFRAMES_AT_ONCE)):
            target.add(batch)
            done += len(batch)
            progress(done, total)


def merge_maps(
    sources: Sequence[Path], target: Path, *, codec: str | None = None, overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[MergedSession]:
    """Write a new map with all sessions and keyframes of several maps, which stay as they are.

    A session keeps its id where that is free, else it gets the next one of its robot; its
    `origin` and the ids of its keyframes stay. The target appears when it is complete.

    Args:
        sources: maps of one model, in the order in which the target has them.
        target: of the new map.
        codec: to encode local features again, in less; None keeps that of the sources.
        overwrite: replace a map that is there.
        progress: called with the keyframes that are done, and with their number.

    Returns:
        Every session with its old and its new id.

    Raises:
        MapError: a source cannot be read, they do not fit together (other models, other codecs,
            the same keyframes), or the target exists or cannot be written.
        SettingError: no such codec.
    """
    if not sources:
        raise MapError('there is nothing to merge: name the maps')
    with ExitStack() as opened, appearing(target, overwrite=overwrite) as unnamed:
        maps = [opened.enter_context(MapFile(path, read_only=True)) for path in sources]
        if target.exists() and any(target.samefile(source) for source in sources):
            raise MapError(f'{target}: it is one of the maps to merge: choose another name')
        for file in maps:
            opened.enter_context(file.snapshot())
        manifest = new_manifest(_common_model(maps), _choose_codec(maps, codec))
        _require_no_copies(maps)
        merged = _place_sessions(maps)
        with MapFile(unnamed, manifest) as new:
            _merge(maps, merged, new, progress)
    return merged
