"""What the tests of several systems check alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from selavpr_ros.images.preprocess import normalise
from selavpr_ros.models import load_model
from selavpr_ros.models.base import Descriptors, VprModel

GLOBAL_ATOL, LOCAL_ATOL = 2e-6, 1e-5
# A tensor counts as inert when nothing moves by more. Measured: what is inert moves a descriptor
# by less than 1e-7 (rounding), what is not by more than 2e-5.
MOVED = 2e-6


def assert_close(found: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    """The same shape and, within an absolute tolerance, the same numbers."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


class Golden:
    """One file of reference outputs, and the model loaded from its weights as published.

    Attributes:
        path: published container of the weights, 4 heads.
        outputs: by case, what the published code gives.
        model: in float32 on the CPU.
    """

    def __init__(self, golden: Path, path: Path) -> None:
        content: dict[str, Any] = torch.load(golden, weights_only=False)
        self.path, self.outputs, self._pixels = path, content['outputs'], content['input_u8']
        state = {f'module.{key}': tensor for key, tensor in content['state_dict'].items()}
        torch.save({'epoch_num': 1, 'model_state_dict': state}, path)
        self.model = load_model(path, num_heads=4)

    def images(self, case: str) -> torch.Tensor:
        """The normalised images of a case."""
        return normalise(self._pixels[case].float())


def _moved(before: Descriptors, after: Descriptors) -> bool:
    pairs = ((before.global_descriptor, after.global_descriptor),
             (before.local_features, after.local_features))
    return any(
        one.shape != other.shape or float((one - other).abs().max()) > MOVED
        for one, other in pairs if one is not None)


def inert_tensors(model: VprModel, images: torch.Tensor) -> list[str]:
    """Names of the parameters and float buffers that may change without any effect."""
    torch.manual_seed(0)
    before, inert = model(images), []
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        kept = tensor.clone()
        tensor.add_(0.3 * torch.rand_like(tensor))
        if not _moved(before, model(images)):
            inert.append(name)
        tensor.copy_(kept)
    return inert


def full_size(listing: Path) -> dict[str, torch.Tensor]:
    """Tensors without values from a listing of `key [shape] type` lines."""
    lines = re.findall(r'^(\S+) \[(.*)\] (\w+)$', listing.read_text(), re.MULTILINE)
    return {key: torch.empty([int(side) for side in shape.split(',') if side.strip()],
                             dtype=getattr(torch, kind), device='meta')
            for key, shape, kind in lines}


def pictures(count: int, height: int = 112, width: int = 112, seed: int = 0) -> torch.Tensor:
    """(count, 3, height, width) normalised: six by six soft spots of colour."""
    torch.manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6) * 255
    return normalise(torch.nn.functional.interpolate(coarse, (height, width), mode='bicubic'))


def assert_positions_are_true(model: VprModel) -> None:
    """What changes at one spot of an image changes the features around it, as shares of a side."""
    height, width = model.image_size
    grey = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    known = model.local_positions()
    assert known is not None
    positions = torch.from_numpy(known)
    with torch.inference_mode():
        before = model(grey).local_features[0]
        assert positions.shape == (len(before), 2)
        for x, y in ((0.3, 0.4), (0.7, 0.25), (0.5, 0.8)):
            spot = grey.clone()
            row, column = int(y * height), int(x * width)
            spot[..., row - 4:row + 4, column - 4:column + 4] += 2.0
            change = (model(spot).local_features[0] - before).norm(dim=1)
            nearest = positions[change.topk(12).indices].mean(0)
            assert (nearest - torch.tensor([x, y])).abs().max() < 0.05
