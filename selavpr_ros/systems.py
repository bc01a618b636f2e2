"""The published systems: what a user wants to know of each, and its full size.

No code of the systems is here, so that a list of them does not wait seconds for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VIT_B = {'width': 768, 'depth': 12, 'num_heads': 12}
VIT_L = {'width': 1024, 'depth': 24, 'num_heads': 16}
SELAVPR = {**VIT_L, 'adapter_hidden': 512, 'local_hidden': 256, 'local_dim': 128}
TRANSPORT = {'hidden': 512, 'clusters': 64, 'cluster_dim': 128, 'token_dim': 256}
FOL = {**TRANSPORT, 'local_hidden': 256, 'local_dim': 128}


@dataclass(frozen=True)
class System:
    """One published checkpoint, or several of the same size.

    Attributes:
        name: as in the literature.
        family: as in `VprModel.family`.
        files: names of the files.
        source: page where they are obtained.
        code_licence, weights_licence: of the published code, and what is said of the weights.
        image_size: (H, W) in pixels of the published results.
        global_dim: length of the global descriptor.
        local: local features of an image, count x length; '' for none.
        recall: recall@1 in percent by data set, as published; 'a > b' is before and after
            re-ranking.
        sizes: arguments of the network.
    """

    name: str
    family: str
    files: str
    source: str
    code_licence: str
    weights_licence: str
    image_size: tuple[int, int]
    global_dim: int
    local: str
    recall: Mapping[str, str]
    sizes: Mapping[str, Any] = field(repr=False)


NONE_STATED = 'none stated'

SYSTEMS = (
    System(
        'SelaVPR', 'selavpr', 'SelaVPR_msls.pth, SelaVPR_pitts30k.pth',
        'https://github.com/Lu-Feng/SelaVPR', 'MIT', NONE_STATED, (224, 224), 1024, '3721 x 128',
        {'MSLS-val': '90.8', 'Pitts30k': '92.8', 'Nordland': '85.2'}, SELAVPR),
    System(
        'SelaVPR, registers', 'selavpr', 'SelaVPR_reg4_msls.pth',
        'https://github.com/Lu-Feng/SelaVPR', 'MIT', NONE_STATED, (224, 224), 1024, '3721 x 128',
        {}, {**SELAVPR, 'registers': 4}),
    System(
        'CricaVPR', 'cricavpr', 'CricaVPR.pth',
        'https://github.com/Lu-Feng/CricaVPR/releases', 'MIT', NONE_STATED, (224, 224), 10752, '',
        {'Pitts30k': '94.8 (batches of 16)'},
        {**VIT_B, 'adapter_hidden': 384, 'branches': (192, 24, 96), 'encoder_layers': 2,
         'encoder_hidden': 2048}),
    System(
        'SALAD', 'salad', 'dino_salad.ckpt', 'https://github.com/serizba/salad/releases',
        'GPL-3.0', NONE_STATED, (322, 322), 8448, '',
        {'MSLS-val': '92.2', 'Nordland': '76.0'}, {**VIT_B, **TRANSPORT}),
    System(
        'FoL, large', 'fol', 'FoL_large.pth', 'https://huggingface.co/shunpeng/FoL',
        'Apache-2.0', NONE_STATED, (504, 504), 8448, '3600 x 128',
        {'MSLS-val': '93.1 > 93.5', 'Pitts30k': '93.9 > 94.5', 'Nordland': '78.3 > 85.8'},
        {**VIT_L, **FOL}),
    System(
        'FoL, base', 'fol', 'FoL_base.pth', 'https://huggingface.co/shunpeng/FoL',
        'Apache-2.0', NONE_STATED, (322, 322), 8448, '3600 x 128',
        {'MSLS-val': '91.1 > 91.5', 'Pitts30k': '92.1 > 93.1'}, {**VIT_B, **FOL}),
    System(
        'DINOv2-GeM, large', 'dinov2_gem', 'dinov2_vitl14_pretrain.pth',
        'vit_large_patch14_dinov2', 'Apache-2.0', 'Apache-2.0', (224, 224), 1024, '', {}, VIT_L),
    System(
        'DINOv2-GeM, base', 'dinov2_gem', 'dinov2_vitb14_pretrain.pth',
        'vit_base_patch14_dinov2', 'Apache-2.0', 'Apache-2.0', (224, 224), 768, '', {}, VIT_B),
)

# What comes with the package; their figures on other data are in `weights/README.md`.
BUILT_IN = (
    System(
        'hog', 'hog', '', '', 'Apache-2.0', 'no weights', (240, 320), 384, '999 x 128', {}, {}),
    System(
        'embedded', 'selavpr', '', '', 'Apache-2.0', 'Apache-2.0', (224, 224), 320, '961 x 128',
        {}, {}),
)

# timm's names of Meta's DINOv2. The giant one has another MLP, which none of the systems uses.
BACKBONES = tuple(
    f'vit_{size}_patch14_{registers}dinov2'
    for size in ('small', 'base', 'large') for registers in ('', 'reg4_'))


def backbone_url(name: str) -> str:
    """Where Meta publishes the weights of one of `BACKBONES`."""
    _, size, _, *registers, _ = name.split('_')
    model = f'dinov2_vit{size[0]}14'
    return (f'https://dl.fbaipublicfiles.com/dinov2/{model}/'
            f'{"_".join([model, *registers, "pretrain"])}.pth')
