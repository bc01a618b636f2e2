"""The search over global descriptors: exact where it says so, and close to it elsewhere."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from maps import clustered_rows, unit_rows

from selavpr_ros.errors import MapError
from selavpr_ros.maps import keyframe_index
from selavpr_ros.maps.keyframe_index import AUTO, FLAT, HNSW, IVF, KINDS, KeyframeIndex, Rows

COUNT, TOP = 5000, 20


@pytest.fixture(scope='module')
def rows() -> np.ndarray:
    return clustered_rows(COUNT)


@pytest.fixture(scope='module')
def queries() -> np.ndarray:
    """Places of the map seen again."""
    return clustered_rows(COUNT + 100)[COUNT:]


@pytest.fixture
def small_graphs(monkeypatch) -> None:
    """A graph from 500 rows on, in use from 1000 on."""
    monkeypatch.setattr(keyframe_index, 'GRAPH_FROM', 500)


@pytest.fixture
def small_thresholds(small_graphs, monkeypatch) -> None:
    """And cells from 1000 on."""
    monkeypatch.setattr(keyframe_index, 'CELLS_FROM', 1000)


def make(kind: str, rows: np.ndarray, at_once: int = 100) -> KeyframeIndex:
    index = KeyframeIndex(rows.shape[1], kind)
    for start in range(0, len(rows), at_once):
        index.add(rows[start : start + at_once])
    return index


def load(kind: str, rows: np.ndarray, graph: bytes = b'') -> KeyframeIndex:
    index = KeyframeIndex(rows.shape[1], kind)
    index.load([rows[:700], rows[700:]], graph)
    return index


def halved(rows: np.ndarray) -> np.ndarray:
    """What the index keeps of them."""
    return rows.astype(np.float16).astype(np.float32)


def exhaustive(rows: np.ndarray, query: np.ndarray, count: int, among: Rows) -> list[int]:
    """The same by the formula."""
    among = np.asarray(among)
    return among[np.argsort(-(rows[among] @ query), kind='stable')[:count]].tolist()


def recall(index: KeyframeIndex, rows: np.ndarray, queries: np.ndarray, among: Rows) -> float:
    """Share of the exact best that it finds."""
    count = min(TOP, len(among))
    return float(np.mean([
        len(set(index.search(query, TOP, among)) & set(exhaustive(rows, query, TOP, among)))
        for query in queries])) / count


# ---- search ------------------------------------------------------------------------------------


@pytest.mark.parametrize('among', [
    range(COUNT), range(100), range(4000, COUNT), np.arange(0, COUNT, 3), np.array([7, 3, 4999])],
    ids=['all', 'oldest', 'newest', 'every third', 'three'])
def test_flat_equals_the_exhaustive_formula(rows, queries, among):
    index = make(FLAT, rows)
    kept = halved(rows)
    for query in queries[:20]:
        found = index.search(query, TOP, among)
        wanted = exhaustive(kept, query, TOP, among)
        # Of two that are as similar to the last bit, either may come first.
        np.testing.assert_allclose(kept[found] @ query, kept[wanted] @ query, atol=1e-6)
        assert len(set(found)) == len(wanted)
        assert set(found) <= set(np.asarray(among).tolist())


@pytest.mark.parametrize('fill', ['add', 'load'])
@pytest.mark.parametrize('kind', [AUTO, FLAT, HNSW])
def test_recall(rows, queries, small_graphs, kind, fill):
    index = make(kind, rows) if fill == 'add' else load(kind, rows)
    assert (index.kind, len(index)) == ({AUTO: HNSW}.get(kind, kind), COUNT)
    assert recall(index, rows, queries, range(COUNT)) >= 0.99
    assert recall(index, rows, queries, range(COUNT - 20)) >= 0.99  # without the recent ones
    assert recall(index, rows, queries, np.arange(0, COUNT, 2)) >= 0.99


def test_recall_of_cells(rows, queries):
    """Those of a map that grew are fewer and larger than those of one that is loaded."""
    grown, loaded = make(IVF, rows), load(IVF, rows)
    assert grown.kind == loaded.kind == IVF
    assert recall(grown, rows, queries, range(COUNT)) >= 0.88
    assert recall(loaded, rows, queries, range(COUNT)) >= 0.97


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('among', [
    range(1000), range(3000, 3100), range(4999, 5000), np.arange(0, COUNT, 7), np.array([4999])],
    ids=['a fifth', 'a few', 'one', 'every seventh', 'the last'])
def test_narrow_searches_are_exact(rows, queries, small_thresholds, kind, among):
    index = make(kind, rows)
    assert recall(index, halved(rows), queries, among) == 1


@pytest.mark.parametrize('kind', KINDS)
def test_fewer_rows_than_asked(rows, small_thresholds, kind):
    index = make(kind, rows[:1500])
    assert sorted(index.search(rows[0], TOP, range(4))) == [0, 1, 2, 3]
    found = index.search(rows[0], 2000, range(1500))
    assert len(set(found)) == len(found) <= 1500


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [0, 1, 1500])
def test_nothing_to_search(rows, small_thresholds, kind, size):
    index = make(kind, rows[:size])
    assert index.search(rows[0], TOP, range(0)) == []
    assert index.search(rows[0], TOP, np.array([], np.int64)) == []
    assert index.search(rows[0], 0, range(size)) == []
    assert index.search(rows[0], -1, range(size)) == []
    assert len(index) == size


@pytest.mark.parametrize('kind', KINDS)
def test_a_query_of_nan(rows, small_thresholds, kind):
    """It finds nothing, or anything, but only rows that there are, and the next one is right."""
    index = make(kind, rows[:1500])
    for among in (range(1500), range(100)):
        found = index.search(np.full(64, np.nan, np.float32), TOP, among)
        assert set(found) <= set(among)
    assert index.search(rows[7], 1, range(1500)) == [7]


def test_a_search_leaves_the_threads_as_they_were(rows):
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        make(FLAT, rows[:10]).search(rows[0], 1, range(10))
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


# ---- growth ------------------------------------------------------------------------------------


def test_auto_grows_into_a_graph_bit_by_bit(rows, monkeypatch):
    """No row may have to wait for the whole graph: each brings two into it."""
    monkeypatch.setattr(keyframe_index, 'GRAPH_FROM', 200)
    index = KeyframeIndex(64)
    kinds, sizes = [], []
    for number, row in enumerate(rows[:600]):
        index.add(row[None])
        kinds.append(index.kind)
        sizes.append(index._graph.ntotal if index._graph else 0)
        assert len(index) == number + 1
        if number % 23 == 0:
            assert index.search(row, 1, range(number + 1)) == [number]
    assert kinds == [FLAT] * 399 + [HNSW] * 201
    assert sizes[:200] == [0] * 200
    assert max(np.diff(sizes)) == 2
    for number in range(600):
        assert index.search(rows[number], 1, range(600)) == [number]


@pytest.mark.parametrize('at_once', [1, 7, 600])
def test_hnsw_is_a_graph_from_the_first_row(rows, at_once):
    index = make(HNSW, rows[:600], at_once)
    assert index.kind == HNSW
    assert [index.search(row, 1, range(600)) for row in rows[:600]] == [[n] for n in range(600)]


def test_ivf_has_cells_above_a_size(rows, small_thresholds):
    index = make(IVF, rows[:999], 9)
    assert index.kind == FLAT
    index.add(rows[999:1000])
    assert index.kind == IVF
    index.add(rows[1000:1500])
    for number in (0, 998, 999, 1000, 1499):
        assert index.search(rows[number], 1, range(1500)) == [number]


def test_bytes(rows, small_thresholds):
    assert KeyframeIndex(64).nbytes == 0
    assert make(FLAT, rows[:100]).nbytes == 100 * 64 * 2
    assert make(IVF, rows[:1000]).nbytes == 1000 * 64 * 2
    assert make(HNSW, rows[:100]).nbytes == 100 * (64 * 2 + 64 * 4)


# ---- removal -----------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('gone', [
    range(0, 1500, 2), range(1500), range(1200), [1499], [0], []],
    ids=['half', 'all', 'most', 'last', 'first', 'none'])
def test_rows_behind_removed_ones_move_up(rows, small_thresholds, kind, gone):
    index = make(kind, rows[:1500])
    index.remove(list(gone))
    left = np.delete(rows[:1500], list(gone), axis=0)
    assert len(index) == len(left)
    for number in range(0, len(left), 50):
        assert index.search(left[number], 1, range(len(left))) == [number]
    index.add(rows[2000:2001])
    assert index.search(rows[2000], 1, range(len(index))) == [len(left)]


def test_a_large_map_has_a_graph_again_after_a_removal(rows, small_thresholds):
    index = make(AUTO, rows[:1500])
    index.remove([3, 4])
    for start in range(1500, 3200, 10):
        index.add(rows[start : start + 10])
    assert index.kind == HNSW
    left = np.delete(rows[:3200], [3, 4], axis=0)
    assert recall(index, left, left[::40], range(len(left))) >= 0.99


# ---- the graph on disk -------------------------------------------------------------------------


@pytest.mark.parametrize('kind', [AUTO, HNSW])
@pytest.mark.parametrize('later', [0, 1, 800])
def test_a_kept_graph_comes_back(rows, queries, small_thresholds, kind, later):
    graph = make(kind, rows[: COUNT - later]).graph_bytes()
    assert len(graph) < (COUNT - later) * 64 * 6  # the links, not the descriptors
    index = load(kind, rows, graph)
    assert (index.kind, len(index)) == (HNSW, COUNT)
    assert recall(index, rows, queries, range(COUNT)) >= 0.99
    assert index.search(rows[-1], 1, range(COUNT)) == [COUNT - 1]
    assert recall(index, halved(rows), queries, range(500)) == 1
    index.add(queries[:1])
    assert index.search(queries[0], 1, range(COUNT + 1)) == [COUNT]
    again = load(kind, np.concatenate([rows, queries[:1]]), index.graph_bytes())
    assert again.search(queries[0], 1, range(COUNT + 1)) == [COUNT]
    again.remove([0])
    assert again.search(queries[0], 1, range(COUNT)) == [COUNT - 1]


def test_the_same_graph_is_not_built_again(rows, small_thresholds, monkeypatch):
    graph = make(AUTO, rows).graph_bytes()
    monkeypatch.setattr(KeyframeIndex, '_extend_graph', None)
    assert len(load(AUTO, rows, graph)) == COUNT


def test_only_a_finished_graph_is_kept(rows, small_thresholds):
    assert make(FLAT, rows[:1500]).graph_bytes() == b''
    assert make(IVF, rows[:1500]).graph_bytes() == b''
    assert make(AUTO, rows[:700]).graph_bytes() == b''
    assert KeyframeIndex(64, HNSW).graph_bytes() == b''


@pytest.mark.parametrize('kind', [FLAT, IVF])
def test_a_graph_for_who_needs_none_is_ignored(rows, small_thresholds, kind):
    graph = make(HNSW, rows[:1500]).graph_bytes()
    assert load(kind, rows[:1500], graph).kind == kind
    assert load(AUTO, rows[:900], make(HNSW, rows[:900]).graph_bytes()).kind == FLAT


@pytest.fixture(scope='module')
def damaged_graphs(rows) -> dict[str, bytes]:
    graph = make(HNSW, rows[:1500]).graph_bytes()
    flat = bytes(faiss.serialize_index(make(FLAT, rows[:1500])._flat))
    return {
        'text': b'no graph', 'one byte': b'\x00', 'begun': graph[:50], 'cut': graph[:-1],
        'half': graph[: len(graph) // 2], 'zeros': bytes(len(graph)), 'another index': flat,
        'of more rows': make(HNSW, rows[:1501]).graph_bytes(),
        'of shorter rows': make(HNSW, unit_rows(1500, 32)).graph_bytes()}


@pytest.mark.parametrize('damage', [
    'text', 'one byte', 'begun', 'cut', 'half', 'zeros', 'another index', 'of more rows',
    'of shorter rows'])
def test_a_damaged_graph_is_told_and_made_again(rows, small_graphs, damaged_graphs, damage):
    index = KeyframeIndex(64)
    with pytest.raises(MapError, match='it is made again'):
        index.load([rows[:1500]], damaged_graphs[damage])
    assert (index.kind, len(index)) == (HNSW, 1500)
    assert [index.search(row, 1, range(1500)) for row in rows[:1500:50]] == [
        [number] for number in range(0, 1500, 50)]
