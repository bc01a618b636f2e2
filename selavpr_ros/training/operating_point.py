"""Where to set the gates of a trained model: measured on walks that it was not trained on."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from torch.utils.data import Subset
from tqdm import tqdm

from selavpr_ros.errors import SettingError
from selavpr_ros.matching import count_mutual_matches
from selavpr_ros.models.base import OperatingPoint, VprModel
from selavpr_ros.training.data import Places
from selavpr_ros.training.describe import describe

SAME_LOST = 0.05  # share of neighbouring frames that may fall below the similarity
OTHER_PASSED = 0.05  # share of other places' most similar images that may pass by their matches

Triple = tuple[int, int, int]


def find_neighbour(places: Places, query: int) -> int | None:
    """The next frame, if it shows the same place, else another image of the place."""
    following = torch.tensor([min(query + 1, len(places) - 1)])
    one = torch.tensor([query])
    if following > query and places.walk[following] == places.walk[query] and places.same(
            one, following).item():
        return query + 1
    return next(iter(places.positives(query).tolist()), None)


def find_triple(rows: torch.Tensor, places: Places, query: int) -> Triple | None:
    """A query, its neighbour, and the most similar image of another place.

    Args:
        rows: (N, D) global descriptors of all images.
        places: the images.
        query: index of one.

    Returns:
        Three indices, or None for an image that lacks one of the others.
    """
    neighbour = find_neighbour(places, query)
    different = places.different(torch.tensor([query]), torch.arange(len(places)))[0]
    elsewhere = different & (places.walk != places.walk[query])
    if places.poses[query, :2].isnan().any() and elsewhere.any():
        different = elsewhere  # the walk itself may come back to this place
    if neighbour is None or not different.any():
        return None
    similarities = (rows @ rows[query]).masked_fill(~different, -torch.inf)
    return query, neighbour, int(similarities.argmax())


def local_scores(model: VprModel, places: Places, triples: list[Triple]) -> np.ndarray:
    """(T, 2): share of local features that match between the query and each of the others."""
    needed = torch.tensor(triples).unique().tolist()
    _, features = describe(model, Subset(places, needed), local=True)
    known = dict(zip(needed, features, strict=True))
    counts = [
        count_mutual_matches(known[query].float().to(model.device), [known[i] for i in others],
                             model.match_similarity).cpu().numpy()
        for query, *others in tqdm(triples, desc='matching', leave=False)]
    return np.stack(counts) / model.max_local_features


def measure_operating_point(
    model: VprModel, places: Places, queries: int = 120, seed: int = 0
) -> OperatingPoint:
    """Set the gates so that neighbours pass and the most similar other places do not.

    Args:
        model: with local features.
        places: walks that were not trained on.
        queries: how many images to compare, drawn with `seed`.
        seed: of the draw.

    Raises:
        SettingError: no image has both a neighbour and an image of another place.
    """
    rows, _ = describe(model, places)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
    found = (find_triple(rows, places, query) for query in order)
    triples = list(islice((triple for triple in found if triple), queries))
    if not triples:
        raise SettingError(f'none of {len(places)} held-out images has both another image of its '
                           'place and one of another place: hold out a walk')
    same = [float(rows[query] @ rows[neighbour]) for query, neighbour, _ in triples]
    scores = local_scores(model, places, triples)
    return OperatingPoint(
        min_similarity=round(float(np.quantile(same, SAME_LOST)), 3),
        min_local_score=round(float(np.quantile(scores[:, 1], 1 - OTHER_PASSED)), 3),
        provenance=(
            f'{len(triples)} images of held-out walks: {1 - SAME_LOST:.0%} of their neighbours '
            f'lie above the similarity, {1 - OTHER_PASSED:.0%} of the most similar images of '
            'other places below the local score'
        ),
    )
