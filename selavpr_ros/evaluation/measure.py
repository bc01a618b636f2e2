"""What every system costs, in full size: time of a query and memory of a keyframe."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from selavpr_ros.errors import SettingError
from selavpr_ros.matching.mutual import count_mutual_matches
from selavpr_ros.models import choose_device, choose_dtype, load_model
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.catalogue import BUILT_IN, SYSTEMS, System
from selavpr_ros.models.footprint import Footprint, measure_footprint
from selavpr_ros.models.random_values import build_random

REPETITIONS = 15
LEAST_REPETITIONS = 3
BUDGET_S = 10.0  # for repeating what takes seconds

REFERENCE = 'SelaVPR'  # measured first; the other systems are compared with it

# Published at 504 pixels, which take a CPU several seconds.
SMALLER = {'FoL, large': (322, 322)}


@dataclass(frozen=True)
class Cost:
    """What one system costs.

    Attributes:
        system: the system, with the image size (H, W) in pixels that was measured.
        parameters: number of the network's parameters.
        forward_ms: one image through the network, the global descriptor brought to the CPU.
        matching_ms: mutual matches with one candidate of the map; 0 without local features.
        footprint: sizes of a keyframe in the map.
    """

    system: System
    parameters: int
    forward_ms: float
    matching_ms: float
    footprint: Footprint

    def query_ms(self, candidates: int) -> float:
        """Network and matching of one query, without resizing the image and searching the map."""
        return self.forward_ms + candidates * self.matching_ms


def median_ms(
    function: Callable[[], Any], repetitions: int = REPETITIONS, budget_s: float = math.inf
) -> float:
    """Median milliseconds of a call, after one that does not count.

    Args:
        function: what is timed.
        repetitions: at most.
        budget_s: seconds after which no repetition is begun, except the first three.
    """
    function()
    times: list[float] = []
    while len(times) < min(repetitions, LEAST_REPETITIONS) or (
            len(times) < repetitions and sum(times) < budget_s):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def alike_features(
    candidates: int, features: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random unit rows (N, d), and noisy copies of them as candidates (K, N, d)."""
    generator = torch.Generator().manual_seed(0)
    query = functional.normalize(torch.randn(features, length, generator=generator), dim=-1)
    noise = torch.randn(candidates, features, length, generator=generator)
    return query, functional.normalize(query + 0.25 * noise, dim=-1)


def describe(model: VprModel, image: torch.Tensor) -> torch.Tensor:
    """Global descriptor (1, D) on the CPU; fetching it waits for the GPU."""
    return model(image).global_descriptor.cpu()


def plan(only: Sequence[str] = ()) -> list[System]:
    """List the systems to measure, the reference first; nothing is built.

    Args:
        only: beginnings of names, in any case; empty for all.

    Raises:
        SettingError: no system has such a name.
    """
    systems: list[System] = []
    for system in (*SYSTEMS, *BUILT_IN):
        systems.append(system)
        if system.name in SMALLER:
            systems.append(replace(system, image_size=SMALLER[system.name]))
    words = tuple(word.lower() for word in only)
    for word in words:
        if not any(system.name.lower().startswith(word) for system in systems):
            names = ', '.join(f"'{system.name}'" for system in (*SYSTEMS, *BUILT_IN))
            raise SettingError(f"no system's name begins with '{word}': {names}")
    asked = [s for s in systems if not words or s.name.lower().startswith(words)]
    return sorted(asked, key=lambda system: system.name != REFERENCE)


def build_planned(system: System, device: str, precision: str) -> VprModel:
    """Build a planned network, with its own values if the package has them, else random ones."""
    if system in BUILT_IN:
        return load_model(system.name, device=device, dtype=precision)
    chosen = choose_device(device)
    return build_random(system, chosen).to(choose_dtype(precision, chosen))


def candidate_ms(model: VprModel, descriptors: Descriptors, candidates: int) -> float:
    """Milliseconds to match one candidate: float16 on the CPU, as the map holds it."""
    local = descriptors.local_features
    if local is None:
        return 0.0
    query, matches = alike_features(candidates, *local.shape[1:])
    query, stored = query.to(model.device), list(matches.half())
    count = partial(count_mutual_matches, query, stored, model.match_similarity)
    return median_ms(lambda: count().cpu(), 5, BUDGET_S) / candidates


@torch.inference_mode()
def measure_cost(system: System, device: str, precision: str, candidates: int) -> Cost:
    """Build a network, measure it and forget it.

    Args:
        system: one of the systems of `plan`.
        device, precision: as in `load_model`.
        candidates: matched at once.

    Raises:
        AssertionError: its descriptor is not finite.
    """
    model = build_planned(system, device, precision)
    image = torch.randn(1, 3, *system.image_size).to(model.device, model.dtype)
    descriptors = model(image)
    if not descriptors.global_descriptor.isfinite().all():
        raise AssertionError(f'{system.name}: the descriptor is not finite in {precision}')
    return Cost(
        system, sum(parameter.numel() for parameter in model.parameters()),
        median_ms(partial(describe, model, image), budget_s=BUDGET_S),
        candidate_ms(model, descriptors, candidates), measure_footprint(model))
