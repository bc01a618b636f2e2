"""From a recipe to a file of weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from selavpr_ros.models import choose_device
from selavpr_ros.models.base import VprModel
from selavpr_ros.models.checkpoints import METADATA
from selavpr_ros.models.convert import check_target, named_when_done, published_tensors
from selavpr_ros.models.families import heads_of
from selavpr_ros.training.data import Places
from selavpr_ros.training.journal import write_curves
from selavpr_ros.training.methods import METHODS
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.sources import Source, find_walks
from selavpr_ros.training.start import start_model
from selavpr_ros.training.train import Trainer, processes
from selavpr_ros.training.validation import Validation

VIEWS_LARGER = 1.25  # images are larger than the views cut from them, so that crops stay sharp


def load_places(
    sources: Iterable[Source], data: Path, cache: Path, recipe: Recipe, model: VprModel,
    larger: float = 1.0,
) -> Places:
    """Find all images of a recipe's entries, in the size that the model takes."""
    walks = [walk for source in sources for walk in find_walks(data, source, cache)]
    height, width = (round(side * larger) for side in model.image_size)
    return Places(walks, recipe.rules, (height, width), model.resize)


def write_weights(model: VprModel, target: Path, told: dict[str, Any], half: bool) -> None:
    """Write weights that `load_model` reads; the file is written as a whole or not at all.

    Args:
        model: the trained model.
        target: path of the file; an existing one is replaced.
        told: further metadata, e.g. how the model was trained; JSON values.
        half: store float16.

    Raises:
        CheckpointError: the file cannot be written.
    """
    check_target(target, overwrite=True)
    metadata = {
        'family': model.family, **heads_of(model),
        'image_size': model.image_size, 'resize': model.resize,
        'local_stride': model.local_stride, **told}
    tensors = published_tensors(model)
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    with named_when_done(target) as unnamed:
        save_file(tensors, unnamed, {METADATA: json.dumps(metadata)})


def join_processes(device: str) -> torch.device:
    """Join the other processes of `torchrun`, if any, and choose this one's device or GPU."""
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return choose_device(device)
    if device in ('auto', 'cuda') and torch.cuda.is_available():
        device = f'cuda:{os.environ["LOCAL_RANK"]}'
        torch.cuda.set_device(device)
    chosen = choose_device(device)
    if not dist.is_initialized():
        dist.init_process_group('nccl' if chosen.type == 'cuda' else 'gloo')
    return chosen


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the others wait until the first process has written its files, e.g. rendered towns."""
    rank, world = processes()
    if rank:
        dist.barrier()
    yield
    if world > 1 and rank == 0:
        dist.barrier()


def train(recipe: Recipe, data: Path, output: Path, device: str = 'auto') -> Trainer:
    """Train as a recipe says, or resume a training that was stopped in `output`.

    Args:
        recipe: what to do.
        data: folder that the recipe's paths start from.
        output: folder for checkpoint, log, curves and weights; made if it does not exist.
        device: 'auto', 'cpu', 'cuda', ...

    Returns:
        The trainer, whose model has the weights of its best validation.

    Raises:
        SettingError: the recipe does not fit the data.
        CheckpointError: weights cannot be read, or the folder holds another recipe's training.
    """
    chosen = join_processes(device)
    output.mkdir(parents=True, exist_ok=True)
    model = start_model(recipe).to(chosen)
    larger = VIEWS_LARGER if recipe.method == 'views' else 1.0
    with first_process_first():
        places = load_places(recipe.data, data, output, recipe, model, larger)
        held_out = load_places(recipe.held_out, data, output, recipe, model)
    method = METHODS[recipe.method](model, places, recipe).to(chosen)
    trainer = Trainer(method, recipe, Validation(held_out) if len(held_out) else None, output)
    trainer.run()
    if trainer.rank == 0:
        write_curves(trainer.log, trainer.recalls, output)
    return trainer


def description(trainer: Trainer, name: str) -> dict[str, Any]:
    """Metadata of a weights file about its training."""
    return {'training': {
        'name': name, 'images': len(trainer.method.places), 'steps': trainer.step,
        'seed': trainer.recipe.seed, 'recall': trainer.best}}
