"""Where to set the gates of a trained model: measured on walks that it was not trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from selavpr_ros.matching import count_mutual_matches
from selavpr_ros.models.base import Descriptors, OperatingPoint, VprModel
from selavpr_ros.preprocess import normalise
from selavpr_ros.training.data import Places

BATCH = 16
SAME_LOST = 0.05  # share of neighbouring frames that may fall below the similarity
OTHER_PASSED = 0.01  # share of other places' most similar images that may pass by their matches


@torch.no_grad()
def describe(model: VprModel, places: Places) -> Descriptors:
    """Describe all images; local features in float16, as they are many."""
    batches = []
    for index in tqdm(torch.arange(len(places)).split(BATCH), desc='describing', unit='batch'):
        images = functional.interpolate(
            places.pixels(index), size=model.image_size, mode='bilinear', antialias=True)
        batches.append(model(normalise(images)))
    return Descriptors(
        torch.cat([batch.global_descriptor for batch in batches]),
        torch.cat([batch.local_features.half() for batch in batches
                   if batch.local_features is not None]),
    )


def compare(descriptors: Descriptors, places: Places, query: int) -> np.ndarray | None:
    """Compare an image with its neighbour, and with the most similar image of another place.

    Returns:
        [[similarity, local score], ...] of the two, or None for an image without neighbour.
    """
    assert descriptors.local_features is not None
    similarities = descriptors.global_descriptor @ descriptors.global_descriptor[query]
    neighbour = query + 1
    if neighbour == len(places) or places.walk[neighbour] != places.walk[query]:
        return None
    different = places.different(torch.tensor([query]), torch.arange(len(places)))[0]
    other = int(similarities.masked_fill(~different, -torch.inf).argmax())
    local = descriptors.local_features
    counts = count_mutual_matches(local[query].float(), local[[neighbour, other]].float())
    return np.stack([similarities[[neighbour, other]].numpy(), counts / len(local[query])], 1)


def measure_operating_point(
    model: VprModel, places: Places, queries: int = 120, seed: int = 0
) -> OperatingPoint:
    """Set the gates so that neighbours pass and the most similar other places do not.

    Args:
        model: with local features.
        places: walks that were not trained on.
        queries: how many images to compare, drawn with `seed`.
        seed: of the draw.
    """
    descriptors = describe(model, places)
    chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    pairs = [compare(descriptors, places, int(query))
             for query in tqdm(chosen[:queries], desc='matching', unit='image')]
    compared = np.stack([pair for pair in pairs if pair is not None])
    return OperatingPoint(
        min_similarity=round(float(np.quantile(compared[:, 0, 0], SAME_LOST)), 3),
        min_local_score=round(float(np.quantile(compared[:, 1, 1], 1 - OTHER_PASSED)), 3),
        provenance=(
            f'{len(compared)} images of held-out walks: {1 - SAME_LOST:.0%} of the next frames '
            f'lie above the similarity, {1 - OTHER_PASSED:.0%} of the most similar images of '
            'other places below the local score'
        ),
    )
