"""Times and memory of a map of one size."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from selavpr_ros.evaluation.map_costs.drive import (
    SELAVPR,
    WRITTEN_AT_ONCE,
    Drive,
    make_keyframe,
    random_features,
    write_map,
)
from selavpr_ros.evaluation.map_costs.results import SizeCosts
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.keyframe_index import FLAT, HNSW, KINDS, KeyframeIndex
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.local_codec import BINARY

TOP_K, EXCLUDED = 20, 20  # as the node searches
QUERIES, INSERTED = 200, 200  # how many are timed
CACHE_BYTES = 1024 << 20
LOCAL_EVERY = 200  # one in so many keyframes has local features, which saves time


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _middle_and_tail(times_s: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds."""
    return float(np.median(times_s)) * 1e3, float(np.percentile(times_s, 95)) * 1e3


def forget_pages(path: Path) -> None:
    """Let the system's cache forget a file, as when the computer was switched off meanwhile."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def open_cold(path: Path, index: str) -> tuple[float, KeyframeMap]:
    """Open a map that is not in the system's cache; returns seconds and the map."""
    forget_pages(path)
    return timed(lambda: KeyframeMap(MapFile(path), index=index, cache_bytes=CACHE_BYTES))


@dataclass(frozen=True, eq=False)
class Questions:
    """Queries from places that are seen again.

    Attributes:
        descriptors: (Q, D) float32.
        answers: (Q, k) rows of the keyframes that are most similar, best first.
        among: rows of the keyframes that are searched.
    """

    descriptors: np.ndarray
    answers: np.ndarray
    among: range


def ask(drive: Drive, size: int, count: int = QUERIES) -> Questions:
    """Visit random places again, and compare with every keyframe but the newest."""
    among = range(size - EXCLUDED)
    places = np.random.default_rng(1).choice(len(among), count)
    descriptors = drive.describe(places, visit=1)
    similarities = np.concatenate(
        [rows @ descriptors.T for rows in drive.chunks(size)])[: len(among)]
    best = np.argpartition(-similarities, TOP_K, axis=0)[:TOP_K]
    order = np.argsort(-np.take_along_axis(similarities, best, axis=0), axis=0)
    return Questions(descriptors, np.take_along_axis(best, order, axis=0).T, among)


def search_costs(keyframe_map: KeyframeMap, questions: Questions) -> dict[str, float]:
    """Times of a search, and the share of the most similar keyframes that it finds."""
    times, found = [], []
    for query in questions.descriptors:
        spent, retrievals = timed(partial(keyframe_map.search, query, TOP_K, questions.among))
        times.append(spent)
        found.append({retrieval.keyframe.id.keyframe_id - 1 for retrieval in retrievals})
    median_ms, p95_ms = _middle_and_tail(times)
    shares = np.array([[row in rows for row in best] for rows, best in zip(
        found, questions.answers.tolist(), strict=True)])
    return {'search_ms': median_ms, 'search_p95_ms': p95_ms,
            'recall_1': float(shares[:, 0].mean()), 'recall_20': float(shares.mean())}


def insertion_costs(keyframe_map: KeyframeMap, new: np.ndarray) -> dict[str, float]:
    """Times to add keyframes (n, D) with SelaVPR's local features, binary."""
    local = random_features(SELAVPR, BINARY)
    median_ms, p95_ms = _middle_and_tail([
        timed(partial(keyframe_map.add, make_keyframe(number, row, local)))[0]
        for number, row in enumerate(new, start=len(keyframe_map))])
    return {'insertion_ms': median_ms, 'insertion_p95_ms': p95_ms}


def measure_kind(index: str, path: Path, drive: Drive, questions: Questions) -> SizeCosts:
    """Open a copy of a map with one kind of index, search it, and add to it."""
    size = questions.among.stop + EXCLUDED
    new = drive.describe(range(size, len(drive)))
    alone = KeyframeIndex(drive.dim, index)
    with MapFile(path, read_only=True) as file:
        alone.load(drive.chunks(size), file.graph())
    in_use = alone.kind
    alone_ms, _ = _middle_and_tail([timed(partial(alone.add, row[None]))[0] for row in new])
    del alone
    copy = Path(shutil.copyfile(path, path.with_name('copy.vprmap')))
    opening_s, keyframe_map = open_cold(copy, index)
    memory_bytes = keyframe_map.nbytes
    found = search_costs(keyframe_map, questions)
    kept = insertion_costs(keyframe_map, new)
    keyframe_map.close()
    return SizeCosts(size=size, index=index, in_use=in_use, index_insertion_ms=alone_ms,
                     opening_s=opening_s, memory_bytes=memory_bytes, **found, **kept)


def measure_size(
    size: int, dim: int, folder: Path, kinds: Sequence[str] = KINDS, *, progress: bool = False
) -> Iterator[SizeCosts]:
    """Write a map of this size, and measure it with every kind of index.

    The graph is made and written once, for all kinds that use it.
    """
    drive = Drive(size + INSERTED, dim)
    steps = tqdm(total=-(-size // WRITTEN_AT_ONCE) + 2 + len(kinds), leave=False,
                 desc=f'{size} keyframes', disable=not progress)
    with TemporaryDirectory(dir=folder) as here, steps:
        path = Path(here) / 'map.vprmap'
        write_map(path, counted(drive.chunks(size), steps), random_features(SELAVPR, BINARY),
                  every=LOCAL_EVERY)
        questions = ask(drive, size)
        steps.update()
        opening_s, keyframe_map = open_cold(path, HNSW)
        closing_s, _ = timed(keyframe_map.close)  # which keeps the graph
        steps.update()
        for kind in kinds:
            costs = measure_kind(kind, path, drive, questions)
            steps.update()
            yield costs if costs.in_use != HNSW else replace(
                costs, opening_without_graph_s=opening_s, keeping_graph_s=closing_s)


def counted(chunks: Iterable[np.ndarray], bar: tqdm[Any]) -> Iterator[np.ndarray]:
    """Pass the chunks on, and advance the bar after each."""
    for chunk in chunks:
        yield chunk
        bar.update()


def measure_object_bytes(folder: Path, keyframes: int = 1000) -> float:
    """Bytes that Python takes for a keyframe in memory, without the numbers of its descriptor."""
    drive = Drive(keyframes, SELAVPR.global_dim)
    with TemporaryDirectory(dir=folder) as here:
        path = Path(here) / 'map.vprmap'
        write_map(path, drive.chunks(keyframes))
        tracemalloc.start()
        try:
            keyframe_map = KeyframeMap(MapFile(path), index=FLAT)
            taken, _ = tracemalloc.get_traced_memory()
            keyframe_map.close()
        finally:
            tracemalloc.stop()
    return taken / keyframes - 4 * drive.dim
