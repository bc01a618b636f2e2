"""Recall of a system: describe the images, search, re-rank, and compare with the positives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from selavpr_ros.errors import SettingError
from selavpr_ros.evaluation.description import Described, describe, describe_one
from selavpr_ros.evaluation.metrics import RECALL_AT, share_within
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId
from selavpr_ros.maps.local_codec import FLOAT16, EncodedFeatures, encode
from selavpr_ros.matching.evidence import Match, rerank
from selavpr_ros.models import VprModel
from selavpr_ros.settings import Settings

TOP_K = Settings().index.top_k  # as many as the node re-ranks
# Ways of ordering the database images: by the global descriptors alone, or the best TOP_K by their
# mutual matches.
GLOBAL, RERANKED = 'global', 're-ranked'


# ---- the result ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """The answer to one query.

    Attributes:
        database: indices of database images, the best first.
        scores: what the images are ordered by: similarities, or counts of mutual matches.
    """

    database: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one method answered to all queries that can be answered.

    Attributes:
        method: model id, or the name of a baseline.
        evaluation_set: what was asked.
        top_k: length of a ranking, at most.
        rankings: for every way of ordering, by name, one ranking per `answerable` query.
        unanswerable: the same for the `unanswerable` queries; empty if they were not asked.
        stage_ms: milliseconds of every image or query by stage; empty if not measured.
        bytes_per_keyframe: by way of ordering, what a database image takes in a keyframe map;
            empty if not known.
    """

    method: str
    evaluation_set: EvaluationSet
    top_k: int
    rankings: Mapping[str, Sequence[Ranking]]
    unanswerable: Mapping[str, Sequence[Ranking]] = field(default_factory=dict)
    stage_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bytes_per_keyframe: Mapping[str, float] = field(default_factory=dict)

    def hit_ranks(self, way: str = GLOBAL) -> list[int | None]:
        """Rank, from 0, of the first positive per answerable query; None if it is not listed."""
        asked = self.evaluation_set
        return [
            next((rank for rank, image in enumerate(ranking.database)
                  if image in asked.positives[query]), None)
            for query, ranking in zip(asked.answerable, self.rankings[way], strict=True)]

    def recall_at(self, n: int, way: str = GLOBAL, *, of_all: bool = False) -> float:
        """Share of the queries with a positive among the first n.

        Args:
            n: at most top_k.
            way: one of `rankings`.
            of_all: count queries without any positive as misses, as the published protocols do.

        Raises:
            SettingError: the rankings are shorter than n.
        """
        if not 1 <= n <= self.top_k:
            raise SettingError(f'recall@{n} cannot be told from the best {self.top_k}')
        ranks = self.hit_ranks(way)
        return share_within(ranks, n, len(self.evaluation_set.queries) if of_all else len(ranks))

    def recalls(self, way: str = GLOBAL, *, of_all: bool = False) -> dict[int, float]:
        """Recall@n for the usual n, as far as the rankings reach."""
        return {n: self.recall_at(n, way, of_all=of_all) for n in RECALL_AT if n <= self.top_k}


# ---- search and re-ranking ----------------------------------------------------------------------


def retrieve(similarities: torch.Tensor, comparable: np.ndarray, top_k: int) -> Ranking:
    """The most similar of the comparable images; the first one wins a tie.

    Args:
        similarities: (N,) similarity of every database image.
        comparable: (n,) indices of the images that the query may be compared with.
        top_k: length of the ranking, at most.
    """
    index = torch.from_numpy(comparable)
    best, order = similarities[index].sort(descending=True, stable=True)
    return Ranking(tuple(index[order[:top_k]].tolist()), tuple(best[:top_k].tolist()))


def order_by_matches(
    model: VprModel, features: Sequence[EncodedFeatures], retrieved: Ranking, local: torch.Tensor
) -> Ranking:
    """What was retrieved, in the order that the node gives it by mutual matches.

    Args:
        model: the model that made the features.
        features: local features of all database images.
        retrieved: the most similar images.
        local: (n, d) local features of the query.
    """
    bare = np.zeros(0, np.float32)
    matches = [
        Match(Keyframe(KeyframeId(0, image), 0, bare, None, 0.0), rank, similarity, 0, np.nan)
        for rank, (image, similarity) in enumerate(
            zip(retrieved.database, retrieved.scores, strict=True))]
    found = rerank(matches, local.float().to(model.device),
                   [features[image] for image in retrieved.database], model)
    return Ranking(tuple(match.keyframe.id.keyframe_id for match in found),
                   tuple(match.local_matches for match in found))


