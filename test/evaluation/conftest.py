"""Images whose descriptors are known beforehand, and folders of images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.models.base import Descriptors, VprModel

LOCAL = 8  # local features of an image


class ToldModel(VprModel):
    """Red is the angle of the global descriptor in degrees; green the first of the eight local
    features, so that two images have 8 minus the difference of their greens in common.
    """

    family = name = 'told'
    image_size = (8, 8)
    match_similarity = 0.5

    def __init__(self, has_local: bool = True) -> None:
        super().__init__()
        self.register_buffer('device_and_type', torch.zeros(1))
        self.has_local = has_local
        self.described = 0

    @property
    def max_local_features(self) -> int:
        return LOCAL if self.has_local else 0

    def forward(self, images: torch.Tensor) -> Descriptors:
        self.described += len(images)
        red, green, blue = denormalise(images)[..., 0, 0].round().int().T.tolist()
        angle = torch.tensor([math.radians(degrees) for degrees in red])
        if blue[0] == 255:
            angle = angle * torch.nan
        one_hot = functional.one_hot(torch.arange(256)).float()
        local = torch.stack([one_hot[first: first + LOCAL] for first in green])
        return Descriptors(torch.stack([angle.cos(), angle.sin()], dim=1),
                           local if self.has_local else None)


def image_of(degrees: int, first: int = 0, blue: int = 0) -> np.ndarray:
    """(8, 8, 3) uint8 RGB that `ToldModel` takes for these descriptors."""
    return np.full((8, 8, 3), (degrees, first, blue), np.uint8)


@pytest.fixture
def told() -> type[ToldModel]:
    return ToldModel


@pytest.fixture
def told_image() -> Callable[..., np.ndarray]:
    return image_of
