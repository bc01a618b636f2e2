"""What a keyframe map costs: its bytes, what they buy, and its times as it grows.

`measure_all` goes through the parts; `map_costs_picture` shows them. Every part is measured with
the map file, the index and the matching that the node uses.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from selavpr_ros.evaluation.map_costs_results import (
    CodecBytes,
    CodecRecall,
    CodecTime,
    Estimate,
    MapCosts,
    ProcessMemory,
    SizeCosts,
)
from selavpr_ros.evaluation.measure import alike_features
from selavpr_ros.evaluation.recall import GLOBAL, RERANKED, evaluate_codecs
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import new_manifest
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.keyframe_index import AUTO, FLAT, HNSW, IVF, KINDS, KeyframeIndex, Rows
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.local_codec import (
    BINARY,
    CODECS,
    FLOAT16,
    INT8,
    NONE,
    EncodedFeatures,
    encode,
)
from selavpr_ros.matching.mutual import count_encoded_matches
from selavpr_ros.models import VprModel, load_model
from selavpr_ros.models.footprint import Footprint, measure_footprint
from selavpr_ros.pose import Pose

SELAVPR = Footprint(1024, 3721, 128, False)
SIZES, QUICK_SIZES = (1000, 10_000, 100_000), (1000, 10_000)
FAR = 1_000_000  # keyframes, of which there is an estimate only

TOP_K, EXCLUDED = 20, 20  # as the node searches
QUERIES, INSERTED = 200, 200  # that are timed
THUMBNAIL_BYTES = 4000  # JPEGs, 160 pixels wide, of photographs have 3000 to 5300
CACHE_BYTES = 1024 << 20
PROCESS_KEYFRAMES = 20_000
WRITTEN_AT_ONCE = 500
LOCAL_EVERY = 200  # keyframes of a large map, of which one has local features: it saves time

# A drive as descriptors see it. With these values a keyframe is to the next one as similar as
# 0.87, to the same place at another time 0.88, and to most others below 0.5.
LATENT, INERTIA, SPREAD, NOISE, SHIFT = 48, 0.97, 1 / 7, 0.5, 0.6


def why_no_room(folder: Path, needed: int) -> str:
    """Why a folder cannot take so many bytes; empty if it can."""
    free = shutil.disk_usage(folder).free
    return '' if free > needed else (
        f'{folder} has {free / 1e9:.1f} GB of free space, {needed / 1e9:.1f} GB are needed: '
        'choose another folder with -o')


# ---- keyframes that nobody has seen -------------------------------------------------------------


class Drive:
    """Global descriptors of a long drive: neighbours are alike, and a place looks another time.

    Args:
        count: keyframes.
        dim: length of the descriptors, D.
    """

    def __init__(self, count: int, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.dim = dim
        self._projection = rng.standard_normal((LATENT, dim), np.float32) * SPREAD
        self._places = rng.standard_normal((count, LATENT), np.float32)
        for before, place in zip(self._places[:-1], self._places[1:], strict=True):
            place *= math.sqrt(1 - INERTIA**2)
            place += INERTIA * before

    def __len__(self) -> int:
        return len(self._places)

    def describe(self, rows: Rows, visit: int = 0) -> np.ndarray:
        """(n, D) float32 unit rows of positive numbers, as of generalised-mean pooling."""
        rng = np.random.default_rng((visit, int(rows[0])))
        seen = self._places[rows] @ self._projection
        seen += NOISE * rng.standard_normal(seen.shape, np.float32)
        np.maximum(seen + SHIFT, 1e-3, out=seen)
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        return seen

    def chunks(self, count: int) -> Iterator[np.ndarray]:
        """The first descriptors, some hundred at a time."""
        for start in range(0, count, WRITTEN_AT_ONCE):
            yield self.describe(range(start, min(start + WRITTEN_AT_ONCE, count)))


SESSION = Session(SessionId(1))


def make_keyframe(
    number: int, descriptor: np.ndarray, local: EncodedFeatures | None = None,
    thumbnail: bytes = b'',
) -> NewKeyframe:
    """The keyframe of a row, one every second and every metre."""
    pose = Pose(np.array([number, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]))
    keyframe = Keyframe(KeyframeId(1, number + 1), number * 10**9, descriptor, pose,
                        float(number), has_local=local is not None)
    return NewKeyframe(keyframe, SESSION, local, thumbnail)


def random_features(footprint: Footprint, codec: str) -> EncodedFeatures | None:
    """Local features of as many numbers as the system's."""
    features, _ = alike_features(0, footprint.local_count, footprint.local_dim)
    return encode(features, codec)


