"""Train a small SelaVPR from scratch: one loop, from image folders to a safetensors file."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from selavpr_ros.models.base import Descriptors
from selavpr_ros.models.selavpr import SelaVPR
from selavpr_ros.preprocess import normalise
from selavpr_ros.training.data import Folder, Places, find_walks, read_images
from selavpr_ros.training.initial import initialise
from selavpr_ros.training.losses import (
    global_contrast_loss,
    imitation_loss,
    local_contrast_loss,
)
from selavpr_ros.training.operating_point import measure_operating_point
from selavpr_ros.training.recipe import Recipe, Stage, load_recipe
from selavpr_ros.training.targets import hog_targets
from selavpr_ros.training.views import Views, draw_views, transform

CHECKPOINT_EVERY = 200  # steps


def corresponding_features(
    descriptors: Descriptors, views: Views, recipe: Recipe, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sample local features of the first views and their counterparts in the second ones.

    Returns:
        query and match (M, d), unit rows, and which pairs may not count as different (M, M):
        spots close to each other, and images that may show one place.
    """
    assert descriptors.local_features is not None
    count, side = len(views.one_image), views.seen.shape[-1]
    maps = descriptors.local_features.mT.unflatten(2, (4 * (side // 14) - 3,) * 2)
    inside = 1 - 14 / side  # the grid of features ends half a patch inside of the image
    points = 2 * torch.rand(count, recipe.points, 2, generator=generator) - 1
    points = points * inside
    first, second = views.homographies.chunk(2)
    images = transform(torch.linalg.inv(second), transform(first, points))

    def sample(features: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        sampled = functional.grid_sample(features, at[:, None] / inside, align_corners=True)
        return functional.normalize(sampled[:, :, 0].mT, dim=-1)

    usable = (images.abs().amax(dim=-1) < inside) & views.one_image[:, None]
    number = torch.arange(count)[:, None].expand_as(usable)[usable]
    spot = images[usable]
    same_image = number[:, None] == number
    near = torch.cdist(spot, spot) < recipe.near
    alike = torch.where(same_image, near, ~views.negative[number][:, number])
    return sample(maps[:count], points)[usable], sample(maps[count:], images)[usable], alike


def losses(
    model: SelaVPR, views: Views, stage: Stage, recipe: Recipe, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """All loss terms of a batch, unweighted."""
    descriptors = model(normalise(views.seen))
    query, match = descriptors.global_descriptor.chunk(2)
    sampled = corresponding_features(descriptors, views, recipe, generator)
    return {
        'imitation': imitation_loss(descriptors.local_features, hog_targets(views.clean)),
        'local': local_contrast_loss(*sampled, recipe.local_temperature),
        'global_': global_contrast_loss(query, match, views.negative, recipe.global_temperature),
    }


def learning_rate(stage: Stage, progress: float) -> float:
    """Warm up over the first 3 % of a stage, then follow a cosine to 2 % of the peak."""
    warm = min(1.0, progress / 0.03)
    return stage.learning_rate * warm * (0.51 + 0.49 * math.cos(math.pi * min(progress, 1.0)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] > 1]
    others = [p for p in model.parameters() if p.ndim <= 1 or p.shape[0] <= 1]
    groups = [
        {'params': matrices, 'weight_decay': recipe.weight_decay},
        {'params': others, 'weight_decay': 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def mean_of_last(log: list[dict[str, float]], count: int) -> dict[str, float]:
    """Average each loss over the last steps, to three digits."""
    recent = log[-count:]
    return {name: round(float(np.mean([row[name] for row in recent])), 3) for name in recent[-1]}


@dataclass
class Progress:
    """Where the training stands: all that a checkpoint holds besides the tensors."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0


class Trainer:
    """Model, optimizer and data of one training, with the checkpoint that resumes it."""

    def __init__(self, recipe: Recipe, places: Places, output: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.places, self.output = recipe, places, output
        self.model = SelaVPR(**recipe.architecture)
        initialise(self.model)
        self.optimizer = make_optimizer(self.model, recipe)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.progress = Progress()
        self.log: list[dict[str, float]] = []

    @property
    def checkpoint(self) -> Path:
        return self.output / 'checkpoint.pt'

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            'model': self.model.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
            'progress': asdict(self.progress),
            'log': self.log,
        }
        unfinished = self.checkpoint.with_suffix('.tmp')
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state['model'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.generator.set_state(state['generator'])
        self.progress = Progress(**state['progress'])
        self.log = state['log']

    def step(self, index: torch.Tensor, stage: Stage) -> dict[str, float]:
        """Learn from one batch."""
        views = draw_views(self.places, index, stage.side, self.generator)
        terms = losses(self.model, views, stage, self.recipe, self.generator)
        total = sum((getattr(stage, name) * term for name, term in terms.items()),
                    start=torch.zeros(()))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(stage, self.progress.seconds / (60 * stage.minutes))
        self.optimizer.step()
        return {name: term.item() for name, term in terms.items()}

    def run_stage(self, stage: Stage) -> None:
        """Train until the stage's minutes are over."""
        batches = self.places.batches(stage.places, self.generator)
        total = 60 * stage.minutes
        with tqdm(total=round(total), unit='s', desc=f'{stage.side} px') as bar:
            while self.progress.seconds < total:
                start = time.monotonic()
                self.log.append(self.step(next(batches), stage))
                self.progress.step += 1
                self.progress.seconds += time.monotonic() - start
                bar.n = round(self.progress.seconds)
                bar.set_postfix(mean_of_last(self.log, 20), refresh=False)
                bar.update(0)
                if self.progress.step % CHECKPOINT_EVERY == 0:
                    self.save()

    def run(self) -> None:
        """Train all stages that are not done yet."""
        self.resume()
        while self.progress.stage < len(self.recipe.stages):
            self.run_stage(self.recipe.stages[self.progress.stage])
            self.progress = Progress(self.progress.stage + 1, self.progress.step)
            self.save()


def export(model: SelaVPR, path: Path, description: dict[str, Any]) -> None:
    """Write the weights in float16, with what `load_model` has to know and a description."""
    metadata = {
        'family': 'selavpr',
        'num_heads': model.backbone.blocks[0].attn.wrapped.num_heads,
        'image_size': [224, 224],
        'resize': 'area',
        **description,
    }
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {'selavpr_ros': json.dumps(metadata)})


def load_places(recipe: Recipe, folders: list[Folder], data: Path, cache: Path) -> Places:
    """Find and decode the images of folders, or take them from the cache of an earlier run."""
    walks = [walk for folder in folders for walk in find_walks(data, folder)]
    files = [file for walk in walks for file in walk.files]
    if not cache.is_file():
        np.save(cache, read_images(files))
    return Places(walks, np.load(cache), recipe.same_within, recipe.other_beyond)


def summary(trainer: Trainer) -> dict[str, Any]:
    """What the weights file tells about its making."""
    return {
        'images': len(trainer.places),
        'steps': trainer.progress.step,
        'minutes': sum(stage.minutes for stage in trainer.recipe.stages),
        'losses': mean_of_last(trainer.log, 50),
        'seed': trainer.recipe.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', type=Path, required=True, help='the recipe, JSON')
    parser.add_argument('--data', type=Path, required=True, help="where the recipe's folders are")
    parser.add_argument('--output', type=Path, required=True, help='checkpoint, log and weights')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    recipe, output = load_recipe(arguments.config), arguments.output
    places = load_places(recipe, recipe.folders, arguments.data, output / 'images.npy')
    trainer = Trainer(recipe, places, output)
    trainer.run()
    (output / 'log.json').write_text(json.dumps(trainer.log))
    name = arguments.config.stem
    description: dict[str, Any] = {'name': name, 'training': summary(trainer)}
    if recipe.held_out:
        held_out = load_places(recipe, recipe.held_out, arguments.data, output / 'held_out.npy')
        point = measure_operating_point(trainer.model.eval(), held_out)
        description['operating_point'] = asdict(point)
    export(trainer.model, output / f'{name}.safetensors', description)


if __name__ == '__main__':
    main()
