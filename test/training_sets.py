"""Folders of small images, and recipes that train on them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from selavpr_ros.training.data import Rules
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.sources import Source

TINY = {'family': 'selavpr', 'width': 32, 'depth': 1, 'num_heads': 2, 'adapter_hidden': 8,
        'local_hidden': 8, 'local_dim': 8}


def picture(rng: np.random.Generator) -> np.ndarray:
    """(60, 80, 3) blobs that no other place has."""
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)


def write_walks(folder: Path, places: int = 12, visits: int = 2) -> Path:
    """Folders 'walk' and 'held_out': places 10 m apart, visited some times, with poses.csv."""
    for number, name in enumerate(('walk', 'held_out')):
        rng, root = np.random.default_rng(number), folder / name
        root.mkdir()
        pictures = [picture(rng) for _ in range(places)]
        rows = ['image,x_m,y_m,yaw_rad']
        for visit in range(visits):
            for place, seen in enumerate(pictures):
                file = f'{visit}_{place:03d}.png'
                noise = rng.normal(0, 8, seen.shape)
                cv2.imwrite(str(root / file), np.clip(seen + noise, 0, 255).astype(np.uint8))
                rows.append(f'{file},{10.0 * place},{0.5 * visit},0.0')
        (root / 'poses.csv').write_text('\n'.join(rows) + '\n')
    return folder


def tiny_recipe(**changes: Any) -> Recipe:
    """A network of a few thousand weights, trained on the folders of `write_walks`."""
    settings: dict[str, Any] = {
        'data': (Source('walk'),), 'held_out': (Source('held_out'),), 'architecture': TINY,
        'image_size': (56, 56), 'method': 'views', 'rules': Rules(positive_m=5, negative_m=15),
        'rounds': 2, 'batches': 2, 'batch': 2, 'learning_rate': 1e-3, 'points': 16,
        'patience': 0, 'schedule': 'cosine', 'clip': 1.0}
    return Recipe(**{**settings, **changes})
