"""What a small network is taught with: features of a convolutional network that knows ImageNet.

A transformer that starts from noise learns little about places from a few thousand images. A
network that has seen a million finds the same features in a dark and in a bright picture; its
feature maps give every patch of every training image a target of its own, which is far more than
one label an image.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import nn
from torch.nn import functional

from selavpr_ros.errors import SettingError
from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import PATCH
from selavpr_ros.models.checkpoints import read_checkpoint
from selavpr_ros.preprocess import denormalise

# Which stages are imitated, at 224 pixels: by the local features those with 28x28 and 14x14 cells,
# by the patch tokens those with 14x14, 14x14 and 7x7.
LOCAL_STAGES = (2, 3)
TOKEN_STAGES = (3, 4, 5)
ROWS = 50_000  # that a projection is fitted to


def find_weights(weights: str) -> Path:
    """The file that a package of weights installs, or a path.

    Raises:
        SettingError: there is neither such a package, with weights in it, nor such a file.
    """
    if weights.isidentifier():
        try:
            package = Path(str(importlib.import_module(weights).__file__)).parent
        except ImportError as error:
            raise SettingError(f'the teacher needs its weights: pip install {weights}') from error
        files = sorted(package.rglob('*.pth'))
        if not files:
            raise SettingError(f"the package {weights} in {package} has no teacher's weights")
        return files[0]
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SettingError(f"the teacher's weights {path} are not there")
    return path


def load_network(name: str, weights: str) -> EfficientNet:
    """One of timm's EfficientNets, frozen; with weights of `find_weights`, or timm's own ('').

    The tensors of other ports of the same network have other names, but the same order.

    Raises:
        SettingError: the weights are not there, or the network is another one.
        CheckpointError: the file holds no weights.
    """
    if not timm.is_model(name) or 'efficientnet' not in name:
        raise SettingError(f"teacher '{name}' is none of timm's EfficientNets, such as "
                           'tf_efficientnet_lite0')
    try:
        network = timm.create_model(name, pretrained=not weights)
    except OSError as error:
        raise SettingError(f"timm's weights of {name} cannot be downloaded ({error}): name a file "
                           'or a package as teacher_weights') from error
    if weights:
        given = list(read_checkpoint(find_weights(weights))[0].values())
        state = network.state_dict()
        if [t.shape for t in given] != [t.shape for t in state.values()]:
            raise SettingError(f'teacher_weights {weights} are of another network than {name}')
        network.load_state_dict(dict(zip(state, given, strict=True)))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _grid(side: int, edge: float) -> torch.Tensor:
    """Sampling positions (1, side, side, 2) in [-1, 1] from -edge to edge."""
    ticks = torch.linspace(-edge, edge, side)
    return torch.stack(torch.meshgrid(ticks, ticks, indexing='xy'), dim=-1)[None]


class Projection(nn.Module):
    """Centres rows and keeps their principal components; fitted once."""

    mean: torch.Tensor
    components: torch.Tensor

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('components', torch.eye(width, dim))

    def fit(self, rows: torch.Tensor) -> None:
        """Take mean and components from rows (M, width)."""
        self.mean = rows.mean(dim=0)
        _, _, directions = torch.linalg.svd(rows - self.mean, full_matrices=False)
        self.components[:, : len(directions)] = directions[: self.components.shape[1]].mT

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows - self.mean) @ self.components


class Scale(nn.Module):
    """Centres and scales the channels of one stage's maps."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(1, channels, 1, 1))
        self.register_buffer('deviation', torch.ones(1, channels, 1, 1))

    def fit(self, maps: torch.Tensor) -> None:
        """Take mean and deviation from maps (B, C, h, w)."""
        self.mean = maps.mean(dim=(0, 2, 3), keepdim=True)
        # A channel that never changes says nothing, and must not divide by 0.
        self.deviation = maps.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-6)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return (maps - self.mean) / self.deviation


class Teacher(nn.Module):
    """Targets for the patch tokens and the local features of a SelaVPR.

    Args:
        name, weights: see `load_network`.
        width: of the patch tokens, even.
        local_dim: of the local features.
    """

    def __init__(self, name: str, weights: str, width: int, local_dim: int) -> None:
        super().__init__()
        network = load_network(name, weights)
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.stages = network.blocks[: max(TOKEN_STAGES) + 1]
        with torch.no_grad():
            channels = [maps.shape[1] for maps in self._stages(torch.zeros(1, 3, 64, 64))]
        self.scales = nn.ModuleList(Scale(count) for count in channels)
        self.tokens = Projection(sum(channels[i] for i in TOKEN_STAGES), width // 2)
        self.local = Projection(sum(channels[i] for i in LOCAL_STAGES), local_dim)
        self.pool = GeM().requires_grad_(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay as it is: the targets of an image must not depend on the batch."""
        return super().train(False)

    def _stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps (B, C, h, w) after each stage up to the last one used; images in [-1, 1]."""
        x = self.stem(images)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x.contiguous())
        return outputs

    def _see(self, images: torch.Tensor) -> list[torch.Tensor]:
        pixels = denormalise(images) / 127.5 - 1
        return self._stages(pixels.contiguous(memory_format=torch.channels_last))

    def _rows(
        self, maps: list[torch.Tensor], stages: tuple[int, ...], grid: torch.Tensor
    ) -> torch.Tensor:
        """Unit vectors of the stages at the grid's positions, side by side: (B, h, w, C)."""
        grid = grid.to(maps[0]).expand(len(maps[0]), -1, -1, -1)
        sampled = [
            functional.grid_sample(
                self.scales[i](maps[i]), grid, padding_mode='border', align_corners=False)
            for i in stages
        ]
        return torch.cat([functional.normalize(s, dim=1) for s in sampled], 1).movedim(1, -1)

    def _grids(self, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Centres of the patches, and of the up-convolved grid between them."""
        patches = side // PATCH
        edge = 1 - PATCH / side
        return _grid(patches, edge), _grid(4 * patches - 3, edge)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Learn scales and principal components from images (B, 3, S, S), normalised."""
        batches = [self._see(batch) for batch in images.split(16)]
        maps = [torch.cat(stage) for stage in zip(*batches, strict=True)]
        for scale, stage in zip(self.scales, maps, strict=True):
            assert isinstance(scale, Scale)
            scale.fit(stage)
        jobs = zip((self.tokens, self.local), (TOKEN_STAGES, LOCAL_STAGES),
                   self._grids(images.shape[-1]), strict=True)
        for projection, stages, grid in jobs:
            rows = self._rows(maps, stages, grid).flatten(0, 2)
            projection.fit(rows[torch.randperm(len(rows))[:ROWS]])

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Describe images (B, 3, S, S), normalised.

        Returns:
            patch tokens (B, S/14, S/14, width), global descriptors (B, width), and local features
            (B, N, local_dim), all unit rows. Tokens have no negative values, because GeM counts
            these as nothing: a component and its opposite have a channel each.
        """
        maps = self._see(images)
        token_grid, local_grid = self._grids(images.shape[-1])
        components = self.tokens(self._rows(maps, TOKEN_STAGES, token_grid))
        tokens = torch.cat([components.relu(), (-components).relu()], dim=-1)
        tokens = functional.normalize(tokens, dim=-1)
        local = self.local(self._rows(maps, LOCAL_STAGES, local_grid)).flatten(1, 2)
        descriptor = functional.normalize(self.pool(tokens), dim=-1)
        return tokens, descriptor, functional.normalize(local, dim=-1)
