"""The training loop: mine, learn, validate, and resume after a kill as if there had been none."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from selavpr_ros.errors import CheckpointError
from selavpr_ros.files import appearing
from selavpr_ros.models.base import VprModel
from selavpr_ros.training.journal import Journal
from selavpr_ros.training.methods import Batches, Method
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.validation import Validate, score

CHECKPOINT_EVERY = 100  # optimizer steps


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of one of `steps` optimizer steps, counted from 0."""
    warm = min(1.0, (step + 1) / max(1, recipe.warm_up))
    progress, end = step / steps, recipe.final_rate
    shape = {
        'constant': 1.0,
        'linear': 1 - (1 - end) * progress,
        'cosine': end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2,
    }
    return recipe.learning_rate * warm * shape[recipe.schedule]


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices and AdamW for the rest; vectors do not decay.

    Source of Muon: Jordan et al., 2024; its steps are scaled to those of AdamW, so that one
    learning rate fits both. From scratch it needs a quarter fewer steps.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2]
    kernels = [p for p in trained if p.ndim > 2]
    vectors = [p for p in trained if p.ndim < 2]
    decayed = kernels if recipe.optimizer == 'muon' else matrices + kernels
    groups = [{'params': decayed, 'weight_decay': recipe.weight_decay},
              {'params': vectors, 'weight_decay': 0.0}]
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)
    if recipe.optimizer == 'adamw':
        return [adamw]
    muon = torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay,
                            adjust_lr_fn='match_rms_adamw')
    return [adamw, muon]


def processes() -> tuple[int, int]:
    """Number of this process and how many there are: more than one under `torchrun`."""
    return int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))


def mean_of_last(log: list[dict[str, float]], count: int) -> dict[str, float]:
    """Each figure but the step, averaged over the last entries, to three digits."""
    names = [name for name in log[-1] if name != 'step']
    return {name: round(float(np.mean([row[name] for row in log[-count:]])), 3) for name in names}


