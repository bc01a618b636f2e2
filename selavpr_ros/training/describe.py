"""Descriptors of many images at once, as at recognition."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from selavpr_ros.models.base import VprModel

BATCH = 16


@torch.no_grad()
def describe(
    model: VprModel, images: Dataset[torch.Tensor], local: bool = False, workers: int = 0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Describe images with the network in evaluation mode, and restore its mode afterwards.

    Args:
        model: on any device.
        images: N images (3, H, W), normalised.
        local: whether to keep the local features, about a megabyte an image.
        workers: processes that read images; 0 reads them here.

    Returns:
        global descriptors (N, D) float32, and the local features (K, d) float16 of each image,
        an empty list if they are not wanted or there are none; all on the CPU.
    """
    was_training = model.training
    model.eval()
    rows, features = [], []
    loader = DataLoader(images, BATCH, num_workers=workers)
    for batch in tqdm(loader, desc='describing', unit='batch', leave=False):
        described = model(batch.to(model.device))
        rows.append(described.global_descriptor.float().cpu())
        if local and described.local_features is not None:
            # Rows of zeros only pad a batch.
            features += [one[one.any(dim=1)].half().cpu() for one in described.local_features]
    model.train(was_training)
    return torch.cat(rows), features
