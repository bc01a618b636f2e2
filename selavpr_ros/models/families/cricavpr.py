"""CricaVPR (Lu et al., "Cross-image Correlation-aware Representation Learning", CVPR 2024)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.models.adapters import (
    PUBLISHED_NAMES,
    adapters_and_heads,
    add_multiconv_adapters,
)
from selavpr_ros.models.aggregation import GeM
from selavpr_ros.models.backbone import PATCH, Backbone, transformer_sizes
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.checkpoints import StateDict, sha256, side
from selavpr_ros.models.families import Family, System

# Where the published code cuts the map of patches, whatever its size; it was written for 16 x 16.
CUTS = ((0, 8, None), (0, 5, 11, None))
LAST_CUT = 11
REGIONS = 1 + 2 * 2 + 3 * 3
ENCODER_HEADS = 16


def regions(patches: torch.Tensor) -> list[torch.Tensor]:
    """Cut patches (B, n, n, D) into 2 x 2 and 3 x 3 regions, row by row."""
    cut = []
    for cuts in CUTS:
        bounds = list(zip(cuts[:-1], cuts[1:], strict=True))
        cut += [patches[:, top:bottom, left:right]
                for top, bottom in bounds for left, right in bounds]
    return cut


class Pca(nn.Module):
    """A fitted PCA projection without whitening: (B, D) -> (B, d).

    Args:
        mean: (D,), subtracted first.
        components: (d, D).
    """

    mean: torch.Tensor
    components: torch.Tensor

    def __init__(self, mean: torch.Tensor, components: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer('mean', mean)
        self.register_buffer('components', components)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        return (descriptors - self.mean.float()) @ self.components.float().T


class CricaVPR(VprModel):
    """DINOv2 with convolutions in its adapters, pooled over 14 regions.

    The published network lets the images of a batch attend to each other. A robot sees one image
    at a time, and a descriptor in a map must not depend on its neighbours in some batch, so here
    every image attends to itself alone unless `cross_image` is set.

    Args:
        width, depth, num_heads: of the transformer.
        adapter_hidden, branches: sizes of the adapters, see `MultiConvAdapter`; None takes the
            published proportions.
        encoder_layers, encoder_hidden: sizes of the cross-image encoder.
        pca_dim: length of the descriptor after a projection; 0 for none.

    Attributes:
        cross_image: let the images of a batch attend to each other, as in the paper's figures.
    """

    family = 'cricavpr'

    def __init__(
        self, width: int, depth: int, num_heads: int, adapter_hidden: int | None = None,
        branches: tuple[int, int, int] | None = None, encoder_layers: int = 2,
        encoder_hidden: int = 2048, pca_dim: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(width, depth, num_heads)
        hidden = width // 2 if adapter_hidden is None else adapter_hidden
        add_multiconv_adapters(
            self.backbone, hidden, branches or (hidden // 2, hidden // 16, hidden // 4))
        self.aggregation = GeM()
        layer = nn.TransformerEncoderLayer(
            width, ENCODER_HEADS, encoder_hidden, dropout=0.1, activation='gelu')
        self.encoder = nn.TransformerEncoder(layer, encoder_layers, enable_nested_tensor=False)
        dim = REGIONS * width
        self.pca = Pca(torch.zeros(dim), torch.zeros(pca_dim, dim)) if pca_dim else None
        self.cross_image = False

    def why_not(self, image_size: tuple[int, int]) -> str:
        height, width = image_size
        if height != width or height // PATCH <= LAST_CUT:
            return (f'cricavpr takes square images of at least {PATCH * (LAST_CUT + 1)} pixels, '
                    f'because it cuts them into regions; got {height}x{width}')
        return super().why_not(image_size)

    def forward(self, images: torch.Tensor, cross_image: bool | None = None) -> Descriptors:
        """Describe images (B, 3, n, n), normalised, n a multiple of 14.

        Args:
            images: each gets one descriptor.
            cross_image: overrides the attribute of this name; None keeps it.
        """
        self.check_size(images)
        cls, patches = self.backbone(images)
        pooled = [self.aggregation(region) for region in regions(patches)]
        vectors = torch.stack([cls.float(), *pooled], dim=1).to(cls.dtype)
        # The encoder reads (sequence, independent items, D).
        if self.cross_image if cross_image is None else cross_image:
            corrected = self.encoder(vectors)
        else:
            corrected = self.encoder(vectors.flatten(0, 1)[None]).view_as(vectors)
        descriptor = functional.normalize(corrected.flatten(1).float(), dim=1)
        if self.pca is not None:
            descriptor = functional.normalize(self.pca(descriptor), dim=1)
        return Descriptors(descriptor, None)

    def describe_together(self, images: torch.Tensor) -> Descriptors:
        """As published: the images of a batch correct each other."""
        described: Descriptors = self(images, cross_image=True)
        return described


def read_pca(path: Path) -> Pca:
    """Read a projection as scikit-learn fits it.

    Args:
        path: made by `numpy.savez(path, mean=pca.mean_, components=pca.components_)`, where
            `pca` is a `sklearn.decomposition.PCA` without whitening.

    Raises:
        CheckpointError: no such file, or other arrays in it, or NaN in them.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean = torch.from_numpy(arrays['mean'].astype(np.float32))
            components = torch.from_numpy(arrays['components'].astype(np.float32))
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
            BadZipFile) as error:
        # numpy advises to load what it does not know unsafely.
        reason = 'it holds no arrays' if isinstance(error, ValueError) else error
        raise CheckpointError(
            f'{path}: no PCA ({reason}); write it with '
            'numpy.savez(path, mean=pca.mean_, components=pca.components_)') from error
    if components.dim() != 2 or mean.shape != components.shape[1:]:
        raise CheckpointError(f'{path}: components {list(components.shape)} and mean '
                              f'{list(mean.shape)} do not belong together')
    if not (mean.isfinite().all() and components.isfinite().all()):
        raise CheckpointError(f'{path}: NaN or infinity in the PCA: fit it again')
    return Pca(mean, components)


