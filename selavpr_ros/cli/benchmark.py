"""Measure model, matching, map search and node overhead on this machine, side by side.

Every line compares what this package does with a plain reference in the same run, so the ratios
hold on other machines too, where the milliseconds do not. Stop other programs before.

  vpr benchmark
  vpr benchmark --weights hog embedded SelaVPR_msls.pth --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

REPETITIONS = 15


class Row(NamedTuple):
    """One measurement: milliseconds, those of the reference (or None), and a remark."""

    what: str
    milliseconds: float
    reference: float | None = None
    remark: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('--weights', nargs='*', default=['hog', 'embedded'],
                        help='models to measure (default: hog embedded)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, auto (default: cpu)')
    parser.add_argument('--keyframes', type=int, default=10_000,
                        help='size of the map that is searched (default: 10000)')
    parser.add_argument('--candidates', type=int, default=20,
                        help='candidates that are matched at once (default: 20)')


def median_ms(function: Callable[[], Any], repetitions: int = REPETITIONS) -> float:
    """Median milliseconds of a call, after one that does not count."""
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _describe(model: Any, image: Any) -> Any:
    return model(image).global_descriptor.cpu()


def measure_models(weights: list[str], device: str) -> Iterator[Row]:
    """Forward pass of one image, the descriptors brought to the CPU."""
    import torch

    from selavpr_ros.models import load_model

    for name in weights:
        model = load_model(name, device=device)
        height, width = model.image_size
        image = torch.randn(1, 3, height, width, device=model.device)
        with torch.inference_mode():
            milliseconds = median_ms(partial(_describe, model, image))
        yield Row(f'forward, {name}', milliseconds, remark=f'{height}x{width}, {model.device}')


def plain_counts(query: Any, matches: Any) -> Any:
    """Mutual matches by the formula, all candidates at once: the reference for the tiles."""
    import torch

    similarities = torch.einsum('nd,kmd->knm', query, matches)
    nearest_match, nearest_query = similarities.argmax(2), similarities.argmax(1)
    back = nearest_query.gather(1, nearest_match)
    return (back == torch.arange(len(query), device=query.device)).sum(1)


def measure_matching(candidates: int, device: str) -> Row:
    """SelaVPR's 61 x 61 grid of 128 numbers; noisy copies of the query as candidates."""
    import torch
    from torch.nn import functional

    from selavpr_ros.matching import count_mutual_matches
    from selavpr_ros.models import choose_device

    generator = torch.Generator().manual_seed(0)
    query = functional.normalize(torch.randn(3721, 128, generator=generator), dim=-1)
    noise = torch.randn(candidates, 3721, 128, generator=generator)
    matches = functional.normalize(query + 0.25 * noise, dim=-1)
    query, matches = query.to(choose_device(device)), matches.to(choose_device(device))
    if not torch.equal(count_mutual_matches(query, matches), plain_counts(query, matches)):
        raise AssertionError('the tiles and the plain formula disagree')
    ours = median_ms(lambda: count_mutual_matches(query, matches).cpu(), 5) / candidates
    plain = median_ms(lambda: plain_counts(query, matches).cpu(), 5) / candidates
    return Row('matching a candidate', ours, plain, f'same counts, {candidates} at once')


def measure_search(keyframes: int) -> Row:
    """A query in a map of 1024 numbers a keyframe, against numpy over all of them."""
    import numpy as np

    from selavpr_ros.keyframe_map import Keyframe, KeyframeId, KeyframeMap

    rows = np.random.default_rng(0).standard_normal((keyframes, 1024)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    keyframe_map = KeyframeMap()
    for number, row in enumerate(rows, start=1):
        keyframe_map.add(Keyframe(KeyframeId(1, number), number, row, None, None, 0.0))
    query = rows[keyframes // 2]
    ours = median_ms(lambda: keyframe_map.search(query, 20, keyframes - 20), 51)
    plain = median_ms(lambda: np.argsort(-(rows @ query))[:20], 51)
    return Row('map search', ours, plain, f'{keyframes} keyframes of 1024 numbers')


def measure_node() -> Iterator[Row]:
    """From the receipt of an image message to its hand-over to the method."""
    try:
        from selavpr_ros.ros.overhead import measure_overhead_ms
    except ImportError as error:
        yield Row('node overhead', float('nan'), remark=f'not measured: {error}')
        return
    yield Row('node overhead', measure_overhead_ms(), remark='640x480 rgb8 over DDS, per image')


def measure_starts() -> Iterator[Row]:
    """Fresh interpreters, without the time that Python itself takes."""
    def started_ms(*command: str) -> float:
        return median_ms(lambda: subprocess.run(
            [sys.executable, *command], check=True, capture_output=True), 5)

    empty = started_ms('-c', 'pass')
    yield Row('import selavpr_ros', started_ms('-c', 'import selavpr_ros') - empty)
    yield Row('vpr --help', started_ms('-m', 'selavpr_ros.cli.main', '--help'))


def format_row(row: Row) -> str:
    """One line of the table."""
    reference = ratio = ''
    if row.reference is not None:
        reference = f'{row.reference:.2f}'
        ratio = f'{row.reference / row.milliseconds:.1f}x'
    return f'{row.what:<24}{row.milliseconds:>10.2f}{reference:>12}{ratio:>8}  {row.remark}'


def run(args: argparse.Namespace) -> None:
    """Print the table row by row."""
    print(f'{"":<24}{"ms":>10}{"plain ms":>12}{"ratio":>8}')
    rows = [
        lambda: measure_models(args.weights, args.device),
        lambda: [measure_matching(args.candidates, args.device)],
        lambda: [measure_search(args.keyframes)],
        measure_node,
        measure_starts,
    ]
    for measure in rows:
        for row in measure():
            print(format_row(row), flush=True)
