"""The result folder of a run: everything that explains it, for spreadsheets, programs and eyes.

    settings.yaml          all settings used, as parameters that the node takes, too
    metrics.json           the numbers, and what they were made with
    queries.csv            one row per processed image: its outcome and its best candidate
    candidates.csv         one row per candidate of every query
    keyframes.csv          the map
    similarity_matrix.png  all queries against all keyframes
    trajectory.png         the way with its loop closures
    log.txt                what happened in between
"""

from __future__ import annotations

import csv
import json
import logging
import math
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

import selavpr_ros
from selavpr_ros.decision.gates import Decision
from selavpr_ros.errors import FolderError
from selavpr_ros.evaluation.closure_metrics import Metrics, TruthMetrics, outcome
from selavpr_ros.evaluation.run_plots import draw_best, draw_similarity_matrix, draw_trajectory
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.place_recognizer import STAGES
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import GroundTruth
from selavpr_ros.recordings.records import (
    EVIDENCE,
    CandidateRecord,
    KeyframeRecord,
    QueryRecord,
    Run,
)
from selavpr_ros.settings import Settings

LOG_FORMAT = '%(asctime)s %(levelname)s %(name)s: %(message)s'
Row = dict[str, object]


def make_folder(path: Path, overwrite: bool = False) -> Path:
    """Make the folder for the results; `overwrite` allows one that holds files already.

    Raises:
        FolderError: it holds something, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise FolderError(f'{path} cannot take the results: {error.strerror}') from error
    if taken and not overwrite:
        raise FolderError(f'{path} is not empty: choose another folder, or pass --overwrite')
    return path


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what the package logs into a file."""
    logger = logging.getLogger('selavpr_ros')
    handler = logging.FileHandler(path, mode='w', encoding='utf-8')
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


# ---- settings and versions -------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    loaded = {name: sys.modules[name] for name in ('torch', 'timm', 'faiss', 'numpy', 'cv2')
              if name in sys.modules}
    return {
        'selavpr_ros': selavpr_ros.__version__,
        'python': platform.python_version(),
        **{name: str(getattr(module, '__version__', '?')) for name, module in loaded.items()},
    }


def write_settings(path: Path, settings: Settings, facts: dict[str, Any]) -> None:
    """Write the settings as a parameter file for the node; what else was used as comments."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.flat().items()
    }
    comment = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    lines = [f'# {line}' for line in comment.splitlines()]
    body = yaml.safe_dump({'/**': {'ros__parameters': values}}, sort_keys=False,
                          allow_unicode=True)
    path.write_text('\n'.join(lines) + '\n' + body, encoding='utf-8')


# ---- tables ----------------------------------------------------------------------------------


class _Clock:
    """Stamps as spreadsheets can show them: seconds since the first query, and all digits."""

    def __init__(self, run: Run) -> None:
        self._start_ns = run.queries[0].stamp_ns if run.queries else 0

    def columns(self, prefix: str, stamp_ns: int | None) -> Row:
        if stamp_ns is None:
            return {f'{prefix}_s': '', f'{prefix}_ns': ''}
        seconds = (stamp_ns - self._start_ns) * 1e-9
        return {f'{prefix}_s': f'{seconds:.3f}', f'{prefix}_ns': stamp_ns}


def _id_columns(prefix: str, keyframe_id: KeyframeId | None) -> Row:
    # Two columns: a spreadsheet takes '1:23' for a time of the day.
    return {
        f'{prefix}session': keyframe_id.session_id if keyframe_id else '',
        f'{prefix}keyframe': keyframe_id.keyframe_id if keyframe_id else '',
    }


def _pose_columns(pose: Pose | None) -> Row:
    names = ('x_m', 'y_m', 'z_m', 'qx', 'qy', 'qz', 'qw')
    if pose is None:
        return dict.fromkeys(names, '')
    numbers = [*pose.translation_m.tolist(), *pose.rotation.tolist()]
    return {name: f'{number:.6f}' for name, number in zip(names, numbers, strict=True)}


def _cell(value: float) -> float | str:
    """A number of a candidate; empty where it is not known."""
    if isinstance(value, int):
        return value
    return '' if math.isnan(value) else f'{value:.4f}'


def _match_columns(candidate: CandidateRecord | None, clock: _Clock) -> Row:
    if candidate is None:
        return {**_id_columns('match_', None), **clock.columns('match', None),
                **dict.fromkeys(EVIDENCE, '')}
    columns = {
        **_id_columns('match_', candidate.match_id),
        **clock.columns('match', candidate.match_stamp_ns),
        **{name: _cell(getattr(candidate, name)) for name in EVIDENCE}}
    if math.isnan(candidate.local_score):  # not compared
        columns['local_matches'] = ''
    return columns


def _same_place(
    query: QueryRecord, candidate: CandidateRecord | None, truth: GroundTruth | None
) -> Row:
    if truth is None or candidate is None:
        return {'same_place': ''}
    verdict = truth.is_same_place(query.stamp_ns, candidate.match_stamp_ns)
    return {'same_place': '' if verdict is None else str(verdict).lower()}


def _candidate_rows(run: Run, truth: GroundTruth | None) -> Iterator[Row]:
    clock = _Clock(run)
    for query in run.queries:
        for rank, candidate in enumerate(query.candidates):
            yield {
                **clock.columns('query', query.stamp_ns),
                **_id_columns('query_', query.keyframe_id),
                'rank': rank,
                **_match_columns(candidate, clock),
                'decision': candidate.decision.name,
                **_same_place(query, candidate, truth),
            }


def _query_row(query: QueryRecord, clock: _Clock, truth: GroundTruth | None) -> Row:
    """One row of queries.csv: of the accepted candidate, else of the best one."""
    best = query.closure or next(iter(query.candidates), None)
    stages = dict(zip(STAGES, query.stage_ms, strict=False))
    return {
        **clock.columns('query', query.stamp_ns),
        **_id_columns('query_', query.keyframe_id),
        'outcome': outcome(query),
        'searched_keyframes': '' if query.searched is None else query.searched,
        **_match_columns(best, clock),
        **_same_place(query, best, truth),
        **_pose_columns(query.pose),
        **{f'{name}_ms': f'{stages[name]:.2f}' if name in stages else '' for name in STAGES},
    }


def _keyframe_row(keyframe: KeyframeRecord, clock: _Clock) -> Row:
    return {
        **_id_columns('', keyframe.id),
        **clock.columns('stamp', keyframe.stamp_ns),
        **_pose_columns(keyframe.pose),
    }


def tables(run: Run, truth: GroundTruth | None = None) -> dict[str, list[Row]]:
    """The rows of the three tables by name."""
    clock = _Clock(run)
    return {
        'queries': [_query_row(query, clock, truth) for query in run.queries],
        'candidates': list(_candidate_rows(run, truth)),
        'keyframes': [_keyframe_row(keyframe, clock) for keyframe in run.keyframes],
    }


def _columns() -> dict[str, list[str]]:
    """Names of the columns, which a run without rows has, too."""
    some_id = KeyframeId(1, 1)
    candidate = CandidateRecord(some_id, 0, 1.0, 0, 0.0, Decision.ACCEPTED)
    run = Run(queries=[QueryRecord(0, (candidate,))], keyframes=[KeyframeRecord(some_id, 0)])
    return {name: list(rows[0]) for name, rows in tables(run).items()}


def write_tables(folder: Path, run: Run, truth: GroundTruth | None = None) -> None:
    """Write queries.csv, candidates.csv and keyframes.csv."""
    columns = _columns()
    for name, rows in tables(run, truth).items():
        with (folder / f'{name}.csv').open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, columns[name])
            writer.writeheader()
            writer.writerows(rows)


# ---- the folder, and its short form for a terminal -------------------------------------------


def write_results(
    folder: Path, run: Run, metrics: Metrics, truth: GroundTruth | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write metrics, tables and pictures; `facts` (bag, versions, ...) go into metrics.json."""
    numbers = {'run': facts or {}, **asdict(metrics)}
    text = json.dumps(numbers, indent=2, ensure_ascii=False)
    (folder / 'metrics.json').write_text(text + '\n', encoding='utf-8')
    write_tables(folder, run, truth)
    draw_similarity_matrix(run, truth).savefig(folder / 'similarity_matrix.png')
    draw_trajectory(run, truth).savefig(folder / 'trajectory.png')
    if truth and metrics.truth and metrics.truth.revisits:
        draw_best(run, truth, metrics.truth.revisits).savefig(folder / 'precision_recall.png')


