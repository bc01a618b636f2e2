"""The tables of a run: its queries, their candidates, and the keyframes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from selavpr_ros.decision.gates import Decision
from selavpr_ros.evaluation.closure_metrics import outcome
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

Row = dict[str, object]


class _Clock:
    """Stamps in two columns: seconds since the first query, and nanoseconds with all digits."""

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
    """One row of queries.csv: a query with its accepted candidate, else with its best one."""
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


def _rows(run: Run, truth: GroundTruth | None = None) -> dict[str, list[Row]]:
    clock = _Clock(run)
    return {
        'queries': [_query_row(query, clock, truth) for query in run.queries],
        'candidates': list(_candidate_rows(run, truth)),
        'keyframes': [_keyframe_row(keyframe, clock) for keyframe in run.keyframes],
    }


def _columns() -> dict[str, list[str]]:
    """Names of the columns of each table, even if a run has no rows for it."""
    some_id = KeyframeId(1, 1)
    candidate = CandidateRecord(some_id, 0, 1.0, 0, 0.0, Decision.ACCEPTED)
    run = Run(queries=[QueryRecord(0, (candidate,))], keyframes=[KeyframeRecord(some_id, 0)])
    return {name: list(rows[0]) for name, rows in _rows(run).items()}


def run_tables(run: Run, truth: GroundTruth | None = None) -> dict[str, list[Sequence[object]]]:
    """Head and rows of the three tables by name."""
    heads = _columns()
    return {name: [heads[name], *(list(row.values()) for row in rows)]
            for name, rows in _rows(run, truth).items()}
