"""The result of an evaluation: everything about it in one folder.

    metrics.json           settings, versions, recall, rank of every query's first positive
    answers.csv            one row per image that a query found
    table.md               the tables in Markdown
    precision_recall.png   what the scores are worth as gates
    hits_and_misses_*.png  one picture per method
    report.html            all of it on one page, with the worst false answers
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from selavpr_ros.evaluation.html import (
    Picture,
    Section,
    facts_section,
    photo_figure_source,
    photo_source,
    png_of,
    png_source,
)
from selavpr_ros.evaluation.recall import Evaluation, Ranking
from selavpr_ros.evaluation.recall_plots import (
    draw_hits_and_misses,
    draw_precision_recall,
    label,
    tell_score,
)
from selavpr_ros.evaluation.recall_tables import (
    answer_rows,
    describe_set,
    gate_rows,
    latency_rows,
    metrics,
    table_rows,
)
from selavpr_ros.evaluation.report import Report
from selavpr_ros.images.compressed import read_image
from selavpr_ros.text import Row, markdown_table, table

WORST = 6
GATES = (
    'Every best answer is taken if its score reaches a threshold. Average precision is the area '
    'under precision over recall; recall at precision 1 is what is found before the first false '
    'answer. Queries of places that are not in the database count, too.')
LATENCY = (
    'Milliseconds of one image or one query, on the machine and device of this evaluation, '
    'without the reading of files.')


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


def _hits_section(evaluation: Evaluation, png: bytes) -> Section:
    return Section(f'Hits and misses: {evaluation.method}',
                   'Misses first. Green frames are hits, red ones misses.',
                   pictures=[[Picture(photo_figure_source(png))]])


def _picture_name(evaluation: Evaluation) -> str:
    return 'hits_and_misses_' + re.sub(r'[^\w.-]+', '_', evaluation.method)


@dataclass(eq=False)
class RecallReport(Report):
    """The answers of several methods to one set; `add` at least one before using the report.

    Attributes:
        facts: settings and versions.
        of_all: as in `Evaluation.recall_at`.
        evaluations: the methods so far.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    of_all: bool = False
    evaluations: list[Evaluation] = field(default_factory=list, init=False)
    _worst: list[Section] = field(default_factory=list, init=False)
    _hits: list[bytes] = field(default_factory=list, init=False)
    _curves: bytes = field(default=b'', init=False)

    def add(self, evaluation: Evaluation) -> None:
        """Take in the answers of one more method."""
        self.evaluations.append(evaluation)

    def _draw(self) -> None:
        """Draw the methods added since; this reads images again, so data are written before."""
        added = self.evaluations[len(self._hits):]
        if added:
            self._curves = png_of(draw_precision_recall(self.evaluations))
        for evaluation in added:
            worst, hits = _worst_section(evaluation), png_of(draw_hits_and_misses(evaluation))
            self._worst.append(worst)
            self._hits.append(hits)

    @property
    def summary(self) -> str:
        """What the recall is over, in words."""
        return describe_set(self.evaluations[0].evaluation_set, self.of_all)

    def recall_table(self) -> list[Row]:
        """Head and lines: recall and memory of a keyframe."""
        return list(table_rows(self.evaluations, self.of_all))

    def gate_table(self) -> list[Row]:
        """Head and lines: what each score is worth as a gate."""
        return list(gate_rows(self.evaluations))

    def __str__(self) -> str:
        return '\n\n'.join([self.summary, *(
            table(rows, texts=2) for rows in (self.recall_table(), self.gate_table()))])

    def metrics(self) -> dict[str, Any]:
        return metrics(self.evaluations, self.facts, self.of_all)

    def tables(self) -> dict[str, Iterator[Row]]:
        return {'answers': answer_rows(self.evaluations)}

    def pictures(self) -> dict[str, bytes]:
        self._draw()
        hits = zip(map(_picture_name, self.evaluations), self._hits, strict=True)
        return {'precision_recall': self._curves, **dict(hits)}

    def write_data(self, folder: Path) -> None:
        super().write_data(folder)
        recall, gates = (markdown_table(rows, texts=2)
                         for rows in (self.recall_table(), self.gate_table()))
        (folder / 'table.md').write_text(f'{self.summary}\n\n{recall}\n{gates}', encoding='utf-8')

    def heading(self) -> tuple[str, str]:
        return f'Evaluation of {self.evaluations[0].evaluation_set.name}', self.summary

    def sections(self) -> Iterable[Section]:
        self._draw()
        yield Section('Recall', table=self.recall_table(), texts=2)
        yield Section('What a score is worth as a gate', GATES, self.gate_table(), 2,
                      [[Picture(png_source(self._curves))]])
        latency = list(latency_rows(self.evaluations))
        if len(latency) > 1:
            yield Section('Latency by stage', LATENCY, latency, 2)
        yield from self._worst
        yield from map(_hits_section, self.evaluations, self._hits)
        yield facts_section(self.facts)
