"""The result folder of an evaluation, and its table.

    metrics.json           settings, versions, recall, rank of every query's first positive
    answers.csv            one row per image that a query found
    table.md               the tables in Markdown
    precision_recall.png   what the scores are worth as gates
    hits_and_misses_*.png  one picture per method
    report.html            all of it on one page, with the worst false answers
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from selavpr_ros.evaluation.closure_metrics import Latency
from selavpr_ros.evaluation.picture import draw_hits_and_misses, draw_precision_recall
from selavpr_ros.evaluation.precision import judge_scores
from selavpr_ros.evaluation.recall import RECALL_AT, Evaluation
from selavpr_ros.evaluation.truth import EvaluationSet, Images
from selavpr_ros.text import Row, markdown_table, size, table

# ---- the table ----------------------------------------------------------------------------------


def table_rows(evaluations: Sequence[Evaluation], of_all: bool = False) -> Iterator[Row]:
    """Head and lines: method, way of ordering, recall@1, 5 and 10, memory of a keyframe."""
    yield ('method', 'order', *(f'recall@{n}' for n in RECALL_AT), 'keyframe')
    for evaluation in evaluations:
        for way in evaluation.rankings:
            recalls = evaluation.recalls(way, of_all=of_all)
            figures = [f'{recalls[n]:.3f}' if n in recalls else '-' for n in RECALL_AT]
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
    return {stage: Latency(*np.percentile(milliseconds, [50, 95]).tolist())
            for stage, milliseconds in evaluation.stage_ms.items()}


def latency_rows(evaluations: Sequence[Evaluation]) -> Iterator[Row]:
    """Head and lines: what every stage took."""
    yield ('method', 'stage', 'p50 [ms]', 'p95 [ms]')
    for evaluation in evaluations:
        for stage, latency in latencies(evaluation).items():
            yield (evaluation.method, stage, f'{latency.p50:.2f}', f'{latency.p95:.2f}')


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
    """What was asked, as data: figures of two results compare only where it is the same."""
    return {'name': asked.name, 'same_place': asdict(asked.same_place),
            'database': len(asked.database), 'queries': len(asked.queries),
            'answerable': len(asked.answerable), 'recall_of_all': of_all}


def format_table(evaluations: Sequence[Evaluation], of_all: bool = False) -> str:
    """The table of recall for a terminal."""
    return table(list(table_rows(evaluations, of_all)), texts=2)


def format_gates(evaluations: Sequence[Evaluation]) -> str:
    """The table of gates for a terminal."""
    return table(list(gate_rows(evaluations)), texts=2)


# ---- the folder ---------------------------------------------------------------------------------


def _image_name(images: Images, index: int) -> str:
    image = images[index]
    return str(index) if isinstance(image, np.ndarray) else image.name


def _answer_rows(evaluation: Evaluation) -> Iterator[Row]:
    """One row per image that was found for a query."""
    asked = evaluation.evaluation_set
    for way, rankings in evaluation.rankings.items():
        for query, ranking in zip(asked.answerable, rankings, strict=True):
            name = _image_name(asked.queries, query)
            for rank, (image, score) in enumerate(
                    zip(ranking.database, ranking.scores, strict=True), start=1):
                yield (evaluation.method, way, name, str(rank),
                       _image_name(asked.database, image), f'{score:g}',
                       str(image in asked.positives[query]).lower())


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
    evaluations: Sequence[Evaluation], facts: dict[str, Any], of_all: bool = False
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


def picture_name(evaluation: Evaluation) -> str:
    """File of the picture of hits and misses."""
    name = re.sub(r'[^\w.-]+', '_', evaluation.method)
    return f'hits_and_misses_{name}.png'


def write_results(
    folder: Path, evaluations: Sequence[Evaluation], facts: dict[str, Any], of_all: bool = False
) -> None:
    """Write the numbers of all evaluations, and the picture of the last one.

    Args:
        folder: it exists.
        evaluations: one or more, of one set; called again whenever there is one more.
        facts: settings and versions.
        of_all: as in `Evaluation.recall_at`.
    """
    text = json.dumps(metrics(evaluations, facts, of_all), indent=1, ensure_ascii=False)
    (folder / 'metrics.json').write_text(text + '\n', encoding='utf-8')
    with (folder / 'answers.csv').open('w', newline='', encoding='utf-8') as file:
        rows = csv.writer(file)
        rows.writerow(('method', 'order', 'query', 'rank', 'image', 'score', 'same_place'))
        for evaluation in evaluations:
            rows.writerows(_answer_rows(evaluation))
    recall = markdown_table(list(table_rows(evaluations, of_all)), texts=2)
    gates = markdown_table(list(gate_rows(evaluations)), texts=2)
    words = describe_set(evaluations[0].evaluation_set, of_all)
    (folder / 'table.md').write_text(f'{words}\n\n{recall}\n{gates}', encoding='utf-8')
    draw_precision_recall(evaluations).savefig(folder / 'precision_recall.png')
    draw_hits_and_misses(evaluations[-1]).savefig(folder / picture_name(evaluations[-1]))
