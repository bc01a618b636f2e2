"""Pictures of an evaluation: hits and misses, and precision over recall.

The functions return a new matplotlib Figure; `figure.savefig(path)` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from selavpr_ros.evaluation.html import shrunk
from selavpr_ros.evaluation.precision import judge_scores
from selavpr_ros.evaluation.recall import GLOBAL, RERANKED, Evaluation
from selavpr_ros.evaluation.report import spread
from selavpr_ros.evaluation.run_plots import STYLES, Curve, draw_curves
from selavpr_ros.images.compressed import read_image

QUERIES = 12
MISSES = 9  # at most 9 of the 12 are misses, so that some hits show what the system can do
COLUMN_INCHES, ROW_INCHES = 2.6, 2.1
HEAD_INCHES, LABEL_INCHES = 1.5, 1.2
SHOWN_WIDTH = 320  # pixels
COLOURS = {hit: STYLES[hit][0] for hit in (True, False)}
NEUTRAL = '#9a9a9a'
UNITS = {GLOBAL: 'similarity {:.3f}', RERANKED: '{:.0f} mutual matches'}
LINES = ('--', '-')  # line styles of the ways of ordering
OTHER_UNIT = '{:.0f} matches'


def choose_queries(hits: Sequence[bool], count: int = QUERIES) -> list[int]:
    """Choose queries to show: misses first, each group spread over the whole set.

    Args:
        hits: for every query, whether the best answer is right.
        count: at most so many; a quarter of them is left to hits, if there are any.
    """
    missed = [query for query, hit in enumerate(hits) if not hit]
    found = [query for query, hit in enumerate(hits) if hit]
    misses = spread(missed, max(count - len(found), count * MISSES // QUERIES))
    return misses + spread(found, count - len(misses))


def _draw_image(
    axes: Axes, image: Path | np.ndarray, text: str, colour: str = NEUTRAL
) -> None:
    axes.imshow(shrunk(read_image(image), SHOWN_WIDTH))
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, fontsize=8, color=colour if colour != NEUTRAL else 'black', labelpad=3)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=1 if colour == NEUTRAL else 3.5)


def label(image: Path | np.ndarray, index: int) -> str:
    """A short name for an image: that of its file if it is short, else its number."""
    name = image.stem if isinstance(image, Path) else ''
    return name if 0 < len(name) <= 16 else f'number {index}'


def tell_score(way: str, score: float) -> str:
    """A score of a way of ordering with its unit."""
    return UNITS.get(way, OTHER_UNIT).format(score)


def _draw_query(axes: Sequence[Axes], evaluation: Evaluation, number: int) -> None:
    """One row: the query, the best answer of every way, a true image."""
    asked, ways = evaluation.evaluation_set, evaluation.rankings
    query = asked.answerable[number]
    true = asked.positives[query]
    _draw_image(axes[0], asked.queries[query], label(asked.queries[query], query))
    for column, (way, rankings) in zip(axes[1:], ways.items(), strict=False):
        best, score = rankings[number].database[0], rankings[number].scores[0]
        hit = best in true
        image = asked.database[best]
        told = tell_score(way, score)
        _draw_image(column, image, f'{"hit" if hit else "miss"}: {label(image, best)}, {told}',
                    COLOURS[hit])
    image = asked.database[true[0]]
    ranks = [evaluation.hit_ranks(way)[number] for way in ways]
    told = ' / '.join('-' if rank is None else str(rank + 1) for rank in ranks)
    _draw_image(axes[-1], image, f'{label(image, true[0])}; first true at rank {told}')


def _draw_overview(axes: Axes, evaluation: Evaluation) -> None:
    """A stripe per way: all queries in their order, hits green and misses red."""
    hits = np.array([[rank == 0 for rank in evaluation.hit_ranks(way)]
                     for way in evaluation.rankings])
    axes.imshow(hits, aspect='auto', interpolation='nearest', vmin=0, vmax=1,
                cmap=ListedColormap([COLOURS[False], COLOURS[True]]))
    axes.set_yticks(range(len(hits)), [
        f'{way} {share:.3f}' for way, share in zip(evaluation.rankings, hits.mean(1), strict=True)
    ], fontsize=9)
    axes.set_yticks(np.arange(1, len(hits)) - 0.5, minor=True)
    axes.grid(which='minor', axis='y', color='white', linewidth=3)
    axes.tick_params(which='both', length=0, labelsize=9)
    axes.set_title(
        f'{evaluation.method} on {evaluation.evaluation_set.name}: recall@1, and hit or miss of '
        f'all {hits.shape[1]} queries in their order', fontsize=10, loc='left')


def draw_hits_and_misses(evaluation: Evaluation, count: int = QUERIES) -> Figure:
    """Draw some queries, misses first, with what every way of ordering found for them.

    Green frames are hits, red ones misses, by the last way (re-ranked, where there is one). The
    true image is the nearest one; below it stands the rank, from 1, of the first true image in
    every way, '-' if none is among the best `top_k`.

    Args:
        evaluation: the answers of one method.
        count: rows, at most.

    Raises:
        ImageError: a file cannot be read.
    """
    ways = list(evaluation.rankings)
    chosen = choose_queries([rank == 0 for rank in evaluation.hit_ranks(ways[-1])], count)
    columns = len(ways) + 2
    width, height = COLUMN_INCHES * columns, ROW_INCHES * len(chosen) + HEAD_INCHES
    figure = Figure(figsize=(width, height), dpi=100)
    # Fixed margins: matplotlib's own layouts take seconds for so many axes.
    side, head = 0.1 / width, HEAD_INCHES / height
    _draw_overview(figure.add_axes((
        LABEL_INCHES / width, 1 - 0.6 * head, 1 - side - LABEL_INCHES / width, 0.35 * head)),
        evaluation)
    grid = figure.subplots(
        len(chosen), columns, squeeze=False, gridspec_kw={
            'left': side, 'right': 1 - side, 'top': 1 - head, 'bottom': 0.25 / height,
            'wspace': 0.04, 'hspace': 0.16})
    for axes, number in zip(grid, chosen, strict=True):
        _draw_query(axes, evaluation, number)
    titles = ['query', *(f'best, {way}' for way in ways), 'a true image']
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    return figure


def draw_precision_recall(evaluations: Sequence[Evaluation]) -> Figure:
    """Draw precision over recall for every method and way of ordering (`draw_curves`)."""
    curves = [
        Curve(f'{evaluation.method.split("/")[0]}, {way}', judge_scores(evaluation, way),
              f'C{number}', style)
        for number, evaluation in enumerate(evaluations)
        for way, style in zip(evaluation.rankings, LINES, strict=False)]
    name = evaluations[0].evaluation_set.name
    return draw_curves(curves, f'What a score is worth as a gate: {name}')
