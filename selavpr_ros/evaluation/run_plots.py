"""Pictures of a run: the similarity matrix, and the trajectory with its loop closures.

They are made from records alone, so a live demo draws the same ones. Every function returns a new
matplotlib Figure; `figure.savefig(path)` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selavpr_ros.evaluation.closure_metrics import closure_truth, is_by_local, judge_best
from selavpr_ros.evaluation.precision import PrecisionRecall
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import GroundTruth
from selavpr_ros.recordings.records import QueryRecord, Run

# Colour, marker and legend by truth; the marker tells them apart without colours, too.
STYLES: dict[bool | None, tuple[str, str, str]] = {
    True: ('#1a9641', 'o', 'true loop closures'),
    False: ('#d7191c', 'X', 'false loop closures'),
    None: ('#2c7bb6', 's', 'loop closures, truth unknown'),
}
WAY_COLOUR = '#9a9a9a'
# A query with a loop closure, and the images of the query and of the keyframe, (H,W,3) uint8 RGB.
Pair = tuple[QueryRecord, np.ndarray, np.ndarray]
MAX_CELLS = 1500  # a side of the matrix: more than the picture has pixels


def _start_ns(run: Run) -> int:
    return min((query.stamp_ns for query in run.queries), default=0)


def _seconds(stamps_ns: Sequence[int], start_ns: int) -> np.ndarray:
    return np.array([(stamp_ns - start_ns) * 1e-9 for stamp_ns in stamps_ns])


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells around increasing centres: (n,) -> (n + 1,)."""
    if len(centres) < 2:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles,
                           [2 * centres[-1] - middles[-1]]])


