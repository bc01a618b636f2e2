"""Stage 4: mutual nearest neighbours between two sets of local features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import faiss as _faiss
import numpy as np
import torch

from selavpr_ros.maps.local_codec import BINARY, MIN_SIGN_SIMILARITY, EncodedFeatures, encode

faiss: Any = _faiss  # its type hints are incomplete


@dataclass(frozen=True, eq=False)
class LocalMatches:
    """The mutual matches of a query with one candidate.

    Attributes:
        pairs: (P, 2) int64: index into the query's local features, index into the candidate's.
        similarity: (P,) float32 cosines; for binary features, estimated from their signs.
    """

    pairs: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)


NO_MATCHES = LocalMatches(np.empty((0, 2), np.int64), np.empty(0, np.float32))

# Similarities computed at once: small enough for a CPU's cache, large enough to fill a GPU.
_TILE_BYTES = {'cpu': 8 << 20, 'cuda': 128 << 20}


def best_similarities(
    query: torch.Tensor, match: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find each query feature's most similar match feature, and the reverse similarities.

    The similarity matrix is made in tiles of rows, so that it never leaves the cache and never
    needs memory for all N x M values.

    Args:
        query: (N, d) unit rows, N >= 1.
        match: (M, d) unit rows, M >= 1.

    Returns:
        nearest_match (N,) int64, where the first index wins a tie; its similarity (N,); and
        the highest similarity (M,) of each match feature to any query feature.
    """
    rows = max(1, _TILE_BYTES.get(query.device.type, 8 << 20) // (4 * len(match)))
    tiles = query.split(rows)
    buffer = query.new_empty(len(tiles[0]), len(match))
    best_query = query.new_full((len(match),), -torch.inf)
    row_maxima = []
    for tile in tiles:
        similarities = torch.mm(tile, match.T, out=buffer[: len(tile)])
        row_maxima.append(similarities.max(dim=1))
        # The maximum of a column is found several times faster without its index.
        best_query = torch.maximum(best_query, similarities.amax(dim=0))
    nearest_match = torch.cat([maximum.indices for maximum in row_maxima])
    return nearest_match, torch.cat([maximum.values for maximum in row_maxima]), best_query


def _pairs(
    nearest_match: torch.Tensor, similarity: torch.Tensor, best_query: torch.Tensor,
    min_similarity: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, 2) pairs in which the query feature is the nearest to its match, too, and their
    similarity (P,). Of several query features that are equally near, the first one counts.
    """
    mutual = similarity == best_query[nearest_match]
    if min_similarity is not None:
        mutual &= similarity > min_similarity
    index = mutual.nonzero()[:, 0]
    match = nearest_match[index]
    first = torch.full_like(best_query, len(nearest_match), dtype=torch.int64)
    first = first.scatter_reduce(0, match, index, 'amin')
    own = first[match] == index
    return torch.stack([index, match], dim=1)[own], similarity[index[own]]


def _match(
    query: torch.Tensor, match: torch.Tensor, min_similarity: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if len(query) == 0 or len(match) == 0:
        nothing = torch.empty(0, 2, dtype=torch.int64, device=query.device)
        return nothing, query.new_empty(0)
    return _pairs(*best_similarities(query, match.to(query)), min_similarity)


def mutual_matches(
    query: torch.Tensor, match: torch.Tensor, min_similarity: float | None = None
) -> torch.Tensor:
    """List the pairs that choose each other (SelaVPR, section 3.4).

    Args:
        query: (N, d) unit rows.
        match: (M, d) unit rows, of any float type.
        min_similarity: keep only pairs strictly above it (FoL: 0.7).

    Returns:
        (P, 2) int64: index into query, index into match.
    """
    return _match(query, match, min_similarity)[0]


# Rows of distances that are computed at once, so that they stay in the cache of one core.
_HAMMING_ROWS = 128


def _close_pairs(
    query: np.ndarray, match: np.ndarray, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Query index, match index and distance (P,) of all pairs below a Hamming distance.

    They come tile by tile, ordered by query index. They are few, so that later steps are fast.
    """
    width = query.shape[1]
    buffer = np.empty((_HAMMING_ROWS, len(match)), np.int32)
    for start in range(0, len(query), _HAMMING_ROWS):
        rows = query[start : start + _HAMMING_ROWS]
        faiss.hammings(faiss.swig_ptr(rows), faiss.swig_ptr(match), len(rows), len(match), width,
                       faiss.swig_ptr(buffer))
        distances = buffer[: len(rows)].reshape(-1)
        found = np.flatnonzero(distances < limit)
        index, match_index = np.divmod(found, len(match))
        yield start + index, match_index, distances[found]


def mutual_matches_binary(
    query: np.ndarray, match: np.ndarray, min_similarity: float = MIN_SIGN_SIMILARITY
) -> LocalMatches:
    """List the pairs of binary features that choose each other by Hamming distance.

    Args:
        query: (N, b) uint8, bits packed; b is a multiple of 8.
        match: (M, b) uint8.
        min_similarity: keep only pairs above it; 1 is all bits equal, 0 is half of them.

    Returns:
        The pairs; the first ones win a tie.
    """
    limit = math.ceil(4 * query.shape[1] * (1.0 - min_similarity))
    best_match = np.full(len(query), np.iinfo(np.int32).max, np.int32)
    best_query = np.full(len(match), np.iinfo(np.int32).max, np.int32)
    nearest = []
    for index, match_index, distance in _close_pairs(query, match, limit):
        np.minimum.at(best_query, match_index, distance)
        np.minimum.at(best_match, index, distance)
        own = np.flatnonzero(distance == best_match[index])
        own = own[np.unique(index[own], return_index=True)[1]]
        nearest.append(np.stack([index[own], match_index[own]], axis=1))
    pairs = np.concatenate(nearest) if nearest else np.empty((0, 2), np.int64)
    mutual = pairs[best_match[pairs[:, 0]] == best_query[pairs[:, 1]]]
    mutual = mutual[np.sort(np.unique(mutual[:, 1], return_index=True)[1])]
    differ = best_match[mutual[:, 0]] / (8 * query.shape[1])
    return LocalMatches(mutual, np.cos(np.pi * differ).astype(np.float32))


@torch.no_grad()
def count_mutual_matches(
    query: torch.Tensor,
    matches: torch.Tensor | Sequence[torch.Tensor],
    min_similarity: float | None = None,
) -> torch.Tensor:
    """Count the mutual nearest neighbours of one query and each of its candidates.

    Exact: no pair is dropped or approximated. One difference to the published code, which
    scores a candidate with exactly one mutual match as 0: here it counts 1.

    Args:
        query: (N, d) unit rows, float32.
        matches: (K, M, d) unit rows, or a sequence of K tensors (M_k, d).
        min_similarity: count only pairs strictly above it.

    Returns:
        (K,) int64 on the query's device. Temporary memory stays under 256 MiB for any K.
    """
    counts = [len(mutual_matches(query, match, min_similarity)) for match in matches]
    return torch.tensor(counts, dtype=torch.int64, device=query.device)


def binary_similarity(similarity: float) -> float:
    """Cosine of the signs of two features whose own cosine is `similarity` (Charikar 2002)."""
    return 1.0 - 2.0 * math.acos(max(-1.0, min(similarity, 1.0))) / math.pi


@torch.no_grad()
def match_encoded(
    query: torch.Tensor, matches: Sequence[EncodedFeatures | None],
    min_similarity: float | None = None,
) -> list[LocalMatches]:
    """Mutual matches with candidates as the map keeps them.

    Binary ones are compared with the signs of the query, by Hamming distance on a CPU.

    Args:
        query: (N, d) unit rows, float32.
        matches: K candidates; None for one without local features, which gets no matches.
        min_similarity: keep only pairs strictly above it.

    Returns:
        The pairs of each of the K candidates.
    """
    needs_signs = any(match and match.codec == BINARY for match in matches)
    signs = encode(query, BINARY) if needs_signs else None
    return [NO_MATCHES if match is None
            else _match_binary(signs, match, query.device, min_similarity)
            if signs and match.codec == BINARY
            else _on_cpu(*_match(query, match.decode(), min_similarity))
            for match in matches]


def _on_cpu(pairs: torch.Tensor, similarity: torch.Tensor) -> LocalMatches:
    return LocalMatches(pairs.cpu().numpy(), similarity.float().cpu().numpy())


def _match_binary(
    query: EncodedFeatures, match: EncodedFeatures, device: torch.device,
    min_similarity: float | None,
) -> LocalMatches:
    least = MIN_SIGN_SIMILARITY
    if min_similarity is not None:
        least = max(least, binary_similarity(min_similarity))
    if device.type == 'cpu':
        return mutual_matches_binary(query.data, match.data, least)
    signs = query.signs().to(device)
    # Products of signs are whole numbers, which tie where Hamming distances do.
    pairs, equal = _match(signs, match.signs().to(device), least * signs.shape[1])
    return _on_cpu(pairs, torch.cos(torch.pi * (1.0 - equal / signs.shape[1]) / 2.0))


def count_encoded_matches(
    query: torch.Tensor, matches: Sequence[EncodedFeatures | None],
    min_similarity: float | None = None,
) -> torch.Tensor:
    """How many `match_encoded` finds, (K,) int64 on the query's device."""
    counts = [len(found) for found in match_encoded(query, matches, min_similarity)]
    return torch.tensor(counts, dtype=torch.int64, device=query.device)


def rank_by_matches(counts: torch.Tensor) -> torch.Tensor:
    """Order candidates by their counts, best first; the retrieval rank decides a tie.

    Args:
        counts: (K,) in order of retrieval.

    Returns:
        (K,) int64 indices.
    """
    return torch.argsort(counts, descending=True, stable=True)