class Trainer:
    """One training: its state lies in `output/checkpoint.pt`, its log beside it.

    Every number that is drawn comes from the seed, the round and the batch alone, so that a
    resumed training draws the same ones.

    Args:
        method: the model with its losses, on the device to train on.
        recipe: schedule and settings.
        validate: measures recall; None measures nothing.
        output: an existing folder.
    """

    def __init__(
        self, method: Method, recipe: Recipe, validate: Validate | None, output: Path
    ) -> None:
        self.method, self.recipe, self.validate, self.output = method, recipe, validate, output
        self.optimizers = make_optimizers(method, recipe)
        self.scaler = torch.amp.GradScaler(
            method.model.device.type, enabled=recipe.precision == 'fp16')
        self.rank, self.world = processes()
        whole = recipe.accumulate * self.world
        self.batches_a_round = max(1, recipe.batches // whole) * whole
        self.round = self.batch = 0
        self.batches: Batches = []
        self.log: list[dict[str, float]] = []
        self.recalls: list[dict[str, float]] = []
        self.journal = Journal(output) if self.rank == 0 else None
        self.network: nn.Module = method
        if self.world > 1:
            self.network = DistributedDataParallel(method, find_unused_parameters=True)

    # ---- the state ------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.output / 'checkpoint.pt'

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.rank:
            return
        state = {
            'recipe': asdict(self.recipe), 'method': self.method.state_dict(),
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'scaler': self.scaler.state_dict(),
            'round': self.round, 'batch': self.batch, 'batches': self.batches,
            'log': self.log, 'recalls': self.recalls,
        }
        with appearing(self.checkpoint) as unfinished, unfinished.open('wb') as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            CheckpointError: it was made by another recipe, or cannot be read.
        """
        if not self.checkpoint.is_file():
            return
        try:
            state = torch.load(self.checkpoint, map_location='cpu', weights_only=True)
        except Exception as error:  # torch and pickle raise errors of all kinds on a broken file
            raise CheckpointError(f'{self.checkpoint} is damaged: delete it to begin anew, or '
                                  'choose another --output') from error
        if {**asdict(Recipe()), **state['recipe']} != asdict(self.recipe):
            raise CheckpointError(
                f'{self.checkpoint} belongs to another recipe: choose another --output')
        self.method.load_state_dict(state['method'])
        for optimizer, saved in zip(self.optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state['scaler'])
        for name in ('round', 'batch', 'batches', 'log', 'recalls'):
            setattr(self, name, state[name])

    # ---- the loop -------------------------------------------------------------------------------

    def _seed(self, *numbers: int) -> None:
        """Make all that is drawn next a function of the recipe's seed and these numbers."""
        state = np.random.SeedSequence([self.recipe.seed, *numbers]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def _draw(self) -> Batches:
        """The batches of this round, the same ones in all processes."""
        self._seed(self.round)
        drawn = [self.method.draw(self.batches_a_round) if self.rank == 0 else []]
        if self.world > 1:
            dist.broadcast_object_list(drawn)
        return drawn[0]

    def _images(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and indices of the batches of the round that are left to this process."""
        mine = self.batches[self.batch :][self.rank :: self.world]
        loader = DataLoader(
            self.method.places, batch_sampler=mine, num_workers=self.recipe.workers)
        for images, index in zip(loader, mine, strict=True):
            yield images, torch.tensor(index)

    def learn(self, images: torch.Tensor, index: torch.Tensor) -> dict[str, float]:
        """Add one batch's gradient; when enough batches have added theirs, move the weights."""
        self._seed(self.round, self.batch, self.rank)
        terms = self.network(images.to(self.method.model.device), index)
        total = torch.stack(list(terms.values())).sum() / self.recipe.accumulate
        self.scaler.scale(total).backward()
        self.batch += self.world
        if self.is_whole:
            self._move()
        return {name: term.item() for name, term in terms.items()}

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        batches = self.round * self.batches_a_round + self.batch
        return batches // (self.recipe.accumulate * self.world)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.recipe.rounds * self.batches_a_round // (self.recipe.accumulate * self.world)

    @property
    def is_whole(self) -> bool:
        """Whether all gradients have moved the weights, so that the state can be saved."""
        return self.batch // self.world % self.recipe.accumulate == 0

    def _move(self) -> None:
        rate = learning_rate(self.recipe, self.step - 1, self.steps)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
            for group in optimizer.param_groups:
                group['lr'] = rate
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()

    def run_round(self) -> None:
        """Mine batches, unless a checkpoint holds them already, and learn from all of them."""
        self.batches = self.batches or self._draw()
        with self._progress() as bar:
            for images, index in self._images():
                self._note({'step': self.step, **self.learn(images, index)})
                bar.set_postfix(mean_of_last(self.log, 20), refresh=False)
                bar.update(self.world)
                if self.is_whole and self.step % CHECKPOINT_EVERY == 0:
                    self.save()
        self.batches, self.batch, self.round = [], 0, self.round + 1

    def _note(self, terms: dict[str, float]) -> None:
        self.log.append(terms)
        if self.journal:
            self.journal.write('loss', terms)

    def _progress(self) -> tqdm[Any]:
        recall = ', '.join(f'{name} {value:.3f}' for name, value in self.recalls[-1].items()
                           if name != 'step') if self.recalls else ''
        return tqdm(
            total=self.batches_a_round, initial=self.batch, unit='batch', disable=self.rank > 0,
            desc=f'round {self.round + 1}/{self.recipe.rounds} {recall}')

    # ---- validation -----------------------------------------------------------------------------

    @property
    def best_weights(self) -> Path:
        """File of the weights with the best validation so far."""
        return self.output / 'best.pt'

    def judge(self) -> None:
        """Validate, and keep the weights if there were none better."""
        if self.validate is None or self.journal is None:
            return
        recall = {'step': self.step, **self.validate(self.method.model)}
        self.recalls.append(recall)
        self.journal.write('validation', recall)
        if self._best() == len(self.recalls) - 1:
            torch.save(self.method.model.state_dict(), self.best_weights)

    def _best(self) -> int:
        """Number of the best validation; of equal ones, the last."""
        scores = [score(recall) for recall in self.recalls]
        return max(range(len(scores)), key=lambda i: (scores[i], i))

    @property
    def best(self) -> dict[str, float]:
        """The recalls of the best validation; empty without any."""
        return self.recalls[self._best()] if self.recalls else {}

    def _goes_on(self) -> bool:
        """Whether to train another round; all processes get the same answer."""
        waited = len(self.recalls) - 1 - self._best() if self.recalls else 0
        impatient = 0 < self.recipe.patience <= waited
        answer = [self.round < self.recipe.rounds and not impatient]
        if self.world > 1:
            dist.broadcast_object_list(answer)
        return answer[0]

    def run(self) -> VprModel:
        """Train until the last round, or until `patience` rounds have brought nothing better.

        Returns:
            The network with the weights of its best validation, or the last ones without any
            validation.
        """
        self.resume()
        while self._goes_on():
            self.run_round()
            self.judge()
            self.save()
        model = self.method.model
        if self.recalls:
            model.load_state_dict(torch.load(self.best_weights, weights_only=True))
        return model.eval()
