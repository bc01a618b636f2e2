"""Adapts a model to one site from its bags alone, and validates at places not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models import load_model
from selavpr_ros.models.families import family_of, trainable
from selavpr_ros.training.data import Places, Rules, Walk
from selavpr_ros.training.methods import METHODS
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.run import join_processes, write_weights
from selavpr_ros.training.sources import Source, find_walks
from selavpr_ros.training.start import start_model
from selavpr_ros.training.train import Trainer
from selavpr_ros.training.validation import Validation, score

VALIDATION_SHARE = 0.25  # of the places
CELL_POSITIVES = 3.0  # side of a cell of places, in radii of a positive
FEWEST = 8  # images that a part needs, or its figures mean nothing


def _held_out(poses: np.ndarray, side_m: float) -> np.ndarray:
    """Which of (N, 3) poses lie in cells for validation: every fourth in order of first visit."""
    cells = np.floor(poses[:, :2] / side_m)
    _, first, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    visited = np.argsort(np.argsort(first))[cell.ravel()]
    every = round(1 / VALIDATION_SHARE)
    return visited % every == every - 1


def _near(poses: np.ndarray, others: np.ndarray, radius_m: float) -> np.ndarray:
    """Which of (N, 3) poses have one of the others within a radius."""
    return np.array([
        (np.linalg.norm(others[:, :2] - pose[:2], axis=1) <= radius_m).any() for pose in poses])


def _part(walk: Walk, kept: np.ndarray) -> Walk:
    images = [image for image, keep in zip(walk.images, kept, strict=True) if keep]
    return Walk(images, walk.kind, walk.group, None if walk.poses is None else walk.poses[kept])


def split_by_place(walk: Walk, rules: Rules) -> tuple[Walk, Walk]:
    """Split a walk so that no place is both trained on and validated with.

    If positions are known, the ground is cut into cells, and every fourth cell is kept for
    validation with all its visits; images within a positive's radius of these are in neither
    part. Otherwise the last quarter of the walk is for validation.

    Returns:
        The part for training, and the one for validation.

    Raises:
        SettingError: a part would have fewer than `FEWEST` images.
    """
    count = len(walk.images)
    if walk.poses is None or np.isnan(walk.poses[:, :2]).any():
        held_out = np.arange(count) >= round((1 - VALIDATION_SHARE) * count)
        trained = ~held_out
    else:
        held_out = _held_out(walk.poses, CELL_POSITIVES * rules.positive_m)
        trained = ~held_out & ~_near(walk.poses, walk.poses[held_out], rules.positive_m)
    if min(trained.sum(), held_out.sum()) < FEWEST:
        raise SettingError(
            f'{walk.group}: its {count} images leave {trained.sum()} to train on and '
            f'{held_out.sum()} to validate with, at other places: a longer drive is needed, or a '
            f'smaller radius than {rules.positive_m:g} m')
    return _part(walk, trained), _part(walk, held_out)


def site_recipe(
    weights: str, positive_m: float = 10.0, negative_m: float = 25.0, **schedule: Any
) -> Recipe:
    """The recipe of an adaptation: the published losses of the model's family.

    Args:
        weights: the model to start from.
        positive_m, negative_m: see `Rules`.
        schedule: other settings of the recipe.

    Raises:
        SettingError: the model has nothing to adapt.
    """
    family = family_of(load_model(weights))
    if not family.method:
        raise SettingError(f"'{weights}' is {family.name}, which has no adapters or heads to "
                           f'train: take one of {", ".join(trainable())}')
    rules = Rules(positive_m, negative_m)
    return Recipe(weights=weights, method=family.method, rules=rules, **schedule)


@dataclass(frozen=True)
class Adaptation:
    """Result of an adaptation: recall on the validation places before and after, by name."""

    before: dict[str, float]
    after: dict[str, float]
    images: int
    validation_images: int

    @property
    def is_better(self) -> bool:
        """Whether the adapted model has the better score."""
        return score(self.after) > score(self.before)


def _refuse_worse(target: Path, validation: Validation, after: dict[str, float]) -> None:
    """Raise CheckpointError if the existing file is as good or better at the same places."""
    if not target.exists():
        return
    there = validation(load_model(target))
    if score(there) >= score(after):
        raise CheckpointError(
            f'{target} is as good or better (mean recall@1 {score(there):.3f}, the adapted model '
            f'{score(after):.3f}): not overwritten; choose another name to keep both')


def adapt(
    bags: Sequence[Source], recipe: Recipe, target: Path, work: Path, device: str = 'auto'
) -> Adaptation:
    """Adapt the adapters and heads of a model to bags, and write it if that made it better.

    Args:
        bags: the recordings.
        recipe: schedule and rules, with the weights to start from.
        target: the safetensors file to write.
        work: folder for checkpoint and log; a training that was stopped there is resumed.
        device: 'auto', 'cpu', 'cuda', ...

    Raises:
        CheckpointError: the existing file is as good or better, or cannot be replaced.
        SettingError: the bags are too small, or the model has nothing to adapt.
    """
    chosen = join_processes(device)
    work.mkdir(parents=True, exist_ok=True)
    model = start_model(recipe).to(chosen)
    walks = [walk for bag in bags for walk in find_walks(Path(), bag, work)]
    parts = [split_by_place(walk, recipe.rules) for walk in walks]
    training, held_out = (
        Places([part[i] for part in parts], recipe.rules, model.image_size, model.resize)
        for i in (0, 1))
    validation = Validation(held_out)
    before = validation(model)
    trainer = Trainer(
        METHODS[recipe.method](model, training, recipe).to(chosen), recipe, validation, work)
    trainer.run()
    after = trainer.best
    result = Adaptation(before, after, len(training), len(held_out))
    if result.is_better:
        _refuse_worse(target, validation, after)
        told = {'adapted_from': recipe.weights, 'before': before, 'after': after}
        write_weights(model, target, {'training': told}, half=False)
    return result
