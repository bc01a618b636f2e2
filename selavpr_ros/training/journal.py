"""Losses and recalls: for tensorboard while a training runs, as picture and tables afterwards."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selavpr_ros.errors import SettingError

Log = list[dict[str, float]]  # figures by name, one of them the 'step'
SMOOTH = 20  # steps averaged in a point of a curve and in a row of its table


class Journal:
    """Writes figures as they come: `tensorboard --logdir FOLDER` shows them.

    Args:
        folder: an existing folder for tensorboard's event files.

    Raises:
        SettingError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingError('the training log needs tensorboard, which is not installed: '
                               "pip install 'selavpr_ros[train]'") from error
        self._writer = SummaryWriter(str(folder))

    def write(self, group: str, figures: dict[str, float]) -> None:
        """Log figures by name; the figure named 'step' says at which step."""
        for name, value in figures.items():
            if name != 'step':
                self._writer.add_scalar(f'{group}/{name}', value, int(figures['step']))
        self._writer.flush()


def _names(log: Log) -> list[str]:
    return [name for name in log[0] if name != 'step'] if log else []


def _smooth(log: Log) -> Log:
    """The means of every `SMOOTH` successive entries."""
    parts = (log[at : at + SMOOTH] for at in range(0, len(log), SMOOTH))
    return [{name: float(np.mean([row[name] for row in part])) for name in log[0]}
            for part in parts]


def _draw(axes: Axes, log: Log, what: str) -> None:
    for name in _names(log):
        axes.plot([row['step'] for row in log], [row[name] for row in log], label=name)
    axes.set_xlabel('optimizer steps')
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    if log:
        axes.legend()


def _write_table(log: Log, file: Path) -> None:
    with file.open('w', newline='') as target:
        writer = csv.DictWriter(target, ['step', *_names(log)], lineterminator='\n')
        writer.writeheader()
        writer.writerows({name: f'{value:.5g}' for name, value in row.items()} for row in log)


def write_curves(losses: Log, recalls: Log, folder: Path) -> None:
    """Write `curves.png`, and its figures as `losses.csv` and `validation.csv`.

    Args:
        losses: the terms of the loss at every step; their means of 20 steps are written.
        recalls: the recalls of every validation; may be empty.
        folder: an existing one.
    """
    losses = _smooth(losses)
    figure = Figure(figsize=(11, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    _draw(left, losses, f'terms of the loss, means of {SMOOTH} steps')
    left.set_yscale('log')
    _draw(right, recalls, 'recall on the held-out places')
    right.set_ylim(0, 1.02)
    figure.savefig(folder / 'curves.png', dpi=100)
    _write_table(losses, folder / 'losses.csv')
    _write_table(recalls, folder / 'validation.csv')
