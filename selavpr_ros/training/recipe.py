"""Everything that decides what a training gives, in one JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from selavpr_ros.training.data import Folder

# Wide and shallow: it learns faster from few images than a deep network of the same size.
ARCHITECTURE = {
    'width': 256,
    'depth': 6,
    'num_heads': 4,
    'adapter_hidden': 64,
    'local_hidden': 192,
    'local_dim': 128,
}


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one image size.

    Attributes:
        minutes: how long.
        side: of the square views, pixels.
        places: in a batch; every one gives two views.
        learning_rate: at its peak.
        imitation, local, global_: weights of the three losses.
    """

    minutes: float
    side: int
    places: int
    learning_rate: float
    imitation: float = 1.0
    local: float = 0.2
    global_: float = 0.2


@dataclass(frozen=True)
class Recipe:
    """Data, schedule and settings of one training.

    Attributes:
        folders: the training data.
        stages: one after the other.
        held_out: walks to measure the operating point on; not measured without any.
        architecture: arguments of `SelaVPR`.
        seed: of weights and data.
        points: pairs of local features a pair of views is judged by.
        near: distance, in [-1, 1] image coordinates, under which two points are the same.
        local_temperature, global_temperature: of the two contrastive losses.
        same_within, other_beyond: in frames, see `Places`.
        weight_decay: of AdamW.
    """

    folders: list[Folder]
    stages: list[Stage]
    held_out: list[Folder] = field(default_factory=list)
    architecture: dict[str, int] = field(default_factory=lambda: dict(ARCHITECTURE))
    seed: int = 0
    points: int = 384
    near: float = 0.08
    local_temperature: float = 0.07
    global_temperature: float = 0.07
    same_within: int = 1
    other_beyond: int = 8
    weight_decay: float = 0.05


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from JSON; what it does not name keeps its default."""
    content = json.loads(path.read_text())
    for name in ('folders', 'held_out'):
        content[name] = [Folder(**folder) for folder in content.get(name, [])]
    content['stages'] = [Stage(**stage) for stage in content['stages']]
    return Recipe(**content)
