"""The result folder of an evaluation as one page, report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selavpr_ros.evaluation.html import (
    PAGE,
    Picture,
    Section,
    facts_section,
    figure_source,
    photo_figure_source,
    photo_source,
    render,
)
from selavpr_ros.evaluation.picture import draw_precision_recall, label, tell_score
from selavpr_ros.evaluation.recall import Evaluation, Ranking
from selavpr_ros.evaluation.report import (
    describe_set,
    gate_rows,
    latency_rows,
    picture_name,
    table_rows,
)
from selavpr_ros.images.compressed import read_image

WORST = 6
GATES = (
    'Every best answer is taken if its score reaches a threshold. Average precision is the area '
    'under precision over recall; recall at precision 1 is what is found before the first false '
    'answer. Queries of places that are not in the database count, too.')
LATENCY = (
    'Milliseconds of one image or one query, on the machine and device of this evaluation; the '
    'reading of files is not in them.')


class FalseAnswer(NamedTuple):
    """A best answer that is wrong: indices of the query and of what it was answered with."""

    query: int
    answer: int
    score: float


def worst_false_answers(
    evaluation: Evaluation, way: str, count: int = WORST
) -> list[FalseAnswer]:
    """The false best answers with the highest scores, the highest first."""
    asked = evaluation.evaluation_set
    ranked: list[tuple[int, Ranking]] = [
        *zip(asked.answerable, evaluation.rankings[way], strict=True)]
    if way in evaluation.unanswerable:
        ranked += zip(asked.unanswerable, evaluation.unanswerable[way], strict=True)
    false = [FalseAnswer(query, ranking.database[0], ranking.scores[0])
             for query, ranking in ranked if ranking.database[0] not in asked.positives[query]]
    return sorted(false, key=lambda answer: -answer.score)[:count]


def _photo(evaluation: Evaluation, number: int, in_database: bool) -> str:
    asked = evaluation.evaluation_set
    return photo_source(read_image((asked.database if in_database else asked.queries)[number]))


def _true_picture(evaluation: Evaluation, query: int) -> Picture:
    asked = evaluation.evaluation_set
    if not asked.positives[query]:
        return Picture('', "no image of the query's place is in the database")
    true = asked.positives[query][0]
    return Picture(_photo(evaluation, true, True),
                   f'a true one: {label(asked.database[true], true)}', True)


def _worst_row(evaluation: Evaluation, way: str, found: FalseAnswer) -> list[Picture]:
    """The query, what it was answered with, and a true image."""
    asked = evaluation.evaluation_set
    name = label(asked.database[found.answer], found.answer)
    return [
        Picture(_photo(evaluation, found.query, False),
                f'query: {label(asked.queries[found.query], found.query)}'),
        Picture(_photo(evaluation, found.answer, True),
                f'answer: {name}, {tell_score(way, found.score)}', False),
        _true_picture(evaluation, found.query)]


def _worst_section(evaluation: Evaluation) -> Section:
    way = list(evaluation.rankings)[-1]
    worst = worst_false_answers(evaluation, way)
    text = (f'The {len(worst)} false best answers with the highest scores, {way}: what a gate on '
            'this score lets through first.') if worst else f'No best answer is false, {way}.'
    return Section(f'Worst false answers: {evaluation.method}', text,
                   pictures=[_worst_row(evaluation, way, found) for found in worst])


def _hits_section(folder: Path, evaluation: Evaluation) -> Section:
    picture = photo_figure_source(read_image(folder / picture_name(evaluation)))
    return Section(f'Hits and misses: {evaluation.method}',
                   'Misses first. Green frames are hits, red ones misses.',
                   pictures=[[Picture(picture)]])


def write_page(
    folder: Path, evaluations: Sequence[Evaluation], facts: Mapping[str, Any],
    of_all: bool = False,
) -> None:
    """Write report.html; arguments as of `write_results`, which comes first.

    Raises:
        ImageError: a picture cannot be read again.
    """
    curves = figure_source(draw_precision_recall(evaluations))
    latency = list(latency_rows(evaluations))
    sections = [
        Section('Recall', table=list(table_rows(evaluations, of_all)), texts=2),
        Section('What a score is worth as a gate', GATES, list(gate_rows(evaluations)), 2,
                [[Picture(curves)]])]
    if len(latency) > 1:
        sections.append(Section('Latency by stage', LATENCY, latency, 2))
    sections += [_worst_section(evaluation) for evaluation in evaluations]
    sections += [_hits_section(folder, evaluation) for evaluation in evaluations]
    asked = evaluations[0].evaluation_set
    page = render(f'Evaluation of {asked.name}', describe_set(asked, of_all),
                  [*sections, facts_section(facts)])
    (folder / PAGE).write_text(page, encoding='utf-8')
