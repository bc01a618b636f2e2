"""What an evaluation found, as tables and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from selavpr_ros.evaluation.metrics import RECALL_AT, Latency, told
from selavpr_ros.evaluation.precision import judge_scores
from selavpr_ros.evaluation.recall import Evaluation
from selavpr_ros.evaluation.truth import EvaluationSet, Images
from selavpr_ros.text import Row, size


def table_rows(evaluations: Sequence[Evaluation], of_all: bool = False) -> Iterator[Row]:
    """Head and lines: method, way of ordering, recall@1, 5 and 10, memory of a keyframe."""
    yield ('method', 'order', *(f'recall@{n}' for n in RECALL_AT), 'keyframe')
    for evaluation in evaluations:
        for way in evaluation.rankings:
            recalls = evaluation.recalls(way, of_all=of_all)
            figures = [told(recalls.get(n)) for n in RECALL_AT]
            nbytes = evaluation.bytes_per_keyframe.get(way)
            yield (evaluation.method, way, *figures, '-' if nbytes is None else size(nbytes))


def gate_rows(evaluations: Sequence[Evaluation]) -> Iterator[Row]:
    """Head and lines: what each score is worth as a gate; see `precision`."""
    yield ('method', 'order', 'average precision', 'recall at precision 1', 'from score')
    for evaluation in evaluations:
        for way in evaluation.rankings:
            curve = judge_scores(evaluation, way)
            yield (evaluation.method, way, f'{curve.average_precision:.3f}',
                   f'{curve.safe_recall:.3f}', f'{curve.safe_threshold:.4g}')


def latencies(evaluation: Evaluation) -> dict[str, Latency]:
    """Percentiles of every stage that was measured, over images or queries."""
    return {stage: Latency.of(milliseconds)
            for stage, milliseconds in evaluation.stage_ms.items()}


def latency_rows(evaluations: Sequence[Evaluation]) -> Iterator[Row]:
    """Head and lines: the time of every stage."""
    yield ('method', 'stage', 'p50 [ms]', 'p95 [ms]')
    for evaluation in evaluations:
        for stage, latency in latencies(evaluation).items():
            yield (evaluation.method, stage, *latency.cells)


def describe_set(evaluation_set: EvaluationSet, of_all: bool = False) -> str:
    """What the recall is over, in words."""
    answerable, count = len(evaluation_set.answerable), len(evaluation_set.queries)
    without = count - answerable
    counted = 'counted as misses' if of_all else 'left out'
    asked = f'{answerable} queries' + (f' ({without} without a positive {counted})' if without
                                       else '')
    return (f'{evaluation_set.name}: {asked} in {len(evaluation_set.database)} images; '
            f'same place: {evaluation_set.same_place}')


def set_facts(asked: EvaluationSet, of_all: bool = False) -> dict[str, Any]:
    """What was asked, as data; figures of two results can be compared only if it is the same."""
    return {'name': asked.name, 'same_place': asdict(asked.same_place),
            'database': len(asked.database), 'queries': len(asked.queries),
            'answerable': len(asked.answerable), 'recall_of_all': of_all}


def _image_name(images: Images, index: int) -> str:
    image = images[index]
    return str(index) if isinstance(image, np.ndarray) else image.name


def _answers(evaluation: Evaluation) -> Iterator[Row]:
    asked = evaluation.evaluation_set
    for way, rankings in evaluation.rankings.items():
        for query, ranking in zip(asked.answerable, rankings, strict=True):
            name = _image_name(asked.queries, query)
            for rank, (image, score) in enumerate(
                    zip(ranking.database, ranking.scores, strict=True), start=1):
                yield (evaluation.method, way, name, str(rank),
                       _image_name(asked.database, image), f'{score:g}',
                       str(image in asked.positives[query]).lower())


def answer_rows(evaluations: Sequence[Evaluation]) -> Iterator[Row]:
    """Head and lines: every image that was found for a query."""
    yield 'method', 'order', 'query', 'rank', 'image', 'score', 'same_place'
    for evaluation in evaluations:
        yield from _answers(evaluation)


def _first_positive(evaluation: Evaluation, way: str) -> dict[str, int | None]:
    """Rank, from 1, of the first positive by query."""
    asked = evaluation.evaluation_set
    names = [_image_name(asked.queries, query) for query in asked.answerable]
    return {name: None if rank is None else rank + 1
            for name, rank in zip(names, evaluation.hit_ranks(way), strict=True)}


def _gate(evaluation: Evaluation, way: str) -> dict[str, Any]:
    curve = judge_scores(evaluation, way)
    return {'average_precision': curve.average_precision,
            'recall_at_precision_1': curve.safe_recall,
            'from_score': curve.safe_threshold if curve.safe_recall else None,
            'queries_without_positive': len(evaluation.unanswerable.get(way, ()))}


def metrics(
    evaluations: Sequence[Evaluation], facts: Mapping[str, Any], of_all: bool = False
) -> dict[str, Any]:
    """What metrics.json holds; ranks count from 1, and are None beyond the best `top_k`."""
    asked = evaluations[0].evaluation_set
    return {
        'run': facts,
        'set': set_facts(asked, of_all),
        'methods': [
            {'method': evaluation.method, 'top_k': evaluation.top_k,
             'recall': {way: evaluation.recalls(way, of_all=of_all)
                        for way in evaluation.rankings},
             'gates': {way: _gate(evaluation, way) for way in evaluation.rankings},
             'first_positive': {way: _first_positive(evaluation, way)
                                for way in evaluation.rankings},
             'bytes_per_keyframe': dict(evaluation.bytes_per_keyframe),
             'latency_ms': {stage: asdict(latency)
                            for stage, latency in latencies(evaluation).items()}}
            for evaluation in evaluations],
    }
