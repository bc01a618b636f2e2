"""Tables of what a keyframe map costs, and of its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from selavpr_ros.evaluation.map_costs.results import TARGETS, CodecRecall, MapCosts, SizeCosts
from selavpr_ros.evaluation.map_costs.sizes import CACHE_BYTES
from selavpr_ros.evaluation.result_folder import write_json
from selavpr_ros.maps.keyframe_index import AUTO
from selavpr_ros.maps.local_codec import BINARY, FLOAT16
from selavpr_ros.text import Row, markdown_table

TITLES = {
    'bytes': 'Bytes of a keyframe',
    'times': 'Matching a candidate',
    'recalls': 'Recall@1 by codec',
    'sizes': 'Maps of several sizes',
    'process': 'Memory of a whole program',
    'estimates': 'Estimate, not measured',
}


def _bytes_rows(costs: MapCosts) -> Iterator[Row]:
    yield 'system', 'codec', 'local features', 'target', 'in the map file', 'with a thumbnail'
    for one in costs.bytes:
        most = TARGETS.local_bytes.get(one.codec)
        yield (one.system, one.codec, f'{one.local:,}', f'<= {most:,}' if most else '',
               f'{one.in_file:,.0f}', f'{one.with_thumbnail:,.0f}')


def _times_rows(costs: MapCosts) -> Iterator[Row]:
    yield 'system', 'codec', 'ms', 'float16 takes'
    whole = {one.system: one.candidate_ms for one in costs.times if one.codec == FLOAT16}
    for one in costs.times:
        yield (one.system, one.codec, f'{one.candidate_ms:.1f}',
               f'{whole[one.system] / one.candidate_ms:.1f}x')


def lost_recall(costs: MapCosts, one: CodecRecall) -> float:
    """Recall@1 that a codec loses against float16."""
    return next(whole.recall_1 - one.recall_1 for whole in costs.recalls if (
        whole.set, whole.model_id, whole.codec) == (one.set, one.model_id, FLOAT16))


def _recalls_rows(costs: MapCosts) -> Iterator[Row]:
    yield 'model', 'set', 'queries', 'codec', 'recall@1', 'lost', 'target'
    for one in costs.recalls:
        most = TARGETS.lost_recall.get(one.codec)
        yield (one.model_id, one.set, str(one.queries), one.codec, f'{one.recall_1:.3f}',
               f'{lost_recall(costs, one):.3f}', '' if most is None else f'<= {most:g}')


def _sizes_rows(costs: MapCosts) -> Iterator[Row]:
    yield ('keyframes', 'index', 'in use', 'search ms (p95)', 'recall@20', 'recall@1',
           'insertion ms (p95)', 'in the index alone', 'opening s', 'without its graph',
           'writing it', 'MB')
    for one in costs.sizes:
        graph_s = (one.opening_without_graph_s, one.keeping_graph_s)
        yield (
            f'{one.size:,}', one.index, one.in_use,
            f'{one.search_ms:.2f} ({one.search_p95_ms:.2f})', f'{one.recall_20:.4f}',
            f'{one.recall_1:.3f}', f'{one.insertion_ms:.2f} ({one.insertion_p95_ms:.2f})',
            f'{one.index_insertion_ms:.2f}', f'{one.opening_s:.2f}',
            *('' if seconds is None else f'{seconds:.2f}' for seconds in graph_s),
            f'{one.memory_bytes / 1e6:.0f}')


def _process_rows(costs: MapCosts) -> Iterator[Row]:
    process = costs.process
    assert process
    yield ('keyframes', 'peak MiB', 'before the map', 'opening s', 'reading local features ms')
    yield (f'{process.keyframes:,}', f'{process.peak_bytes / 2**20:.0f}',
           f'{process.loaded_bytes / 2**20:.0f}', f'{process.opening_s:.2f}',
           f'{process.reading_ms:.2f}')


def _estimates_rows(costs: MapCosts) -> Iterator[Row]:
    yield 'keyframes', 'index', 'search ms', 'insertion ms', 'opening s', 'memory GB'
    for one in costs.estimates:
        yield (f'{one.size:,}', one.index, f'{one.search_ms:.1f}', f'{one.insertion_ms:.1f}',
               f'{one.opening_s:.0f}', f'{one.memory_bytes / 1e9:.1f}')


ROWS: dict[str, Callable[[MapCosts], Iterator[Row]]] = {
    'bytes': _bytes_rows, 'times': _times_rows, 'recalls': _recalls_rows, 'sizes': _sizes_rows,
    'process': _process_rows, 'estimates': _estimates_rows}
TEXTS = {'bytes': 2, 'times': 2, 'recalls': 2, 'process': 0}  # leading columns of text


def _remark(part: str, costs: MapCosts) -> str:
    """How a table is to be read."""
    if part == 'sizes':
        return (
            'Search: the 20 best, without the 20 newest keyframes. Insertion: onto the disk, with '
            "SelaVPR's local features as binary; every 5000th one also writes the graph. Opening: "
            "not in the system's cache. MB: descriptors and index.")
    if part == 'process':
        return (f'torch, a model, the map, and its local features, each read once through a '
                f'cache of {CACHE_BYTES >> 20} MiB.')
    if part == 'estimates':
        return (
            'Extrapolated from the two largest maps above: times go on growing by the same factor '
            'for a tenfold size, memory by keyframe, with '
            f'{costs.object_bytes:.0f} bytes of Python objects each. On the disk: '
            + ', '.join(f'{gigabytes:.0f} GB ({codec})' for codec, gigabytes in _disk(costs))
            + ", with SelaVPR's sizes and thumbnails.")
    return ''


def _disk(costs: MapCosts) -> Iterator[tuple[str, float]]:
    """GB of the estimated map by codec."""
    size = costs.estimates[0].size
    for one in costs.bytes:
        if one.system == 'SelaVPR':
            yield one.codec, one.with_thumbnail * size / 1e9


def format_part(part: str, costs: MapCosts) -> str:
    """A part in Markdown; if something is left out, it says why."""
    text = f'## {TITLES[part]}\n'
    if getattr(costs, part):
        table = markdown_table(list(ROWS[part](costs)), texts=TEXTS.get(part, 0))
        text += f'\n{table}'
        remark = _remark(part, costs)
        if remark:
            text += f'\n{remark}\n'
    if part in costs.left_out:
        text += f'\nLeft out: {costs.left_out[part]}.\n'
    return text


# ---- targets ------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """One target, and what was measured."""

    what: str
    target: str
    measured: str
    is_met: bool


def _codec_verdicts(costs: MapCosts) -> Iterator[Verdict]:
    for one in costs.bytes:
        if one.codec in TARGETS.local_bytes:
            most = TARGETS.local_bytes[one.codec]
            yield Verdict(f'{one.system}, {one.codec}: bytes of local features', f'<= {most:,}',
                          f'{one.local:,}', one.local <= most)
    for recall in costs.recalls:
        if recall.codec in TARGETS.lost_recall:
            most_lost, lost = TARGETS.lost_recall[recall.codec], lost_recall(costs, recall)
            model = recall.model_id.split('/')[0]
            name = f'{model}, {recall.codec}: recall@1 lost on {recall.set}'
            # 0.96 - 0.95 is a little more than 0.01.
            yield Verdict(name, f'<= {most_lost:g}', f'{lost:.3f}', lost <= most_lost + 1e-9)


def _speed_verdict(costs: MapCosts) -> Iterator[Verdict]:
    times = {one.codec: one.candidate_ms for one in costs.times if one.system == 'SelaVPR'}
    if times:
        speedup = times[FLOAT16] / times[BINARY]
        yield Verdict('binary matching, faster than float16', f'>= {TARGETS.binary_speedup:g}x',
                      f'{speedup:.1f}x', speedup >= TARGETS.binary_speedup)


def _size_verdicts(one: SizeCosts) -> Iterator[Verdict]:
    where = f'{one.size:,} keyframes, {one.index}'
    for what, value, most, unit in (
            ('search', one.search_ms, TARGETS.search_ms, 'ms'),
            ('insertion', one.insertion_ms, TARGETS.insertion_ms, 'ms'),
            ('opening', one.opening_s, TARGETS.opening_s, 's')):
        yield Verdict(f'{where}: {what}', f'< {most:g} {unit}', f'{value:.2f} {unit}',
                      value < most)
    yield Verdict(f'{where}: recall@20', f'>= {TARGETS.recall:g}', f'{one.recall_20:.4f}',
                  one.recall_20 >= TARGETS.recall)


def verdicts(costs: MapCosts) -> Iterator[Verdict]:
    """All targets that were measured; of the sizes, the largest with the index 'auto'."""
    yield from _codec_verdicts(costs)
    yield from _speed_verdict(costs)
    largest = max((one for one in costs.sizes if one.index == AUTO), key=lambda one: one.size,
                  default=None)
    if largest:
        yield from _size_verdicts(largest)
    if costs.process:
        peak, most = costs.process.peak_bytes, TARGETS.process_bytes
        yield Verdict(f'{costs.process.keyframes:,} keyframes: memory of a program',
                      f'< {most >> 20} MiB', f'{peak / 2**20:.0f} MiB', peak < most)


def format_verdicts(costs: MapCosts) -> str:
    """The targets in Markdown."""
    rows: list[Row] = [('what', 'target', 'measured', '')]
    rows += [(*verdict[:3], 'met' if verdict.is_met else '**missed**')
             for verdict in verdicts(costs)]
    return f'## Targets\n\n{markdown_table(rows, texts=1)}'


def write_costs(path: Path, costs: MapCosts, used: dict[str, str]) -> None:
    """Write the numbers as JSON, with the versions that were used."""
    found = {'versions': used, **asdict(costs),
             'targets': [verdict._asdict() for verdict in verdicts(costs)]}
    write_json(path, found)
