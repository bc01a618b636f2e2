"""What float16 and bfloat16 change against float32: descriptors, mutual matches, what is found.

  python benchmarks/precision.py hog IMAGES --limit 42
  python benchmarks/precision.py SelaVPR_msls.pth IMAGES --device cuda
  python benchmarks/precision.py --random SALAD IMAGES --limit 6      full size, random values

Every image of the folder is a query, all others are the map. In the line 'fp32', the map holds
local features in float16, as a keyframe does, and nothing else changes. In the other lines, the
network also computes in that precision.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from selavpr_ros.errors import SettingError, VprError
from selavpr_ros.evaluation.measure import build_planned, plan
from selavpr_ros.images.compressed import read_image
from selavpr_ros.images.preprocess import preprocess
from selavpr_ros.matching.mutual import count_mutual_matches, rank_by_matches
from selavpr_ros.models import VprModel, load_model
from selavpr_ros.recordings.image_folders import list_images
from selavpr_ros.text import line

PRECISIONS = ('fp16', 'bf16')
COLUMNS = ('computed in', 'ms', '1-cos median', '1-cos max', 'matches median', 'matches max',
           'best similar', 'best matched')


@dataclass(frozen=True)
class Described:
    """Descriptors of N images.

    Attributes:
        globals: (N, D) float32.
        local: N tensors (M, d) float32, or None.
        ms: median milliseconds of an image.
    """

    globals: torch.Tensor
    local: list[torch.Tensor] | None
    ms: float


@dataclass(frozen=True)
class Found:
    """Candidates of N queries.

    Attributes:
        top: (N, K) numbers of the candidates, the most similar one first.
        counts: (N, K) mutual matches with the candidates; None without local features.
    """

    top: torch.Tensor
    counts: torch.Tensor | None

    @property
    def best_matched(self) -> torch.Tensor:
        """(N,) the candidate with most matches."""
        ranks = [rank_by_matches(row)[0] for row in self.counts]
        return self.top.gather(1, torch.stack(ranks)[:, None])[:, 0]


def read_images(folder: Path, limit: int | None) -> list[Path]:
    """Images of a folder in the order of their names, `limit` of them evenly spaced."""
    files = list_images(folder)
    count = min(limit or len(files), len(files))
    if count < 2:
        raise SettingError(f'{folder}: needs 2 images or more, got {count}')
    return [files[number * len(files) // count] for number in range(count)]


def load(args: argparse.Namespace, precision: str) -> VprModel:
    """The network that was asked for."""
    if args.random:
        return build_planned(plan([args.random])[0], args.device, precision)
    return load_model(args.weights, device=args.device, dtype=precision)


@torch.inference_mode()
def describe(model: VprModel, files: Sequence[Path]) -> Described:
    """Describe images one by one, as a robot does."""
    descriptions, times = [], []
    for file in tqdm(files, desc=str(model.dtype), unit='image', leave=False):
        tensor = preprocess(read_image(file), model.image_size, model.resize)[None]
        start = time.perf_counter()
        descriptors = model(tensor.to(model.device, model.dtype))
        descriptions.append((descriptors.global_descriptor.cpu(), descriptors.local_features))
        times.append(time.perf_counter() - start)
    local = [rows[0] for _, rows in descriptions if rows is not None]
    return Described(torch.cat([row for row, _ in descriptions]), local or None,
                     torch.tensor(times).median().item() * 1e3)


def find(
    described: Described, top_k: int, match_similarity: float | None, stored: torch.dtype
) -> Found:
    """Search and match every image among all others, whose local features are kept as `stored`."""
    similarities = described.globals @ described.globals.T
    top = similarities.fill_diagonal_(-torch.inf).topk(min(top_k, len(similarities) - 1)).indices
    if described.local is None:
        return Found(top, None)
    kept = [rows.to(stored) for rows in described.local]
    counts = [
        count_mutual_matches(query, [kept[i] for i in row], match_similarity).cpu()
        for query, row in zip(tqdm(described.local, desc='matching', leave=False), top.tolist(),
                              strict=True)]
    return Found(top, torch.stack(counts))


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - cosine of rows, in float64: the differences are smaller than float32 can tell."""
    return (1 - torch.cosine_similarity(a.double(), b.double(), dim=-1)).clamp(min=0)