def specialise(model: VprModel, cross_image: bool, pca: str | Path | None) -> None:
    """Set the options that only CricaVPR has.

    Raises:
        SettingError: the model is no CricaVPR, or the projection does not fit it.
        CheckpointError: see `read_pca`.
    """
    if not isinstance(model, CricaVPR):
        raise SettingError(f'cross_image and pca are for cricavpr, this is {model.family}')
    model.cross_image = cross_image
    if pca:
        if model.pca is not None:
            raise SettingError(f'{model.name} has a projection already, {pca} cannot be added')
        model.pca = read_pca(Path(pca))
        dim = REGIONS * model.backbone.embed_dim
        kept, wanted = model.pca.components.shape
        if wanted != dim:
            raise SettingError(f'{pca} projects {wanted} numbers, the descriptor has {dim}')
        model.name += f'+pca{kept}'
        model.fingerprint = hashlib.sha256(
            (model.fingerprint + sha256(Path(pca))).encode()).hexdigest()


def _sizes(state: StateDict) -> dict[str, Any]:
    adapter = 'backbone.blocks.0.adapter'
    layers = {key.split('.')[2] for key in state if key.startswith('encoder.layers.')}
    return {
        **transformer_sizes(state, 'backbone.'),
        'adapter_hidden': side(state, f'{adapter}.D_fc1.weight', 0),
        'branches': (side(state, f'{adapter}.branch1.conv.weight', 0),
                     side(state, f'{adapter}.branch2.0.conv.weight', 0),
                     side(state, f'{adapter}.branch2.1.conv.weight', 0)),
        'encoder_layers': len(layers) or 1,
        'encoder_hidden': side(state, 'encoder.layers.0.linear1.weight', 0),
        'pca_dim': side(state, 'pca.components', 0, 0),
    }


FAMILY = Family(
    CricaVPR,
    marker='.branch1.',
    names=(*PUBLISHED_NAMES, (r'\.mlp\.adapter\.', '.adapter.')),
    sizes=_sizes,
    trains=adapters_and_heads,
    method='multi_similarity',
)

SYSTEMS = (
    System(
        name='CricaVPR', family='cricavpr', files='CricaVPR.pth',
        source='https://github.com/Lu-Feng/CricaVPR/releases', code_licence='MIT',
        weights_licence='none stated', image_size=(224, 224), global_dim=10752,
        recall={'Pitts30k': '94.8 (batches of 16)'},
        note='the images of a batch correct each other in this figure; a robot has no batches.',
        sizes={'width': 768, 'depth': 12, 'num_heads': 12}),
)
