"""Measures all parts of what a keyframe map costs, one after the other.

Every part is measured with the map file, the index and the matching that the node uses.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selavpr_ros.evaluation.map_costs.codecs import measure_bytes, measure_matching, measure_recall
from selavpr_ros.evaluation.map_costs.drive import SELAVPR
from selavpr_ros.evaluation.map_costs.process import PROCESS_KEYFRAMES, measure_process
from selavpr_ros.evaluation.map_costs.results import Estimate, MapCosts
from selavpr_ros.evaluation.map_costs.sizes import measure_object_bytes, measure_size, timed
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.maps.keyframe_index import FLAT, HNSW, IVF, KINDS
from selavpr_ros.models import VprModel
from selavpr_ros.models.footprint import Footprint, measure_footprint

SIZES, QUICK_SIZES = (1000, 10_000, 100_000), (1000, 10_000)
FAR = 1_000_000  # keyframes of the map that is only estimated


def _as_before(near: tuple[int, float], far: tuple[int, float], size: int) -> float:
    """Extrapolate a value to another size by the power law through two points (size, value)."""
    exponent = math.log(far[1] / near[1]) / math.log(far[0] / near[0])
    return far[1] * (size / far[0]) ** exponent


def estimate(costs: MapCosts, size: int = FAR) -> Iterator[Estimate]:
    """Extrapolate from the two largest maps: times by a power law, memory per keyframe.

    'auto' is left out, as it is 'hnsw' at this size. So is an index that searched the two maps in
    different ways.
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


def why_no_room(folder: Path, needed: int) -> str:
    """Why a folder cannot take so many bytes; empty if it can."""
    free = shutil.disk_usage(folder).free
    return '' if free > needed else (
        f'{folder} has {free / 1e9:.1f} GB of free space, {needed / 1e9:.1f} GB are needed: '
        'choose another folder with -o')


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        models: models by their name for `load_model`; the measured process loads the first one.
        sets: evaluation sets to measure recall on.
        sizes: sizes of the maps whose times are measured, in keyframes.
        kinds: kinds of index.
        dim: length of the global descriptors of these maps.
        keyframes: size of the maps whose bytes are counted.
        repetitions: how often matching is timed.
        process_keyframes: size of the map that the measured process opens; 0 leaves this out.
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
        plan: what to measure.
        folder: where the maps are written and deleted again; its disk is the one measured.
        costs: an empty record, which is filled.

    Yields:
        The name of each part when it is complete.
    """
    for part, add in PARTS.items():
        costs.seconds[part], _ = timed(partial(add, plan, folder, costs))
        yield part
