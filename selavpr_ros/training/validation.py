"""How well a network recognises places that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from selavpr_ros.images.preprocess import denormalise, normalise
from selavpr_ros.matching.mutual import count_mutual_matches, rank_by_matches
from selavpr_ros.models.base import VprModel
from selavpr_ros.training.data import Places
from selavpr_ros.training.describe import describe
from selavpr_ros.training.views import random_homographies, relight, warp

QUERIES = 50
TOP_K = 10
CHANGE = 0.6  # strength of the warp that makes a query from an image without another visit
SEED = 0


def _changed(image: torch.Tensor, number: int) -> torch.Tensor:
    """The same view warped and in another light, always in the same way: (3, H, W) normalised."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED + number)  # of the CPU alone
        pixels = denormalise(image[None])
        seen = relight(warp(pixels, random_homographies(1, CHANGE), max(image.shape[-2:])))
        return normalise(functional.interpolate(seen, image.shape[-2:], mode='bilinear'))[0]


class Validation(Dataset[torch.Tensor]):
    """Recall of queries, taken evenly from the images of some places, against all these images.

    If the place of a query was visited at another time, too, the frames that were taken together
    with the query are no answers. If there was only one visit, the query is a changed view of its
    image.

    As a data set it holds the queries, (3, H, W) normalised.

    Args:
        places: places that were not trained on.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        every = torch.arange(len(places))
        self.queries = torch.arange(0, len(places), max(1, len(places) // QUERIES))
        same = places.same(self.queries, every)
        together = places.one_pass(self.queries, every, same)
        self.revisited = (same & ~together).any(dim=1)
        self.hidden = together & self.revisited[:, None]
        self.hits = (same | (self.queries[:, None] == every)) & ~self.hidden

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, number: int) -> torch.Tensor:
        image = self.places[int(self.queries[number])]
        return image if self.revisited[number] else _changed(image, number)

    def __call__(self, model: VprModel) -> dict[str, float]:
        """Measure recall@1 and @5 by global descriptor, and @1 re-ranked where that is possible.

        The network is in evaluation mode during this; its mode is restored afterwards.
        """
        database, _ = describe(model, self.places)
        queries, features = describe(model, self, local=True)
        similarity = (queries @ database.T).masked_fill(self.hidden, -torch.inf)
        top = similarity.topk(min(TOP_K, len(database)), dim=1).indices
        recall = {
            f'recall@{n}': self.hits.gather(1, top[:, :n]).any(dim=1).float().mean().item()
            for n in (1, 5)}
        if features:
            recall['reranked@1'] = self._reranked(model, top, features)
        return recall

    def _reranked(
        self, model: VprModel, top: torch.Tensor, features: list[torch.Tensor]
    ) -> float:
        """Recall@1 of the retrieved images (Q, K), ordered by the queries' mutual matches."""
        needed = top.unique()
        _, described = describe(model, Subset(self.places, needed.tolist()), local=True)
        known = dict(zip(needed.tolist(), described, strict=True))
        found = 0
        for query, retrieved in enumerate(tqdm(top, desc='matching', leave=False)):
            shown = retrieved[~self.hidden[query, retrieved]]
            counts = count_mutual_matches(
                features[query].float().to(model.device), [known[int(i)] for i in shown],
                model.match_similarity)
            found += bool(self.hits[query, shown[rank_by_matches(counts.cpu())[0]]])
        return found / len(top)


def score(recall: dict[str, float]) -> float:
    """One figure to compare trainings by: the mean of recall@1, global and re-ranked."""
    first = [recall[name] for name in ('recall@1', 'reranked@1') if name in recall]
    return sum(first) / len(first)


Validate = Callable[[VprModel], dict[str, float]]
