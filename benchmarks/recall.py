"""recall@1 of a model on image folders, by global descriptor alone and re-ranked.

  python benchmarks/recall.py hog frames DATABASE QUERIES    image n of one is image n of the other
  python benchmarks/recall.py hog loop IMAGES LOOPS.csv      rows image_a,image_b: the same place
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch

from selavpr_ros.matching import count_mutual_matches, rank_by_matches
from selavpr_ros.models import VprModel, load_model
from selavpr_ros.preprocess import preprocess

FRAME_TOLERANCE = 2
EXCLUDED_NEWEST = 10
TOP_K = 20

Described = tuple[torch.Tensor, list[torch.Tensor]]


@torch.inference_mode()
def describe(model: VprModel, files: Sequence[Path]) -> Described:
    """Global descriptors (N, D) and local features of all images."""
    described = []
    for file in files:
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        described.append(model(preprocess(image, model.image_size, model.resize)[None]))
    local = [d.local_features[0] for d in described if d.local_features is not None]
    return torch.cat([d.global_descriptor for d in described]), local


def best_two_ways(
    model: VprModel, query: int, queries: Described, database: Described, count: int
) -> list[int]:
    """Best of the first `count` database images: by similarity, and re-ranked."""
    similarities = database[0][:count] @ queries[0][query]
    top = similarities.topk(min(TOP_K, count)).indices
    if not queries[1]:
        return [int(top[0])]
    counts = count_mutual_matches(
        queries[1][query], [database[1][i] for i in top], model.match_similarity)
    return [int(top[0]), int(top[rank_by_matches(counts)[0]])]


def report(
    name: str, queries: Sequence[int], best: Callable[[int], list[int]],
    is_true: Callable[[int, int], bool],
) -> None:
    """Print recall@1, of both ways where there are two."""
    found = [[is_true(query, match) for match in best(query)] for query in queries]
    shares = torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()
    ways = zip(('global', 're-ranked'), shares, strict=False)
    figures = ', '.join(f'{way} {share:.3f}' for way, share in ways)
    print(f'{name}: {figures} of {len(queries)} queries')


def measure_frames(model: VprModel, database_folder: Path, query_folder: Path) -> None:
    """Two drives along one way, image by image."""
    database = describe(model, sorted(database_folder.iterdir()))
    queries = describe(model, sorted(query_folder.iterdir()))
    count = len(database[0])
    report(model.model_id, range(len(queries[0])),
           lambda query: best_two_ways(model, query, queries, database, count),
           lambda query, match: abs(query - match) <= FRAME_TOLERANCE)


def measure_loop(model: VprModel, folder: Path, loops: Path) -> None:
    """One drive that comes back; images are numbered from 1."""
    with loops.open(encoding='utf-8') as file:
        pairs = {(int(row['image_a']) - 1, int(row['image_b']) - 1)
                 for row in csv.DictReader(file)}
    images = describe(model, sorted(folder.iterdir()))
    report(model.model_id, sorted({later for later, _ in pairs}),
           lambda query: best_two_ways(model, query, images, images, query - EXCLUDED_NEWEST),
           lambda query, match: (query, match) in pairs)


if __name__ == '__main__':
    if len(sys.argv) != 5 or sys.argv[2] not in ('frames', 'loop'):
        sys.exit(__doc__)
    measure = measure_frames if sys.argv[2] == 'frames' else measure_loop
    measure(load_model(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[4]))