def count_changes(reference: Found, tested: Found) -> torch.Tensor:
    """(P,) relative changes of the counts of all pairs that both found."""
    same = reference.top[:, :, None] == tested.top[:, None, :]
    query, before, after = same.nonzero(as_tuple=True)
    was = reference.counts[query, before]
    return (tested.counts[query, after] - was).abs() / was.clamp(min=1)


def share(differs: torch.Tensor) -> str:
    """How many rows differ, as text: 'n of N'."""
    return f'{int(differs.sum())} of {len(differs)}'


def compare(
    reference: tuple[Described, Found], tested: tuple[Described, Found]
) -> tuple[str, ...]:
    """Cells of a line: all but the name of the precision."""
    (described, found), (other, other_found) = reference, tested
    apart = distances(described.globals, other.globals)
    best = share(found.top[:, 0] != other_found.top[:, 0])
    cells = (f'{other.ms:.0f}', f'{apart.median():.1e}', f'{apart.max():.1e}')
    if found.counts is None:
        return (*cells, '-', '-', best, '-')
    changes = count_changes(found, other_found)
    return (*cells, f'{changes.median():.2%}', f'{changes.max():.2%}', best,
            share(found.best_matched != other_found.best_matched))


def show(cells: Sequence[str]) -> None:
    """Print one line of the table."""
    print(line(cells, (12, *(13 for _ in cells[1:])), 1), flush=True)


def why_not(described: Described) -> str:
    """Why descriptors are useless; empty if they are not."""
    broken = ~described.globals.isfinite().all(dim=1)
    return f'not finite: {share(broken)} descriptors' if broken.any() else ''


def measure_row(
    args: argparse.Namespace, precision: str, files: Sequence[Path],
    reference: tuple[Described, Found],
) -> tuple[str, ...]:
    """Cells of the line of a precision, or its name and the reason why there are none."""
    try:
        model = load(args, precision)
        described = describe(model, files)
    except RuntimeError as error:
        return precision, f'cannot be computed here: {str(error).splitlines()[0]}'
    reason = why_not(described)
    if reason:
        return precision, reason
    found = find(described, args.candidates, model.match_similarity, torch.float16)
    return precision, *compare(reference, (described, found))


def measure(args: argparse.Namespace) -> None:
    """Print the table row by row; one network at a time is in memory."""
    files = read_images(args.images, args.limit)
    model = load(args, 'fp32')
    gate, described = model.match_similarity, describe(model, files)
    found = find(described, args.candidates, gate, torch.float32)
    nearest = distances(described.globals, described.globals[found.top[:, 0]]).median()
    values = 'random values' if args.random else 'own values'
    print(f'{model.name}, {values}, {len(files)} images, {model.device}; to the most similar '
          f'other image: 1-cos {nearest:.1e} in the median')
    del model
    show(COLUMNS)
    stored = find(described, args.candidates, gate, torch.float16)
    show(('fp32', *compare((described, found), (described, stored))))
    for precision in PRECISIONS:
        show(measure_row(args, precision, files, (described, found)))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('weights', nargs='?', help="as in `load_model`; not with '--random'")
    parser.add_argument('images', type=Path, help='folder')
    parser.add_argument('--random', metavar='SYSTEM', help='see `vpr benchmark --models`')
    parser.add_argument('--limit', type=int, help='so many images, evenly spaced')
    parser.add_argument('--candidates', type=int, default=20, help='per query (default: 20)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, auto (default: cpu)')
    args = parser.parse_args(arguments)
    if bool(args.random) == bool(args.weights):
        parser.error('either WEIGHTS or --random SYSTEM')
    return args


if __name__ == '__main__':
    try:
        measure(parse())
    except VprError as error:
        sys.exit(str(error))
