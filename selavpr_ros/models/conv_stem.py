"""A patch embedding pretrained on a million images: the first stages of a small EfficientNet."""

from __future__ import annotations

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.models.backbone import patch_grid

NETWORK = 'tf_efficientnet_lite0'
FIRST = 2  # first stage whose maps are used; they have 28, 14, 14 and 7 cells a side at 224 pixels
CHANNELS = (40, 80, 112, 192)


def fuse(network: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it, in place; inference is unchanged."""
    for module in list(network.modules()):
        before, convolution = '', None
        for name, child in list(module.named_children()):
            if isinstance(child, BatchNormAct2d):
                assert convolution is not None
                setattr(module, before, fuse_conv_bn_eval(convolution.eval(), child.eval()))
                setattr(module, name, child.act)
            elif isinstance(child, nn.Conv2d):
                before, convolution = name, child
    return network


class Scale(nn.Module):
    """Centres and scales the channels of one stage's maps."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(channels, 1, 1))
        self.register_buffer('deviation', torch.ones(channels, 1, 1))

    def fit(self, maps: torch.Tensor) -> None:
        """Take mean and deviation from maps (B, C, h, w)."""
        self.mean.copy_(maps.mean(dim=(0, 2, 3))[:, None, None])
        # A constant channel must not cause a division by 0.
        self.deviation.copy_(maps.std(dim=(0, 2, 3))[:, None, None].clamp(min=1e-6))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return (maps - self.mean) / self.deviation


def unit(maps: torch.Tensor) -> torch.Tensor:
    """Scale the vector at each position of maps (B, C, h, w) to length 1."""
    return functional.normalize(maps.float(), dim=1).to(maps.dtype)


class ConvStem(nn.Module):
    """Patch tokens from the feature maps of a convolutional network: a hybrid transformer.

    A token is a projection of unit vectors side by side: those of the first stage used in the
    four quarters of the patch, and those of the later stages at its centre.
    Sources: Dosovitskiy et al., ICLR 2021, section 3.1; the network: Tan and Le, ICML 2019, as
    EfficientNet-Lite0, without its last stage.

    Args:
        width: length of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        network = fuse(timm.create_model(NETWORK))
        blocks = list(network.get_submodule('blocks').children())
        self.conv = network.get_submodule('conv_stem')
        self.activation = network.get_submodule('bn1')  # fusing has left only its activation
        self.early = nn.Sequential(*blocks[:FIRST])
        self.stages = nn.Sequential(*blocks[FIRST : FIRST + len(CHANNELS)])
        self.scales = nn.ModuleList(map(Scale, CHANNELS))
        self.proj = nn.Linear(self.detail_width + sum(CHANNELS[1:]), width)

    @property
    def detail_width(self) -> int:
        """How many numbers of a patch come from its quarters; these stand first."""
        return 4 * CHANNELS[0]

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Unscaled maps (B, C, h, w), one per stage, of normalised images (B, 3, H, W)."""
        pixels = denormalise(images) / 127.5 - 1
        x = self.conv(pixels.contiguous(memory_format=torch.channels_last))
        x = self.early(self.activation(x))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def scaled(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """The maps with mean 0 and deviation 1 in every channel."""
        return [scale(stage) for scale, stage in zip(self.scales, maps, strict=True)]

    def patches(self, maps: list[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Unit vectors from all maps, side by side, of a grid (h, w) of patches: (B, h, w, C)."""
        first, *others = self.scaled(maps)
        quarters = functional.interpolate(first, [2 * side for side in grid], mode='bilinear')
        seen = [functional.pixel_unshuffle(unit(quarters), 2)]
        seen += [unit(functional.interpolate(stage, grid, mode='bilinear')) for stage in others]
        return torch.cat(seen, dim=1).movedim(1, -1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, H/14, W/14, width) of images (B, 3, H, W), normalised."""
        return self.proj(self.patches(self.maps(images), patch_grid(images)))
