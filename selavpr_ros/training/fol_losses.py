"""The losses of FoL besides the multi-similarity of its global descriptors.

Source: FoL (Wang et al., "Focus on Local: Finding Reliable Discriminative Regions for VPR",
AAAI 2025). Names follow it: alignment (SAL), contrast (CEL), pseudo-correspondences. All losses
expect float32: leave autocast before calling them.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from selavpr_ros.models.families.fol import (
    MATCH_SIMILARITY,
    FoLOutputs,
    clip_outliers,
    patch_confidence,
)
from selavpr_ros.training.losses import (
    local_triplet_loss,
    metric_learning,
    multi_similarity_loss,
)

FOL_WEIGHTS = {
    'global': 1.0, 'local': 1.0, 'alignment': 5e-3, 'contrast': 1.0, 'correspondence': 1e-2}
FOREGROUND_WEIGHT = 0.7  # share of the foreground in the contrast; the background has the rest

ANCHOR_ATTENTION = 0.1  # a counterpart is sought for patches with more attention
CANDIDATE_SHARE = 0.1  # patches with a larger share belong to a cluster
COUNTERPART_SIMILARITY = 0.8
COUNTERPART_RATIO = 2.0  # best similarity / second best
NO_CANDIDATE = -10.0  # similarity of a patch that is no candidate
CORRESPONDENCES = 5  # of an image, at most


def image_pairs(
    places: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw for each image another one of its place.

    Args:
        places: (B,) int64, equal where two images show one place.
        generator: one on the CPU; None takes torch's default.

    Returns:
        (P,) and (P,) int64, the images that have another one, in order, and the drawn ones.
    """
    known = places.cpu()
    same = (known[:, None] == known).fill_diagonal_(False)
    images = same.any(dim=1).nonzero()[:, 0]
    others = torch.multinomial(same[images].float(), 1, generator=generator)[:, 0]
    return images.to(places.device), others.to(places.device)


def divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(softmax(one) || softmax(other)) of rows (B, N), the mean over B."""
    # These softmaxes are almost flat: the sum is near 1e-5, where float32 loses several percent.
    logs, other_logs = one.double().log_softmax(dim=1), other.double().log_softmax(dim=1)
    return (logs.exp() * (logs - other_logs)).sum(dim=1).mean().to(one.dtype)


def alignment_loss(shares: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Ask the class token to attend to what the aggregator keeps, and the other way round.

    Symmetric KL divergence, both sides without their outliers (FoL, SAL). It is summed over the
    patches, as published; the paper's formula has their mean.

    Args:
        shares: (B, M, N) from the transport.
        attention: (B, N).
    """
    kept, attended = patch_confidence(shares), clip_outliers(attention)
    return divergence(kept, attended) + divergence(attended, kept)