def write_map(
    path: Path, chunks: Iterable[np.ndarray], local: EncodedFeatures | None = None, *,
    every: int = 1, thumbnail: bytes = b'',
) -> None:
    """Write a map file.

    Args:
        path: of the new file.
        chunks: descriptors (n, D); each chunk is one transaction.
        local: local features, always the same ones.
        every: only every so many-th keyframe has them.
        thumbnail: of every keyframe.
    """
    written = 0
    with MapFile(path, new_manifest('none', local.codec if local else NONE)) as file:
        for rows in chunks:
            file.add([
                make_keyframe(number, row, None if number % every else local, thumbnail)
                for number, row in enumerate(rows, start=written)])
            written += len(rows)


# ---- bytes, matching and recall by codec --------------------------------------------------------


def measure_bytes(
    system: str, footprint: Footprint, folder: Path, keyframes: int
) -> Iterator[CodecBytes]:
    """Write a map with every codec, without thumbnails and with them."""
    drive = Drive(keyframes, footprint.global_dim)

    def in_file(local: EncodedFeatures | None, thumbnail: bytes) -> float:
        with TemporaryDirectory(dir=folder) as here:
            path = Path(here) / 'map.vprmap'
            write_map(path, drive.chunks(keyframes), local, thumbnail=thumbnail)
            return path.stat().st_size / keyframes

    for codec in CODECS if footprint.local_count else (NONE,):
        local = random_features(footprint, codec)
        yield CodecBytes(system, codec, local.nbytes if local else 0, in_file(local, b''),
                         in_file(local, bytes(THUMBNAIL_BYTES)))


def measure_matching(
    system: str, footprint: Footprint, repetitions: int, candidates: int = 3
) -> list[CodecTime]:
    """Match candidates of every codec in turns, so that a busy machine is busy for all."""
    query, matches = alike_features(candidates, footprint.local_count, footprint.local_dim)
    kept = {codec: [encode(match, codec) for match in matches]
            for codec in (FLOAT16, INT8, BINARY)}
    times: dict[str, list[float]] = {codec: [] for codec in kept}
    for _ in range(1 + repetitions):
        for codec, encoded in kept.items():
            start = time.perf_counter()
            count_encoded_matches(query, encoded)
            times[codec].append((time.perf_counter() - start) * 1e3 / candidates)
    return [CodecTime(system, codec, statistics.median(spent[1:]))
            for codec, spent in times.items()]


def measure_recall(
    model: VprModel, asked: EvaluationSet, *, progress: bool = False
) -> Iterator[CodecRecall]:
    """Recall@1 with every codec; with 'none' there are no local features to order by."""
    for codec, evaluation in evaluate_codecs(model, asked, CODECS, progress=progress).items():
        way = RERANKED if RERANKED in evaluation.rankings else GLOBAL
        yield CodecRecall(model.model_id, asked.name, len(asked.answerable), codec,
                          evaluation.recall_at(1, way))


# ---- size ---------------------------------------------------------------------------------------


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
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
    """Open a map that lies on the disk alone; seconds, and the map."""
    forget_pages(path)
    return _timed(lambda: KeyframeMap(MapFile(path), index=index, cache_bytes=CACHE_BYTES))


@dataclass(frozen=True, eq=False)
class Questions:
    """Places that are seen again.

    Attributes:
        descriptors: (Q, D) float32.
        answers: (Q, k) rows of the keyframes that are most similar, best first.
        among: rows that are searched.
    """

    descriptors: np.ndarray
    answers: np.ndarray
    among: range


def ask(drive: Drive, size: int, count: int = QUERIES) -> Questions:
    """Come to places again, and compare with every keyframe but the newest."""
    among = range(size - EXCLUDED)
    places = np.random.default_rng(1).choice(len(among), count)
    descriptors = drive.describe(places, visit=1)
    similarities = np.concatenate(
        [rows @ descriptors.T for rows in drive.chunks(size)])[: len(among)]
    best = np.argpartition(-similarities, TOP_K, axis=0)[:TOP_K]
    order = np.argsort(-np.take_along_axis(similarities, best, axis=0), axis=0)
    return Questions(descriptors, np.take_along_axis(best, order, axis=0).T, among)


