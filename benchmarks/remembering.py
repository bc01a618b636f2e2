"""A model for runs that show the same images again and again."""

from __future__ import annotations

from typing import Any

import torch

from selavpr_ros.models import VprModel
from selavpr_ros.models.base import Descriptors


class Remembering(torch.nn.Module):
    """A model that describes no image twice."""

    def __init__(self, model: VprModel) -> None:
        super().__init__()
        self._model = model
        self._known: dict[int, Descriptors] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('_model'), name)

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Descriptors of images, as the model gives them; local features in float16 precision."""
        key = hash(images.numpy().tobytes())
        if key not in self._known:
            found = self._model(images)
            local = found.local_features
            self._known[key] = Descriptors(
                found.global_descriptor, None if local is None else local.half())
        found = self._known[key]
        local = found.local_features
        return Descriptors(found.global_descriptor, None if local is None else local.float())
