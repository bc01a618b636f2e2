"""Places that need no files, and a network that sees nothing but colours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.training.data import Places, Rules, Walk

SIZE = (14, 14)


def plain(colour: Sequence[int]) -> np.ndarray:
    """(20, 30, 3) uint8 of one colour."""
    return np.full((20, 30, 3), colour, np.uint8)


def walk(
    length: int, kind: str = 'walk', group: str = 'a', poses: np.ndarray | None = None,
    colours: Sequence[Sequence[int]] | None = None,
) -> Walk:
    """Images of one colour each."""
    images = [partial(plain, colour) for colour in colours or [(0, 0, 0)] * length]
    return Walk(images, kind, group, poses)


def along(
    xs_m: Sequence[float], kind: str = 'walk', group: str = 'a',
    yaws_rad: Sequence[float] | None = None, colours: Sequence[Sequence[int]] | None = None,
) -> Walk:
    """A walk along a straight line."""
    poses = np.zeros((len(xs_m), 3))
    poses[:, 0] = xs_m
    if yaws_rad is not None:
        poses[:, 2] = yaws_rad
    return walk(len(xs_m), kind, group, poses, colours)


def make_places(*walks: Walk, size: tuple[int, int] = SIZE, **rules: float) -> Places:
    return Places(walks, Rules(**rules), size)  # type: ignore[arg-type]


class Colours(VprModel):
    """The mean colour as a unit vector, and the same two local features of it.

    Args:
        local: whether there are local features.
    """

    family = 'colours'
    image_size = SIZE

    def __init__(self, local: bool = True) -> None:
        super().__init__()
        self.local = local
        self.states: list[bool] = []  # whether it was in training at each call
        self.register_buffer('shift', torch.zeros(1))

    @property
    def max_local_features(self) -> int:
        return 2 if self.local else 0

    def forward(self, images: torch.Tensor) -> Descriptors:
        self.states.append(self.training)
        colours = denormalise(images).mean(dim=(2, 3)) - 127.5
        rows = torch.nn.functional.normalize(colours, dim=1)
        return Descriptors(rows, torch.stack([rows, -rows], dim=1) if self.local else None)
