"""DINOv2 backbones by the names that timm has for them, downloaded once."""

from __future__ import annotations

import sys
from pathlib import Path

from selavpr_ros.errors import CheckpointError

# timm's names of Meta's DINOv2. The giant one has another MLP, which none of the systems uses.
BACKBONES = tuple(
    f'vit_{size}_patch14_{registers}dinov2'
    for size in ('small', 'base', 'large') for registers in ('', 'reg4_'))


def hub_url(name: str) -> str:
    """Where Meta publishes the weights of a backbone.

    Raises:
        CheckpointError: the name, with or without 'timm/' and '.lvd142m', is not in `BACKBONES`.
    """
    plain = name.removeprefix('timm/').removesuffix('.lvd142m')
    if plain not in BACKBONES:
        raise CheckpointError(f"'{name}' is none of {', '.join(BACKBONES)}")
    _, size, _, *registers, _ = plain.split('_')
    model = f'dinov2_vit{size[0]}14'
    return (f'https://dl.fbaipublicfiles.com/dinov2/{model}/'
            f'{"_".join([model, *registers, "pretrain"])}.pth')


def fetch_backbone(name: str) -> Path:
    """Path of a backbone's file, downloaded to torch's cache unless it is there.

    Args:
        name: one of `BACKBONES`.

    Raises:
        CheckpointError: no such name, or the download failed; the message then says which file
            has to be put where.
    """
    import torch  # takes seconds, which the names alone do not need

    url = hub_url(name)
    path = Path(torch.hub.get_dir(), 'checkpoints', url.rpartition('/')[2])
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except OSError as error:
        raise CheckpointError(
            f"'{name}' cannot be downloaded ({error}): get {url} on a machine with internet and "
            f'put it at {path}, or give its path instead of the name') from error
    return path
