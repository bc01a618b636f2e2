"""What a keyframe map costs, as one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from selavpr_ros.evaluation.map_costs.results import TARGETS, MapCosts, SizeCosts
from selavpr_ros.maps.keyframe_index import AUTO, FLAT, HNSW, IVF
from selavpr_ros.maps.local_codec import BINARY, FLOAT16, INT8, NONE

COLOURS = {FLAT: '#2c7bb6', HNSW: '#1a9641', IVF: '#e08214', AUTO: '#404040'}
CODEC_COLOURS = {FLOAT16: '#2c7bb6', INT8: '#74add1', BINARY: '#1a9641', NONE: '#b0b0b0'}
TARGET_COLOUR = '#d7191c'
SHOWN_CODECS = (FLOAT16, INT8, BINARY, NONE)


def _short(number: float) -> str:
    """3000 as '3k'."""
    return f'{number / 1e6:g}M' if number >= 1e6 else (
        f'{number / 1e3:g}k' if number >= 1e3 else f'{number:g}')


def _draw_lines(
    axes: Axes, sizes: Sequence[SizeCosts], value: Callable[[SizeCosts], float], title: str,
    target: float | None = None,
) -> None:
    """Draw a value over the size of the map, a line per index; 'auto' lies on another one."""
    for index in dict.fromkeys(one.index for one in sizes):
        ours = sorted((one for one in sizes if one.index == index), key=lambda one: one.size)
        is_auto = index == AUTO
        axes.plot([one.size for one in ours], [value(one) for one in ours], label=index,
                  color=COLOURS[index], linestyle=':' if is_auto else '-', marker='.',
                  linewidth=2.4 if is_auto else 1.6, markersize=8, zorder=3 if is_auto else 2)
    if target is not None:
        axes.axhline(target, color=TARGET_COLOUR, linestyle='--', linewidth=1.2, label='target')
    axes.set(xscale='log', yscale='log', xlabel='keyframes',
             xticks=sorted({one.size for one in sizes}))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda number, _: _short(number))
        axis.set_minor_formatter(NullFormatter())
    # Values within one decade would leave an axis without a number.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.set_title(title, fontsize=10, loc='left')
    axes.grid(color='#e5e5e5', linewidth=0.5)


def _draw_sizes(row: Sequence[Axes], costs: MapCosts) -> None:
    for axes, title, value, target in (
            (row[0], 'search [ms]', lambda one: one.search_ms, TARGETS.search_ms),
            (row[1], 'insertion of a keyframe, durable [ms]', lambda one: one.insertion_ms,
             TARGETS.insertion_ms),
            (row[2], 'opening, from a cold disk [s]', lambda one: one.opening_s,
             TARGETS.opening_s),
            (row[3], 'descriptors and index [MB]', lambda one: one.memory_bytes / 1e6, None)):
        _draw_lines(axes, costs.sizes, value, title, target)
    row[0].legend(fontsize=9, loc='best')


def _draw_bars(
    axes: Axes, groups: Sequence[str], values: Mapping[str, Sequence[float]], title: str,
    form: str,
) -> None:
    """Groups side by side, one bar per codec; the values stand on the bars."""
    width = 0.84 / len(values)
    for number, (codec, heights) in enumerate(values.items()):
        places = np.arange(len(groups)) + (number - (len(values) - 1) / 2) * width
        bars = axes.bar(places, heights, 0.94 * width, color=CODEC_COLOURS[codec], label=codec)
        axes.bar_label(bars, fmt=form, fontsize=8, padding=1)
    axes.set_xticks(range(len(groups)), groups, fontsize=9)
    axes.set_title(title, fontsize=10, loc='left')
    axes.tick_params(axis='x', length=0)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)


def _draw_bytes(axes: Axes, costs: MapCosts) -> None:
    systems = list(dict.fromkeys(one.system for one in costs.bytes))
    sizes = {(one.system, one.codec): one.with_thumbnail for one in costs.bytes}
    values = {codec: [sizes.get((system, codec), np.nan) / 1e3 for system in systems]
              for codec in SHOWN_CODECS}
    _draw_bars(axes, systems, values, 'map file, with a thumbnail [kB a keyframe]', '%.0f')
    axes.set_yscale('log')
    axes.set_ylim(1, 4 * max(sizes.values()) / 1e3)
    axes.yaxis.set_major_formatter(lambda number, _: _short(number))
    axes.legend(fontsize=9, frameon=False, ncols=4, loc='upper right', columnspacing=1,
                handlelength=1)


def _draw_recalls(axes: Axes, costs: MapCosts) -> None:
    groups = list(dict.fromkeys((one.model_id, one.set) for one in costs.recalls))
    values = {codec: [one.recall_1 for one in costs.recalls if one.codec == codec]
              for codec in SHOWN_CODECS}
    names = [f'{model_id.split("/")[0]}\n{name}' for model_id, name in groups]
    _draw_bars(axes, names, values, "recall@1; 'none' is not re-ranked; target of binary", '%.2f')
    axes.set_ylim(0, 1.08)
    lowest = [share - TARGETS.lost_recall[BINARY] for share in values[FLOAT16]]
    places = np.arange(len(groups))
    axes.hlines(lowest, places - 0.42, places + 0.42, colors=TARGET_COLOUR, linestyles='--',
                linewidth=1.2, zorder=3)


def _draw_times(axes: Axes, costs: MapCosts) -> None:
    systems = list(dict.fromkeys(one.system for one in costs.times))
    times = {(one.system, one.codec): one.candidate_ms for one in costs.times}
    values = {codec: [times[system, codec] for system in systems]
              for codec in SHOWN_CODECS if codec != NONE}
    _draw_bars(axes, systems, values, 'matching a candidate [ms]', '%.3g')


def draw_costs(costs: MapCosts) -> Figure:
    """Curves over the size of the map, and bars by codec; targets are dashed."""
    figure = Figure(figsize=(15, 7.6), dpi=110, layout='constrained')
    above, below = cast(np.ndarray, figure.subfigures(2, 1, height_ratios=(1.1, 1)))
    if costs.sizes:
        _draw_sizes(above.subplots(1, 4), costs)
    draw = [(_draw_bytes, 1.3), (_draw_times, 1.0)]
    if costs.recalls:
        draw.append((_draw_recalls, 0.6 * len({(r.model_id, r.set) for r in costs.recalls})))
    panels = below.subplots(1, len(draw), width_ratios=[width for _, width in draw])
    for axes, (draw_one, _) in zip(panels, draw, strict=True):
        draw_one(axes, costs)
    return figure
