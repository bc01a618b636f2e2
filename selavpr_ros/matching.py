"""Stage 4: mutual nearest neighbours between two sets of local features."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Similarities computed at once: small enough for a CPU's cache, large enough to fill a GPU.
_TILE_BYTES = {'cpu': 8 << 20, 'cuda': 128 << 20}


def nearest_neighbours(
    query: torch.Tensor, match: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find each feature's most similar one on the other side; the first index wins a tie.

    The similarity matrix is made in tiles of rows, so that it never leaves the cache and never
    needs memory for all N x M values.

    Args:
        query: (N, d) unit rows, N >= 1.
        match: (M, d) unit rows, M >= 1.

    Returns:
        nearest_match (N,) int64, its similarity (N,), and nearest_query (M,) int64.
    """
    rows = max(1, _TILE_BYTES.get(query.device.type, 8 << 20) // (4 * len(match)))
    tiles = query.split(rows)
    buffer = query.new_empty(len(tiles[0]), len(match))
    best_query = query.new_full((len(match),), -torch.inf)
    nearest_query = torch.zeros(len(match), dtype=torch.int64, device=query.device)
    row_maxima = []
    for number, tile in enumerate(tiles):
        similarities = torch.mm(tile, match.T, out=buffer[: len(tile)])
        row_maxima.append(similarities.max(dim=1))
        column_best, column_row = similarities.max(dim=0)
        better = column_best > best_query
        best_query = torch.where(better, column_best, best_query)
        nearest_query = torch.where(better, column_row + number * rows, nearest_query)
    nearest_match = torch.cat([maximum.indices for maximum in row_maxima])
    return nearest_match, torch.cat([maximum.values for maximum in row_maxima]), nearest_query


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
    if len(query) == 0 or len(match) == 0:
        return torch.empty(0, 2, dtype=torch.int64, device=query.device)
    nearest_match, similarity, nearest_query = nearest_neighbours(query, match.to(query))
    index = torch.arange(len(query), device=query.device)
    mutual = nearest_query[nearest_match] == index
    if min_similarity is not None:
        mutual &= similarity > min_similarity
    return torch.stack([index, nearest_match], dim=1)[mutual]


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


def rank_by_matches(counts: torch.Tensor) -> torch.Tensor:
    """Order candidates by their counts, best first; the retrieval rank decides a tie.

    Args:
        counts: (K,) in order of retrieval.

    Returns:
        (K,) int64 indices.
    """
    return torch.argsort(counts, descending=True, stable=True)
