"""Several maps into one: all sessions and keyframes, with everything that belongs to them."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain, combinations, islice
from pathlib import Path

import numpy as np

from selavpr_ros.errors import MapError, SettingError
from selavpr_ros.maps.fleet.milvus_connection import is_address
from selavpr_ros.maps.keyframe import KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.local_codec import BINARY, FLOAT16, INT8, NONE, EncodedFeatures, encode
from selavpr_ros.maps.opening import new_store, open_store
from selavpr_ros.maps.store import KeyframeStore
from selavpr_ros.text import date

# Features can be encoded again only in a codec farther to the right.
RICHEST_FIRST = (FLOAT16, INT8, BINARY, NONE)
# Keyframes in one transaction, and in memory: 61 MB of SelaVPR's features.
KEYFRAMES_AT_ONCE = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MergedSession:
    """Where a session went.

    Attributes:
        source: name of the map that it comes from.
        old_id: its identity there.
        session: as it is in the merged map.
        keyframes: how many.
    """

    source: str
    old_id: SessionId
    session: Session
    keyframes: int


# ---- what cannot be merged ---------------------------------------------------------------------


def _common_model(maps: Sequence[KeyframeStore]) -> str:
    first, *others = maps
    for other in others:
        if other.model_id != first.model_id:
            raise MapError(
                f'{first.name} is of model {first.model_id}, {other.name} of '
                f'{other.model_id}: their descriptors cannot be compared; merge only '
                'maps of one model')
    return first.model_id


def _choose_codec(maps: Sequence[KeyframeStore], asked: str | None) -> str:
    """How the merged map keeps local features."""
    if asked is None:
        kept = {store.codec for store in maps}
        if len(kept) > 1:
            told = ', '.join(f'{store.name} {store.codec}' for store in maps)
            raise MapError(f'the maps keep local features in several ways ({told}): choose one '
                           f'codec for all, {max(kept, key=RICHEST_FIRST.index)} at the most')
        return kept.pop()
    if asked not in RICHEST_FIRST:
        raise SettingError(f"codec '{asked}' is none of {', '.join(RICHEST_FIRST)}")
    for store in maps:
        if RICHEST_FIRST.index(asked) < RICHEST_FIRST.index(store.codec):
            raise MapError(f'{store.name}: its local features ({store.codec}) cannot become '
                           f'{asked} again: choose {store.codec}, or leave this map out')
    return asked


def _stamps_by_robot(store: KeyframeStore) -> dict[int, np.ndarray]:
    stamps: defaultdict[int, array[int]] = defaultdict(lambda: array('q'))
    for keyframe_id, stamp_ns in store.stamps():
        stamps[keyframe_id.robot_id].append(stamp_ns)
    return {robot_id: np.array(of_robot) for robot_id, of_robot in stamps.items()}


def _require_no_copies(maps: Sequence[KeyframeStore]) -> None:
    """Raise MapError if two maps hold the same keyframe, whose copies would always match."""
    stamps = [(store.name, _stamps_by_robot(store)) for store in maps]
    for (name, of_one), (other_name, of_other) in combinations(stamps, 2):
        shared = {robot_id: np.intersect1d(of_one[robot_id], of_other[robot_id])
                  for robot_id in of_one.keys() & of_other.keys()}
        count = sum(map(len, shared.values()))
        if count:
            robot_id, found = next((r, both) for r, both in sorted(shared.items()) if len(both))
            raise MapError(
                f'{name} and {other_name} both hold {count} keyframes, e.g. that of robot '
                f'{robot_id} at {found[0]} ns ({date(int(found[0]))}): if one map is a copy or '
                'a continuation of the other, leave the smaller one out; else remove from one of '
                'them what both hold')


# ---- merging -----------------------------------------------------------------------------------


def _free_id(wanted: SessionId, taken: Collection[SessionId]) -> SessionId:
    """The wanted id, else the next after all ids of that robot."""
    if wanted not in taken:
        return wanted
    last = max(known.session_id for known in taken if known.robot_id == wanted.robot_id)
    return SessionId(last + 1, wanted.robot_id)


def _place_sessions(maps: Iterable[KeyframeStore]) -> list[MergedSession]:
    """Give every session that has keyframes an id in the merged map."""
    placed: dict[SessionId, MergedSession] = {}
    for store in maps:
        for summary in store.summaries():
            if summary.keyframes:
                session = summary.session
                new_id = _free_id(session.id, placed)
                placed[new_id] = MergedSession(
                    store.name, session.id, replace(session, id=new_id), summary.keyframes)
    return list(placed.values())


def _encoded(local: EncodedFeatures | None, codec: str) -> EncodedFeatures | None:
    return local if local is None or local.codec == codec else encode(local.decode(), codec)


def _moved(new: NewKeyframe, session: Session, codec: str) -> NewKeyframe:
    """A keyframe as that of a session in another map."""
    keyframe = new.keyframe
    new_id = KeyframeId(session.id.session_id, keyframe.id.keyframe_id, session.id.robot_id)
    return replace(new, keyframe=replace(keyframe, id=new_id), session=session,
                   local=_encoded(new.local, codec))


def _parcels(
    maps: Sequence[KeyframeStore], merged: Sequence[MergedSession], codec: str
) -> Iterator[list[NewKeyframe]]:
    """All keyframes as the merged map has them, some at a time."""
    for store in maps:
        sessions = {m.old_id: m.session for m in merged if m.source == store.name}
        # A shared map may have got new sessions meanwhile.
        ids = (each for each, _ in store.stamps() if each.session in sessions)
        while some := list(islice(ids, KEYFRAMES_AT_ONCE)):
            yield [_moved(new, sessions[new.keyframe.id.session], codec)
                   for new in store.whole(some)]


def _fill(
    target: KeyframeStore, parcels: Iterable[list[NewKeyframe]], total: int, progress: Progress
) -> None:
    done = 0
    for parcel in parcels:
        target.add(parcel)
        done += len(parcel)
        progress(done, total)


def _require_other(target: str | Path, sources: Sequence[str | Path]) -> None:
    paths = [Path(source) for source in sources if not is_address(str(source))]
    if not is_address(str(target)) and Path(target).exists() and any(
            Path(target).samefile(path) for path in paths):
        raise MapError(f'{target}: it is one of the maps to merge: choose another name')


def merge_maps(
    sources: Sequence[str | Path], target: str | Path, *, codec: str | None = None,
    overwrite: bool = False, progress: Progress = lambda done, total: None,
) -> list[MergedSession]:
    """Write a new map with all sessions and keyframes of several maps, which stay as they are.

    A session keeps its id where that is free, else it gets the next one of its robot; its
    `origin` and the ids of its keyframes stay. The target appears when it is complete.

    Args:
        sources: files or addresses of maps of one model, in the order in which the target has
            them.
        target: file or address of the new map.
        codec: a smaller codec to encode local features again; None keeps that of the sources.
        overwrite: replace a file that is there.
        progress: called with the number of keyframes that are done, and of all.

    Returns:
        Every session with its old and its new id.

    Raises:
        MapError: a source cannot be read, they do not fit together (other models, other codecs,
            the same keyframes), or the target exists or cannot be written.
        SettingError: no such codec.
    """
    if not sources:
        raise MapError('there is nothing to merge: name the maps')
    with ExitStack() as opened:
        maps = [opened.enter_context(closing(open_store(str(source)))) for source in sources]
        _require_other(target, sources)
        for store in maps:
            opened.enter_context(store.snapshot())
        model_id, codec = _common_model(maps), _choose_codec(maps, codec)
        _require_no_copies(maps)
        merged = _place_sessions(maps)
        parcels = _parcels(maps, merged, codec)
        first = next(parcels, [])
        dim = len(first[0].keyframe.global_descriptor) if first else 0
        with new_store(str(target), model_id, codec, dim, overwrite=overwrite) as new:
            _fill(new, chain([first], parcels), sum(each.keyframes for each in merged), progress)
    return merged
