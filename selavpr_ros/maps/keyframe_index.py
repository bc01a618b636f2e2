"""The search structure over global descriptors: exhaustive while that is fast, a graph above."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss as _faiss
import numpy as np

from selavpr_ros.errors import MapError

faiss: Any = _faiss  # its type hints are incomplete

AUTO, FLAT, HNSW, IVF = 'auto', 'flat', 'hnsw', 'ivf'
KINDS = (AUTO, FLAT, HNSW, IVF)

# 'auto' searches exhaustively up to twice this size, where that takes 6 ms with SelaVPR's
# descriptors; the graph is built on the way, so that no keyframe has to wait for it.
GRAPH_FROM = 10_000
# HNSW (Malkov & Yashunin 2018): links of a keyframe, and candidates that are kept while inserting
# and while searching.
LINKS, INSERT_BREADTH, SEARCH_BREADTH = 32, 40, 128
# IVF: k-means cells, of which a query visits the nearest quarter.
CELLS_FROM, KEYFRAMES_PER_CELL, VISITED_SHARE = 2000, 200, 1 / 4
KMEANS_ROUNDS, KMEANS_ROWS_PER_CELL = 6, 40
# A graph or cells miss similar rows where a search is limited to few rows. Below this share of all
# rows, the search is exhaustive, which is fast then.
EXACT_SHARE = 1 / 4

_HALF, _PRODUCT = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT

Rows = range | np.ndarray


@contextmanager
def _single_thread() -> Iterator[None]:
    """Search on this thread alone: waking others costs more than a search of 10 000 keyframes."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _selector(rows: Rows) -> Any:
    if isinstance(rows, range):
        return faiss.IDSelectorRange(rows.start, rows.stop)
    return faiss.IDSelectorBatch(np.ascontiguousarray(rows, np.int64))


def _make_flat(dim: int) -> Any:
    return faiss.IndexScalarQuantizer(dim, _HALF, _PRODUCT)


def _make_graph(dim: int) -> Any:
    graph = faiss.IndexHNSWSQ(dim, _HALF, LINKS, _PRODUCT)
    graph.hnsw.efConstruction = INSERT_BREADTH
    graph.train(np.zeros((1, dim), np.float32))  # float16 has nothing to learn
    return graph


