"""Losses and recalls where tensorboard finds them: `tensorboard --logdir OUTPUT`."""

from __future__ import annotations

from pathlib import Path

from selavpr_ros.errors import SettingError


class Journal:
    """Writes figures as they come.

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
                               'pip install tensorboard') from error
        self._writer = SummaryWriter(str(folder))

    def write(self, group: str, figures: dict[str, float]) -> None:
        """Log figures by name, at the one of the name 'step'."""
        for name, value in figures.items():
            if name != 'step':
                self._writer.add_scalar(f'{group}/{name}', value, int(figures['step']))
        self._writer.flush()