# Index, global descriptor (D,) and local features (n, d).
DescribedQuery = tuple[int, torch.Tensor, torch.Tensor | None]


def described_queries(
    model: VprModel, evaluation_set: EvaluationSet, database: Described, queries: Sequence[int]
) -> Iterator[DescribedQuery]:
    """Describe queries, but no image twice."""
    itself = evaluation_set.queries is evaluation_set.database
    for query in queries:
        if itself:
            local = database.local_features
            features = local[query].decode() if local else None
            yield query, database.global_descriptors[query], features
        else:
            image = evaluation_set.queries[query]
            yield query, *describe_one(model, image, database.stopwatch)


def _ask(
    model: VprModel, evaluation_set: EvaluationSet, top_k: int, database: Described,
    queries: Iterable[DescribedQuery],
) -> dict[str, list[Ranking]]:
    rankings: dict[str, list[Ranking]] = {GLOBAL: []}
    measure = database.stopwatch.measure
    for query, global_descriptor, local in queries:
        with measure('search'):
            similarities = database.global_descriptors @ global_descriptor
            retrieved = retrieve(similarities, evaluation_set.comparable(query), top_k)
        rankings[GLOBAL].append(retrieved)
        if local is not None and database.local_features is not None:
            with measure('local_matching'):
                reranked = order_by_matches(model, database.local_features, retrieved, local)
            rankings.setdefault(RERANKED, []).append(reranked)
    return rankings


@torch.inference_mode()
def evaluate(
    model: VprModel, evaluation_set: EvaluationSet, top_k: int = TOP_K, *,
    reranking: bool = True, codec: str = FLOAT16, all_queries: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Ask a model all queries that can be answered.

    Args:
        model: from `load_model`; in training, call `model.eval()` before.
        evaluation_set: from one of `truth`'s readers, or made of arrays in memory.
        top_k: images that are ranked, and re-ranked.
        reranking: also order by mutual matches if the model has local features, which take most
            of the time and nearly all of the memory.
        codec: how local features are kept; 'none' leaves re-ranking out. In a recording that is
            compared with itself, the features of the queries are kept in this way, too.
        all_queries: also ask queries without a positive; any answer to them is false, which
            matters to `precision`.
        progress: show bars.

    Returns:
        Rankings GLOBAL and, if re-ranked, RERANKED.

    Raises:
        ImageError: a file cannot be read, or an array is no image.
        DescriptorError: a descriptor is not finite.
        SettingError: no such codec.
    """
    database = describe(
        model, evaluation_set.database, local=reranking, codec=codec, progress=progress)

    def ask(queries: Sequence[int]) -> dict[str, list[Ranking]]:
        described = described_queries(model, evaluation_set, database, queries)
        bar = tqdm(described, total=len(queries), desc='searching', unit='query', leave=False,
                   disable=not progress)
        return _ask(model, evaluation_set, top_k, database, bar)

    rankings = ask(evaluation_set.answerable)
    return Evaluation(
        model.model_id, evaluation_set, top_k, rankings,
        ask(evaluation_set.unanswerable) if all_queries else {}, database.stopwatch.stage_ms,
        {way: database.bytes_per_keyframe(way != GLOBAL) for way in rankings})


@torch.inference_mode()
def evaluate_codecs(
    model: VprModel, evaluation_set: EvaluationSet, codecs: Sequence[str], top_k: int = TOP_K, *,
    progress: bool = False,
) -> dict[str, Evaluation]:
    """`evaluate` with every codec; the images are described once, and stay in memory."""
    database = describe(model, evaluation_set.database, progress=progress)
    asked = evaluation_set.answerable
    bar = tqdm(described_queries(model, evaluation_set, database, asked), leave=False,
               total=len(asked), unit='query', disable=not progress)
    queries = list(bar)
    evaluations = {}
    for codec in codecs:
        kept = [encode(local.decode(), codec) for local in database.local_features or ()]
        local = [encoded for encoded in kept if encoded is not None]
        rankings = _ask(
            model, evaluation_set, top_k, replace(database, local_features=local or None),
            tqdm(queries, desc=f'searching, {codec}', unit='query', leave=False,
                 disable=not progress))
        evaluations[codec] = Evaluation(model.model_id, evaluation_set, top_k, rankings)
    return evaluations


def recall(
    model: VprModel, evaluation_set: EvaluationSet, *, reranking: bool = False
) -> dict[int, float]:
    """Recall@1, 5 and 10, by global descriptors alone unless `reranking`: for a training loop."""
    evaluation = evaluate(model, evaluation_set, reranking=reranking)
    return evaluation.recalls(RERANKED if RERANKED in evaluation.rankings else GLOBAL)
