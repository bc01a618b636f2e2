"""The result folder of a run: everything that explains it, for programs, spreadsheets and readers.

    settings.yaml          all settings used, as a parameter file for the node
    metrics.json           the numbers, and what they were made with
    queries.csv            one row per processed image: its outcome and its best candidate
    candidates.csv         one row per candidate of every query
    keyframes.csv          the map
    similarity_matrix.png  all queries against all keyframes
    trajectory.png         the way with its loop closures
    precision_recall.png   what the score alone is worth as a gate, if there is ground truth
    report.html            all of it on one page
    log.txt                what the package logged
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from selavpr_ros.evaluation.closure_metrics import Metrics, TruthMetrics, summarise
from selavpr_ros.evaluation.html import Picture, Section, facts_section, png_of, png_source
from selavpr_ros.evaluation.metrics import told
from selavpr_ros.evaluation.report import Report
from selavpr_ros.evaluation.run_page import (
    Example,
    choose_examples,
    example_sections,
    latency_section,
    reliability_section,
)
from selavpr_ros.evaluation.run_plots import draw_best, draw_similarity_matrix, draw_trajectory
from selavpr_ros.evaluation.run_tables import run_tables
from selavpr_ros.recordings.ground_truth import GroundTruth
from selavpr_ros.recordings.records import Run
from selavpr_ros.settings import Settings
from selavpr_ros.text import counts, table


def _truth_lines(truth: TruthMetrics) -> Iterator[tuple[str, str]]:
    unknown = f', {truth.unknown_closures} not judged' if truth.unknown_closures else ''
    verdicts = f'{truth.true_closures} true, {truth.false_closures} false{unknown}'
    yield '  by ground truth', f'{verdicts} (same place: {truth.same_place})'
    yield 'precision', told(truth.precision)
    if truth.false_closures and truth.false_closures_per_km is not None:
        yield 'false per km', f'{truth.false_closures_per_km:.2f}'
    if truth.revisits is not None:
        yield 'revisits', f'{truth.revisits} queries, {told(truth.closed)} of them closed'
        yield f'recall@{"/".join(map(str, truth.recall)) or 1}', (
            ' / '.join(map(told, truth.recall.values())) or '-')
    if truth.average_precision is not None:
        yield 'best by score', (
            f'recall {told(truth.recall_at_precision_1)} before the first false one, '
            f'average precision {told(truth.average_precision)}')


def metric_lines(metrics: Metrics) -> Iterator[tuple[str, str]]:
    """Names and values of the figures that a user wants to know first."""
    skipped = f' ({counts(metrics.skipped)})' if metrics.skipped else ''
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
        yield 'no loop closure', counts(missed)
    total = metrics.latency_ms.get('total')
    if total:
        yield 'latency', f'p50 {total.p50:.0f} ms, p95 {total.p95:.0f} ms per query'


@dataclass(eq=False)
class RunReport(Report):
    """The result of one run.

    Attributes:
        run: what was recorded.
        truth: which images show the same place, if that is known.
        facts: what the run was made from and with (bag, versions, ...).
        settings: of the recogniser; None where they are not known.
        remarks: further names and values for the end of the table.
        drawings: further PNG files by name.
        photos: data: URIs of the images in `examples`, by stamp, for the page.
    """

    run: Run
    truth: GroundTruth | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    settings: Settings | None = None
    remarks: Sequence[tuple[str, str]] = ()
    drawings: Mapping[str, bytes] = field(default_factory=dict)
    photos: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def numbers(self) -> Metrics:
        """The metrics of the run."""
        return summarise(self.run, self.truth)

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        """The queries that the page shows, by the title of their part."""
        return choose_examples(self.run, self.truth)

    @cached_property
    def _plots(self) -> dict[str, bytes]:
        figures = {'similarity_matrix': draw_similarity_matrix(self.run, self.truth),
                   'trajectory': draw_trajectory(self.run, self.truth)}
        judged = self.numbers.truth
        if self.truth and judged and judged.revisits:
            figures['precision_recall'] = draw_best(self.run, self.truth, judged.revisits)
        return {name: png_of(figure) for name, figure in figures.items()}

    def __str__(self) -> str:
        return table(list(self._lines()), texts=2)

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield from metric_lines(self.numbers)
        yield from self.remarks
        yield from (('note', note) for note in self.run.notes)

    def metrics(self) -> dict[str, Any]:
        return {'run': self.facts, **asdict(self.numbers), 'notes': self.run.notes}

    def tables(self) -> dict[str, list[Sequence[object]]]:
        return run_tables(self.run, self.truth)

    def pictures(self) -> dict[str, bytes]:
        return {**self._plots, **self.drawings}

    def heading(self) -> tuple[str, str]:
        return (f'Replay of {self.facts.get("bag", "a bag")}',
                f'{len(self.run.queries)} queries, {self.numbers.closures} loop closures')

    def sections(self) -> Iterable[Section]:
        plots = {name: Picture(png_source(png)) for name, png in self.pictures().items()}
        maps = [plots['trajectory'], plots['similarity_matrix']]
        yield Section('Result', table=[('figure', 'value'), *self._lines()], texts=2)
        yield Section('Where and when', pictures=[
            maps, *([plots[name]] for name in self.drawings)])
        if 'precision_recall' in plots:
            yield Section('Precision and recall', 'Of the best candidate of every query, if its '
                          'score were the only gate; recall is over the revisits.',
                          pictures=[[plots['precision_recall']]])
        yield from reliability_section(self.run, self.truth)
        yield from latency_section(self.numbers)
        yield from example_sections(self.run, self.photos, self.examples)
        named = self.settings.flat() if self.settings else {}
        yield facts_section(self.facts, ((name, str(value)) for name, value in named.items()))