def _prototypes(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return functional.normalize(torch.einsum('bl,bld->bd', weights, features), dim=1)


def contrast_loss(
    local_map: torch.Tensor, soft_mask: torch.Tensor,
    pairs: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Ask for regions whose contents are alike in two images of a place (FoL, CEL).

    The mean over the pairs of 0.7 (1 - cos(foregrounds)) + 0.3 (1 - cos(backgrounds)). The
    foreground is the sum of all local features weighted by the mask, the background the sum
    weighted by 1 - mask. Only the mask gets a gradient.

    Args:
        local_map: (B, L, d) unit rows.
        soft_mask: (B, L).
        pairs: from `image_pairs`; without any, the loss is 0.
    """
    images, others = pairs
    features = local_map.detach()
    foreground, background = (
        (ground[images] * ground[others]).sum(dim=1)
        for ground in (_prototypes(features, soft_mask), _prototypes(features, 1 - soft_mask)))
    differences = (FOREGROUND_WEIGHT * (1 - foreground)
                   + (1 - FOREGROUND_WEIGHT) * (1 - background))
    return differences.sum() / max(1, len(images))


@torch.no_grad()
def pseudo_correspondences(
    outputs: FoLOutputs, image: int, other: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find patches of two images that are likely to show the same thing.

    A patch with much attention is compared with the patches of the other image that belong to its
    cluster; the best of them has to be much more similar than the second best. The published code
    leaves out the first patch with much attention and never trusts a single candidate, and this
    function does the same.

    Args:
        outputs: outputs for the batch.
        image, other: numbers of the two images in the batch.

    Returns:
        (K,) int64, the patches in `image` in row-major order; (K,) int64, those in `other`; and
        the cosines (K,) of their tokens. Patches are counted through the batch: patch n of image
        i is i * h * w + n. K is at most `CORRESPONDENCES`.
    """
    anchors = (outputs.attention[image] > ANCHOR_ATTENTION).nonzero()[1:, 0]
    clusters = outputs.shares[image][:, anchors].argmax(dim=0)
    candidates = outputs.shares[other][clusters] > CANDIDATE_SHARE
    tokens = functional.normalize(outputs.patches[[image, other]].flatten(1, 2).float(), dim=2)
    similarities = (tokens[0, anchors] @ tokens[1].T).masked_fill(~candidates, NO_CANDIDATE)
    (best, second), (match, _) = (side.T for side in similarities.topk(2, dim=1))
    trusted = (best > COUNTERPART_SIMILARITY) & (best / second > COUNTERPART_RATIO)
    kept = trusted.nonzero()[:CORRESPONDENCES, 0]
    count = tokens.shape[1]
    return image * count + anchors[kept], other * count + match[kept], best[kept]


def features_of_patches(local_map: torch.Tensor, rows: int) -> torch.Tensor:
    """Average the 3 x 3 local features around the centre of each patch.

    Args:
        local_map: (B, L, d) from `UpConvLocalFeatures`, where patch (r, c) lies at (4 r, 4 c).
        rows: number of rows of patches.

    Returns:
        (B, N, d) of N patches.
    """
    averaged = functional.avg_pool2d(
        local_map.mT.unflatten(2, (4 * rows - 3, -1)),
        kernel_size=3, stride=4, padding=1, count_include_pad=False)
    return averaged.flatten(2).mT


def pseudo_correspondence_loss(
    outputs: FoLOutputs, pairs: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Ask for like local features at the `pseudo_correspondences` (FoL, weak supervision).

    Args:
        outputs: outputs for the batch.
        pairs: from `image_pairs`.

    Returns:
        The mean over all correspondences of similarity * (1 - cos); 0 without any.
    """
    features = features_of_patches(outputs.local_map, outputs.patches.shape[1]).flatten(0, 1)
    found = [pseudo_correspondences(outputs, image, other)
             for image, other in zip(*(numbers.tolist() for numbers in pairs), strict=True)]
    if not found:
        return features.sum() * 0
    anchors, matches, similarity = (torch.cat(part) for part in zip(*found, strict=True))
    cosine = functional.cosine_similarity(features[anchors], features[matches])
    return (similarity * (1 - cosine)).sum() / max(1, len(anchors))


def hardest_triplet_loss(
    local_features: torch.Tensor, descriptors: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """Local triplet loss on the hardest triplets, by global descriptor, of a batch of places.

    A triplet is an image, the least similar image of its place, and the most similar image of
    another place. Only matches with a similarity above 0.7 count.

    Args:
        local_features: (B, K, d) unit rows, padded with rows of zeros.
        descriptors: (B, D) unit rows.
        places: (B,) int64.

    Returns:
        The mean over the triplets; 0 without any.

    Raises:
        SettingError: pytorch-metric-learning is not installed.
    """
    _, miners = metric_learning()
    triplets = miners.BatchHardMiner()(descriptors.detach(), places)
    images = local_features.unbind()  # so that the images' gradients are put together only once
    query, positive, negative = (
        [images[number] for number in numbers.tolist()] for numbers in triplets)
    if not query:
        return local_features.sum() * 0
    return local_triplet_loss(query, positive, negative, MATCH_SIMILARITY) / len(query)


def fol_terms(
    outputs: FoLOutputs, places: torch.Tensor, generator: torch.Generator | None = None
) -> dict[str, torch.Tensor]:
    """FoL's five losses without their weights; the published ones are `FOL_WEIGHTS`.

    The published batch: 60 places with 4 images each.

    Args:
        outputs: outputs for B images.
        places: (B,) int64, equal where two images show one place.
        generator: on the CPU, draws the other image of a place.

    Returns:
        'global', 'local', 'alignment', 'contrast' and 'correspondence'.

    Raises:
        SettingError: pytorch-metric-learning is not installed.
    """
    descriptors, local = outputs.descriptors.global_descriptor, outputs.descriptors.local_features
    assert local is not None
    pairs = image_pairs(places, generator)
    return {
        'global': multi_similarity_loss(descriptors, places),
        'local': hardest_triplet_loss(local, descriptors, places),
        'alignment': alignment_loss(outputs.shares, outputs.attention),
        'contrast': contrast_loss(outputs.local_map, outputs.soft_mask, pairs),
        'correspondence': pseudo_correspondence_loss(outputs, pairs)}