def search_costs(keyframe_map: KeyframeMap, questions: Questions) -> dict[str, float]:
    """Times of a search, and what is found of what is most similar."""
    times, found = [], []
    for query in questions.descriptors:
        spent, retrievals = _timed(partial(keyframe_map.search, query, TOP_K, questions.among))
        times.append(spent)
        found.append({retrieval.keyframe.id.keyframe_id - 1 for retrieval in retrievals})
    median_ms, p95_ms = _middle_and_tail(times)
    shares = np.array([[row in rows for row in best] for rows, best in zip(
        found, questions.answers.tolist(), strict=True)])
    return {'search_ms': median_ms, 'search_p95_ms': p95_ms,
            'recall_1': float(shares[:, 0].mean()), 'recall_20': float(shares.mean())}


def insertion_costs(keyframe_map: KeyframeMap, new: np.ndarray) -> dict[str, float]:
    """Times to keep keyframes (n, D) with SelaVPR's local features, binary."""
    local = random_features(SELAVPR, BINARY)
    median_ms, p95_ms = _middle_and_tail([
        _timed(partial(keyframe_map.add, make_keyframe(number, row, local)))[0]
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
    alone_ms, _ = _middle_and_tail([_timed(partial(alone.add, row[None]))[0] for row in new])
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
        write_map(path, _counted(drive.chunks(size), steps), random_features(SELAVPR, BINARY),
                  every=LOCAL_EVERY)
        questions = ask(drive, size)
        steps.update()
        opening_s, keyframe_map = open_cold(path, HNSW)
        closing_s, _ = _timed(keyframe_map.close)  # which keeps the graph
        steps.update()
        for kind in kinds:
            costs = measure_kind(kind, path, drive, questions)
            steps.update()
            yield costs if costs.in_use != HNSW else replace(
                costs, opening_without_graph_s=opening_s, keeping_graph_s=closing_s)


def _counted(chunks: Iterable[np.ndarray], bar: tqdm[Any]) -> Iterator[np.ndarray]:
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


# ---- a whole process ----------------------------------------------------------------------------


def own_memory() -> tuple[int, int]:
    """Bytes that this process has, and the most it had: `getrusage` counts its parent's, too."""
    status = Path('/proc/self/status').read_text(encoding='ascii')
    now, peak = (int(status.partition(name)[2].split()[0]) << 10 for name in ('VmRSS:', 'VmHWM:'))
    return now, peak


def _live(path: Path, weights: str) -> ProcessMemory:
    """What a program does with a map, in a process of its own."""
    model = load_model(weights)
    with torch.inference_mode():
        model(torch.zeros(1, 3, *model.image_size))
    loaded_bytes, _ = own_memory()
    opening_s, keyframe_map = open_cold(path, AUTO)
    times = [_timed(partial(keyframe_map.local_features, keyframe.id))[0]
             for keyframe in keyframe_map]
    newest = keyframe_map.newest
    assert newest
    found = keyframe_map.search(newest.global_descriptor, TOP_K)
    query, _ = alike_features(0, SELAVPR.local_count, SELAVPR.local_dim)
    count_encoded_matches(query, [keyframe_map.local_features(r.keyframe.id) for r in found])
    keyframes = len(keyframe_map)
    keyframe_map.close()
    return ProcessMemory(
        keyframes, loaded_bytes, own_memory()[1], opening_s, statistics.median(times) * 1e3)


def measure_process(
    weights: str, folder: Path, keyframes: int = PROCESS_KEYFRAMES, *, progress: bool = False
) -> ProcessMemory:
    """Write a map with SelaVPR's local features, binary, and use it in a fresh process."""
    drive = Drive(keyframes, SELAVPR.global_dim)
    bar = tqdm(total=-(-keyframes // WRITTEN_AT_ONCE), leave=False, disable=not progress,
               desc='process')
    with TemporaryDirectory(dir=folder) as here, bar:
        path = Path(here) / 'map.vprmap'
        write_map(path, _counted(drive.chunks(keyframes), bar), random_features(SELAVPR, BINARY))
        fresh = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            return pool.submit(_live, path, weights).result()


# ---- an estimate --------------------------------------------------------------------------------


def _as_before(near: tuple[int, float], far: tuple[int, float], size: int) -> float:
    """Go on growing as between two (size, value): by the same factor for every factor in size."""
    exponent = math.log(far[1] / near[1]) / math.log(far[0] / near[0])
    return far[1] * (size / far[0]) ** exponent


def estimate(costs: MapCosts, size: int = FAR) -> Iterator[Estimate]:
    """Extrapolate the two largest maps: times as they grew between these, memory by keyframe.

    'auto' is left out, which is 'hnsw' there, and what searched the two in different ways.
    """
    for index in (FLAT, HNSW, IVF):
        ours = sorted((one for one in costs.sizes if one.index == index), key=lambda c: c.size)
        if len(ours) < 2 or ours[-2].in_use != ours[-1].in_use:
            continue
        near, far = ours[-2:]
        times = {name: _as_before((near.size, getattr(near, name)), (far.size, getattr(far, name)),
                                  size)
                 for name in ('search_ms', 'insertion_ms', 'opening_s')}
        each = far.memory_bytes / far.size + costs.object_bytes
        yield Estimate(index=index, size=size, memory_bytes=each * size, **times)


# ---- all of it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        models: by what `load_model` calls them; the first one is part of the process.
        sets: for recall.
        sizes: of maps, keyframes.
        kinds: of the index.
        dim: length of the descriptors of these maps.
        keyframes: of the maps whose bytes are counted.
        repetitions: of matching.
        process_keyframes: of the map in the process; 0 leaves it out.
        progress: show bars.
    """

    models: Mapping[str, VprModel]
    sets: Sequence[EvaluationSet] = ()
    sizes: Sequence[int] = SIZES
    kinds: Sequence[str] = KINDS
    dim: int = SELAVPR.global_dim
    keyframes: int = 200
    repetitions: int = 15
    process_keyframes: int = PROCESS_KEYFRAMES
    progress: bool = False


def _systems(plan: Plan) -> dict[str, Footprint]:
    return {'SelaVPR': SELAVPR} | {
        model.name: measure_footprint(model) for model in plan.models.values()}


def _add_bytes(plan: Plan, folder: Path, costs: MapCosts) -> None:
    for name, footprint in _systems(plan).items():
        costs.bytes += measure_bytes(name, footprint, folder, plan.keyframes)
    costs.object_bytes = measure_object_bytes(folder)


def _add_times(plan: Plan, folder: Path, costs: MapCosts) -> None:
    for name, footprint in _systems(plan).items():
        if footprint.local_count:
            costs.times += measure_matching(name, footprint, plan.repetitions)


def _add_recalls(plan: Plan, folder: Path, costs: MapCosts) -> None:
    for asked in plan.sets:
        for model in plan.models.values():
            costs.recalls += measure_recall(model, asked, progress=plan.progress)
    if not plan.sets:
        costs.left_out['recalls'] = 'no images were given, name some with --frames or --pairs'


def _add_sizes(plan: Plan, folder: Path, costs: MapCosts) -> None:
    for size in sorted(plan.sizes):
        # The map, its copy and their logs; the graphs are small.
        reason = why_no_room(folder, 3 * size * (4 * plan.dim + 1000))
        if reason:
            costs.left_out['sizes'] = f'no {size} keyframes: {reason}'
            return
        costs.sizes += measure_size(size, plan.dim, folder, plan.kinds, progress=plan.progress)


def _add_process(plan: Plan, folder: Path, costs: MapCosts) -> None:
    keyframes = plan.process_keyframes
    reason = why_no_room(folder, 2 * keyframes * 70_000) if keyframes else 'it was not asked for'
    if reason:
        costs.left_out['process'] = reason
        return
    costs.process = measure_process(
        next(iter(plan.models)), folder, keyframes, progress=plan.progress)


def _add_estimates(plan: Plan, folder: Path, costs: MapCosts) -> None:
    costs.estimates += estimate(costs)
    if not costs.estimates:
        costs.left_out['estimates'] = 'it takes two sizes that are searched in the same way'


PARTS: dict[str, Callable[[Plan, Path, MapCosts], None]] = {
    'bytes': _add_bytes, 'times': _add_times, 'recalls': _add_recalls, 'sizes': _add_sizes,
    'process': _add_process, 'estimates': _add_estimates}


def measure_all(plan: Plan, folder: Path, costs: MapCosts) -> Iterator[str]:
    """Measure one of PARTS after the other into `costs`.

    Args:
        plan: what.
        folder: for the maps, which are gone afterwards; its disk is what is measured.
        costs: empty.

    Yields:
        The part that is complete.
    """
    for part, add in PARTS.items():
        costs.seconds[part], _ = _timed(partial(add, plan, folder, costs))
        yield part