def _counts(counts: dict[str, int]) -> str:
    return ', '.join(f'{count} {name}' for name, count in counts.items())


def _share(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def _truth_lines(truth: TruthMetrics) -> Iterator[tuple[str, str]]:
    unknown = f', {truth.unknown_closures} not judged' if truth.unknown_closures else ''
    verdicts = f'{truth.true_closures} true, {truth.false_closures} false{unknown}'
    yield '  by ground truth', f'{verdicts} (same place: {truth.same_place})'
    yield 'precision', _share(truth.precision)
    if truth.false_closures and truth.false_closures_per_km is not None:
        yield 'false per km', f'{truth.false_closures_per_km:.2f}'
    if truth.revisits is not None:
        yield 'revisits', f'{truth.revisits} queries, {_share(truth.closed)} of them closed'
        yield f'recall@{"/".join(map(str, truth.recall)) or 1}', (
            ' / '.join(map(_share, truth.recall.values())) or '-')
    if truth.average_precision is not None:
        yield 'best by score', (
            f'recall {_share(truth.recall_at_precision_1)} before the first false one, '
            f'average precision {_share(truth.average_precision)}')


def table_lines(metrics: Metrics) -> Iterator[tuple[str, str]]:
    """Name and value of what a user wants to know first."""
    skipped = f' ({_counts(metrics.skipped)})' if metrics.skipped else ''
    yield 'model', metrics.model_id
    yield 'images', f'{metrics.images}{skipped}'
    known = metrics.queries_with_pose
    poses = '' if known is None else f', {known or "none"} with a pose'
    yield 'queries', f'{metrics.queries}{poses}'
    yield 'keyframes', f'{metrics.keyframes} ({metrics.map_bytes / 1e6:.1f} MB)'
    yield 'loop closures', str(metrics.closures)
    if metrics.truth:
        yield from _truth_lines(metrics.truth)
    missed = {name: n for name, n in metrics.outcomes.items() if name != 'ACCEPTED'}
    if missed:
        yield 'no loop closure', _counts(missed)
    total = metrics.latency_ms.get('total')
    if total:
        yield 'latency', f'p50 {total.p50:.0f} ms, p95 {total.p95:.0f} ms per query'


def format_table(metrics: Metrics, more: Iterable[tuple[str, str]] = ()) -> str:
    """The table that a run ends with; `more` are names and values for its end."""
    lines = [*table_lines(metrics), *more]
    width = max(len(name) for name, _ in lines)
    return '\n'.join(f'{name:{width}}  {value}' for name, value in lines)