def _make_cells(rows: np.ndarray) -> Any:
    count, dim = rows.shape
    quantizer = faiss.IndexFlatIP(dim)
    cells = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, max(1, count // KEYFRAMES_PER_CELL), _HALF, _PRODUCT, False)
    cells.cp.niter, cells.cp.max_points_per_centroid = KMEANS_ROUNDS, KMEANS_ROWS_PER_CELL
    cells.cp.spherical = True
    cells.train(rows)
    return cells


class KeyframeIndex:
    """Finds rows by cosine; they are kept as float16, which halves what a search has to read.

    Rows are numbered from 0 in the order in which they were added; `remove` renumbers the rows
    behind those that are removed.

    Args:
        dim: length of the descriptors, D.
        kind: one of KINDS. 'flat' is exact; 'hnsw' is a graph from the first keyframe on; 'auto'
            is flat, and hnsw where the map is large; 'ivf' has cells, needs less memory than the
            graph and no time to build it, but is slower and finds less.
    """

    def __init__(self, dim: int, kind: str = AUTO) -> None:
        self.dim, self._kind = dim, kind
        self._graph_from = {AUTO: GRAPH_FROM, HNSW: 0}.get(kind)
        # Two of the three are None, except while a graph is being built beside the flat index.
        self._flat: Any = _make_flat(dim)
        self._graph: Any = None
        self._cells: Any = None
        self._learnt_from = 0

    def __len__(self) -> int:
        return int(self._whole.ntotal)

    @property
    def _whole(self) -> Any:
        """The structure that has all rows."""
        return self._flat or self._cells or self._graph

    @property
    def kind(self) -> str:
        """What a search uses now: 'flat', 'hnsw' or 'ivf'."""
        return FLAT if self._flat else IVF if self._cells else HNSW

    @property
    def nbytes(self) -> int:
        """Bytes of the descriptors, and of a graph's links."""
        in_graph = self._graph.ntotal if self._graph else 0
        outside = 0 if self.kind == HNSW else len(self)
        return outside * 2 * self.dim + in_graph * (2 * self.dim + 2 * LINKS * 4)

    def add(self, rows: np.ndarray) -> None:
        """Add (n, D) float32 unit rows."""
        if self._graph and not self._flat:
            self._graph.add(rows)
            return
        self._whole.add(rows)
        if self._graph_from is not None and len(self) > self._graph_from:
            self._extend_graph(2 * len(rows))
        if self._kind == IVF and len(self) >= max(CELLS_FROM, 2 * self._learnt_from):
            self._learn_cells()

    def _extend_graph(self, count: int) -> None:
        """Add `count` more rows to the graph, which replaces the flat index once it has all."""
        self._graph = self._graph or _make_graph(self.dim)
        start = self._graph.ntotal
        self._graph.add(self._flat.reconstruct_n(start, min(count, len(self) - start)))
        if self._graph.ntotal == len(self):
            self._flat = None

    def _learn_cells(self) -> None:
        rows = self._rows()
        self._cells, self._flat, self._learnt_from = _make_cells(rows), None, len(rows)
        self._cells.add(rows)

    def _rows(self) -> np.ndarray:
        """(n, D) float32, as float16 left them."""
        if self._cells:
            self._cells.make_direct_map()
        return self._whole.reconstruct_n(0, len(self))

    def remove(self, rows: Sequence[int]) -> None:
        """Remove rows; a graph or cells have to be made again."""
        descriptors = np.delete(self._rows(), rows, axis=0)
        self.__init__(self.dim, self._kind)  # type: ignore[misc]
        self._flat.add(descriptors)
        if self._kind == IVF and len(self) >= CELLS_FROM:
            self._learn_cells()

    def search(self, query: np.ndarray, count: int, among: Rows) -> list[int]:
        """Find up to `count` rows of `among` most similar to (D,) float32, about best first."""
        if not len(among) or count <= 0:
            return []
        few = len(among) < EXACT_SHARE * len(self)
        index, parameters = self._searched(_selector(among), few)
        with _single_thread():
            _, rows = index.search(query[None], min(count, len(among)), params=parameters)
        return [row for row in rows[0].tolist() if row >= 0]

    def _searched(self, selector: Any, few: bool) -> tuple[Any, Any]:
        """What is searched, and how."""
        if self._flat:
            return self._flat, faiss.SearchParameters(sel=selector)
        if self._cells:
            share = 1.0 if few else VISITED_SHARE
            visited = math.ceil(self._cells.nlist * share)
            return self._cells, faiss.SearchParametersIVF(sel=selector, nprobe=visited)
        if few:
            flat = faiss.downcast_index(self._graph.storage)
            return flat, faiss.SearchParameters(sel=selector)
        return self._graph, faiss.SearchParametersHNSW(sel=selector, efSearch=SEARCH_BREADTH)

    # ---- the graph on disk ---------------------------------------------------------------------

    def graph_bytes(self) -> bytes:
        """The links of a finished graph without the descriptors; empty where there is none."""
        if self.kind != HNSW:
            return b''
        return bytes(faiss.serialize_index(self._graph, faiss.IO_FLAG_SKIP_STORAGE))

    def load(self, chunks: Iterable[np.ndarray], graph: bytes = b'') -> None:
        """Fill an empty index with (n, D) float32 rows, of which the first may be in a kept graph.

        Raises:
            MapError: the graph is damaged or not of these rows; the index is filled all the same.
        """
        for rows in chunks:
            self._flat.add(rows)
        if self._kind == IVF and len(self) >= CELLS_FROM:
            self._learn_cells()
        if self._graph_from is None or len(self) <= 2 * self._graph_from:
            return
        try:
            if graph:
                self._adopt(graph)
        finally:
            if self._flat:
                self._extend_graph(len(self))

    def _adopt(self, content: bytes) -> None:
        """Use a kept graph for the rows that it was made of, and add later rows to it."""
        try:
            graph = faiss.deserialize_index(np.frombuffer(content, np.uint8))
            known = graph.hnsw.levels.size()
        except (RuntimeError, AttributeError) as error:
            raise MapError('the search graph in the map is damaged: it is made again') from error
        if known > len(self) or graph.d != self.dim:
            raise MapError(f'the search graph in the map is of {known} keyframes, the map has '
                           f'{len(self)}: it is made again')
        later = self._flat.reconstruct_n(known, len(self) - known)
        self._flat.remove_ids(faiss.IDSelectorRange(known, len(self)))
        graph.storage, graph.ntotal = self._flat, known
        graph.own_fields = True
        self._flat.this.disown()  # the graph owns the descriptors from now on
        self._graph, self._flat = graph, None
        if len(later):
            graph.add(later)
