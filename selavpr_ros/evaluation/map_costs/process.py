"""Memory of a whole program that uses a map."""

from __future__ import annotations

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from selavpr_ros.evaluation.map_costs.drive import (
    SELAVPR,
    WRITTEN_AT_ONCE,
    Drive,
    random_features,
    write_map,
)
from selavpr_ros.evaluation.map_costs.results import ProcessMemory
from selavpr_ros.evaluation.map_costs.sizes import TOP_K, counted, open_cold, timed
from selavpr_ros.evaluation.measure import alike_features
from selavpr_ros.maps.keyframe_index import AUTO
from selavpr_ros.maps.local_codec import BINARY
from selavpr_ros.matching.mutual import count_encoded_matches
from selavpr_ros.models import load_model

PROCESS_KEYFRAMES = 20_000


def own_memory() -> tuple[int, int]:
    """Bytes of this process now and at its peak; `getrusage` would count its parent's, too."""
    status = Path('/proc/self/status').read_text(encoding='ascii')
    now, peak = (int(status.partition(name)[2].split()[0]) << 10 for name in ('VmRSS:', 'VmHWM:'))
    return now, peak


def _live(path: Path, weights: str) -> ProcessMemory:
    """Do what a program does with a map, and measure the process that runs this."""
    model = load_model(weights)
    with torch.inference_mode():
        model(torch.zeros(1, 3, *model.image_size))
    loaded_bytes, _ = own_memory()
    opening_s, keyframe_map = open_cold(path, AUTO)
    times = [timed(partial(keyframe_map.local_features, keyframe.id))[0]
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
        write_map(path, counted(drive.chunks(keyframes), bar), random_features(SELAVPR, BINARY))
        fresh = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            return pool.submit(_live, path, weights).result()