def _thinned(records: list[QueryRecord]) -> list[QueryRecord]:
    return records[:: 1 + len(records) // MAX_CELLS]


def _described(run: Run) -> list[QueryRecord]:
    """Queries with a descriptor, by time; if stamps jump back, only those from the last jump."""
    described = [query for query in run.queries if query.global_descriptor is not None]
    start = 0
    for i in range(1, len(described)):
        if described[i].stamp_ns <= described[i - 1].stamp_ns:
            start = i
    return described[start:]


def _similarity(rows: list[QueryRecord], columns: list[QueryRecord]) -> np.ndarray:
    sides = [np.array([record.global_descriptor for record in side]) for side in (rows, columns)]
    return sides[0] @ sides[1].T


def _colour_limits(similarity: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """Range of the grey scale, from all similarities but those of an image with itself."""
    others = similarity[~same]
    low, high = np.percentile(others, [1, 99.5]) if others.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def _draw_matrix(figure: Figure, axes: Axes, run: Run, start_ns: int) -> None:
    rows = _thinned(_described(run))
    columns = _thinned([query for query in _described(run) if query.keyframe_id])
    if not columns:
        return
    similarity = _similarity(rows, columns)
    row_s, column_s = (_seconds([r.stamp_ns for r in side], start_ns) for side in (rows, columns))
    low, high = _colour_limits(similarity, row_s[:, None] == column_s)
    mesh = axes.pcolormesh(_edges(column_s), _edges(row_s), similarity, cmap='gray', vmin=low,
                           vmax=high, rasterized=True)
    figure.colorbar(mesh, ax=axes, label='similarity (cosine of the global descriptors)',
                    extend='both', shrink=0.8)


def _closures_by_truth(
    run: Run, truth: GroundTruth | None
) -> dict[bool | None, list[QueryRecord]]:
    groups: dict[bool | None, list[QueryRecord]] = {True: [], None: [], False: []}
    for query in run.queries:
        if query.closure:
            groups[closure_truth(query, truth)].append(query)
    return groups


def _draw_closures_in_time(
    axes: Axes, run: Run, truth: GroundTruth | None, start_ns: int
) -> None:
    for verdict, queries in _closures_by_truth(run, truth).items():
        if queries:
            colour, marker, name = STYLES[verdict]
            match_ns = [query.closure.match_stamp_ns for query in queries if query.closure]
            axes.scatter(
                _seconds(match_ns, start_ns),
                _seconds([query.stamp_ns for query in queries], start_ns),
                s=10, color=colour, marker=marker, linewidths=0,
                label=f'{len(queries)} {name}')


def _legend_below(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.11), ncols=4, frameon=False)


def _label_times(axes: Axes) -> None:
    axes.set_xlabel('time of the keyframe [s]')
    axes.set_ylabel('time of the query [s]')
    axes.set_aspect('equal')


def draw_similarity_matrix(run: Run, truth: GroundTruth | None = None) -> Figure:
    """All queries against all keyframes: grey is their similarity, dots are the loop closures.

    A place seen again on the same way shows as a bright line beside the diagonal. Without
    descriptors in the records only the loop closures are drawn.
    """
    figure = Figure(figsize=(8, 7), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    start_ns = _start_ns(run)
    _draw_matrix(figure, axes, run, start_ns)
    _draw_closures_in_time(axes, run, truth, start_ns)
    _label_times(axes)
    axes.set_title(f'Similarity of {len(run.queries)} queries and {len(run.keyframes)} keyframes')
    _legend_below(axes)
    return figure


def _choose_poses(run: Run, truth: GroundTruth | None) -> tuple[str, dict[int, Pose]]:
    """Poses by stamp, also of what was matched: true ones if there are any, else odometry's."""
    if truth:
        stamps_ns = [query.stamp_ns for query in run.queries]
        stamps_ns += [query.closure.match_stamp_ns for query in run.queries if query.closure]
        true = {stamp_ns: truth.pose_at(stamp_ns) for stamp_ns in stamps_ns}
        known = {stamp_ns: pose for stamp_ns, pose in true.items() if pose}
        if known:
            return 'ground truth', known
    odometry = {q.stamp_ns: q.pose for q in run.queries if q.pose}
    odometry |= {k.stamp_ns: k.pose for k in run.keyframes if k.pose}
    return 'odometry', odometry


def _positions(poses: dict[int, Pose], stamps_ns: Sequence[int]) -> np.ndarray:
    """(n, 2) metres; NaN where unknown, which leaves a gap in a line."""
    unknown = np.full(2, np.nan)
    return np.array([
        poses[ns].translation_m[:2] if ns in poses else unknown for ns in stamps_ns
    ]).reshape(-1, 2)


def _draw_way(axes: Axes, run: Run, poses: dict[int, Pose]) -> None:
    start_ns = _start_ns(run)  # a matched keyframe may be of an earlier day
    way = _positions(poses, sorted(stamp_ns for stamp_ns in poses if stamp_ns >= start_ns))
    axes.plot(*way.T, color=WAY_COLOUR, linewidth=1, zorder=1)
    keyframes = _positions(poses, [keyframe.stamp_ns for keyframe in run.keyframes])
    axes.scatter(keyframes[:, 0], keyframes[:, 1], s=5, color=WAY_COLOUR, zorder=1,
                 label=f'{len(run.keyframes)} keyframes')
    for end, marker, name in ((0, '^', 'start'), (-1, 'v', 'end')):
        axes.scatter(way[end, 0], way[end, 1], s=60, marker=marker, facecolor='white',
                     edgecolor='black', zorder=4, label=name)


def _draw_closures_in_space(
    axes: Axes, run: Run, truth: GroundTruth | None, poses: dict[int, Pose]
) -> None:
    for verdict, queries in _closures_by_truth(run, truth).items():
        if not queries:
            continue
        colour, marker, name = STYLES[verdict]
        here = _positions(poses, [query.stamp_ns for query in queries])
        there = _positions(poses, [q.closure.match_stamp_ns for q in queries if q.closure])
        gap = np.full_like(here, np.nan)
        lines = np.stack([here, there, gap], axis=1).reshape(-1, 2)
        axes.plot(*lines.T, color=colour, linewidth=1.2, alpha=0.8, zorder=2)
        axes.scatter(here[:, 0], here[:, 1], s=16, color=colour, marker=marker, linewidths=0,
                     zorder=3, label=f'{len(queries)} {name}')


def _draw_trajectory(axes: Axes, run: Run, truth: GroundTruth | None) -> None:
    source, poses = _choose_poses(run, truth)
    if poses:
        _draw_way(axes, run, poses)
        _draw_closures_in_space(axes, run, truth, poses)
        axes.set(xlabel='x [m]', ylabel='y [m]', title=f'Loop closures on the way ({source})')
        axes.set_aspect('equal', adjustable='datalim')
    else:
        start_ns = _start_ns(run)
        end_s = (max((q.stamp_ns for q in run.queries), default=start_ns) - start_ns) * 1e-9
        axes.plot([0, end_s], [0, end_s], color=WAY_COLOUR, linewidth=1)
        _draw_closures_in_time(axes, run, truth, start_ns)
        _label_times(axes)
        axes.set_title('No poses: which time each loop closure leads back to')
    axes.grid(color='#e5e5e5', linewidth=0.5)
    axes.set_axisbelow(True)
    _legend_below(axes)


def draw_trajectory(run: Run, truth: GroundTruth | None = None) -> Figure:
    """The way seen from above; a line leads from every accepted query to its keyframe.

    Without any poses, a time line shows which earlier time each query was matched with.
    """
    figure = Figure(figsize=(8, 7), dpi=120, layout='constrained')
    _draw_trajectory(figure.add_subplot(), run, truth)
    return figure


def _draw_pair(axes: Sequence[Axes], pair: Pair, truth: GroundTruth | None) -> None:
    query, *images = pair
    assert query.closure
    colour = STYLES[closure_truth(query, truth)][0]
    titles = (f'query {query.keyframe_id or ""}',
              f'keyframe {query.closure.match_id}: {query.closure.local_matches} mutual matches')
    for side, image, title in zip(axes, images, titles, strict=True):
        side.imshow(image)
        side.set(xticks=[], yticks=[])
        side.set_title(title, fontsize=9)
        for spine in side.spines.values():
            spine.set(color=colour, linewidth=2.5)


def draw_report(run: Run, truth: GroundTruth | None, pairs: Sequence[Pair]) -> Figure:
    """The trajectory, and beside it some loop closures as pictures: query and keyframe."""
    figure = Figure(figsize=(13, 7.5), dpi=110, layout='constrained')
    left, right = cast(np.ndarray, figure.subfigures(1, 2, width_ratios=(1.4, 1)))
    _draw_trajectory(left.add_subplot(), run, truth)
    if pairs:
        grid = right.subplots(len(pairs), 2, squeeze=False)
        for axes, pair in zip(grid, pairs, strict=True):
            _draw_pair(axes, pair, truth)
    return figure


class Curve(NamedTuple):
    """Precision over recall with its name in the legend; `style` is matplotlib's."""

    name: str
    points: PrecisionRecall
    colour: str = 'C0'
    style: str = '-'


def _draw_curve(axes: Axes, curve: Curve) -> None:
    points = curve.points
    first = points.precision[:1].max(initial=0.0)
    axes.plot([0.0, *points.recall], [first, *points.precision], curve.style, color=curve.colour,
              linewidth=1.6, label=f'{curve.name}: {points.safe_recall:.3f} at precision 1')
    axes.plot(points.safe_recall, 1.0, 'o', color=curve.colour, clip_on=False,
              fillstyle='full' if curve.style == '-' else 'none')


def draw_curves(curves: Sequence[Curve], title: str) -> Figure:
    """Draw precision over recall.

    A dot marks the end of precision 1: the maximum recall without a false answer.
    """
    figure = Figure(figsize=(7, 5.5), dpi=110, layout='constrained')
    axes = figure.add_subplot()
    for curve in curves:
        _draw_curve(axes, curve)
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02), title=title)
    axes.grid(color='#e5e5e5', linewidth=0.5)
    axes.legend(loc='lower left', fontsize=9)
    return figure


def draw_best(run: Run, truth: GroundTruth, revisits: int) -> Figure:
    """Draw precision over recall of the best candidates by their score (`judge_best`)."""
    score = 'local score' if is_by_local(run) else 'similarity'
    return draw_curves([Curve(score, judge_best(run, truth, revisits))],
                       f'What the {score} of the best candidate is worth as a gate')
