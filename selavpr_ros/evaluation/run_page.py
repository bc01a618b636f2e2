"""What the page of a run shows: hits, misses and false answers, reliability, latency."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selavpr_ros.errors import BagError, ImageError
from selavpr_ros.evaluation.closure_metrics import (
    Metrics,
    best_answers,
    closure_truth,
    is_by_local,
    known_probabilities,
)
from selavpr_ros.evaluation.html import Picture, Section, photo_source, png_of, png_source
from selavpr_ros.evaluation.reliability import RELIABILITY, draw_reliability, reliability
from selavpr_ros.evaluation.report import spread
from selavpr_ros.images.decoding import ImageReader
from selavpr_ros.recordings.ground_truth import GroundTruth
from selavpr_ros.recordings.records import CandidateRecord, QueryRecord, Run
from selavpr_ros.settings import ImageSettings

SHOWN = 6  # rows of photos in a section

logger = logging.getLogger(__name__)


# ---- what to show -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A query, what it was answered with and whether that is true, and a true keyframe's stamp."""

    query: QueryRecord
    answer: CandidateRecord | None
    verdict: bool | None
    true_ns: int | None

    @property
    def stamps_ns(self) -> list[int]:
        """Stamps of all images that are shown."""
        answer_ns = self.answer.match_stamp_ns if self.answer else None
        return [ns for ns in (self.query.stamp_ns, answer_ns, self.true_ns) if ns is not None]


def _true_stamp(query: QueryRecord, run: Run, truth: GroundTruth) -> int | None:
    """Stamp of the keyframe in the middle of the true ones; None if there is none."""
    stamps_ns = [keyframe.stamp_ns for keyframe in run.keyframes[: query.searched]]
    verdicts = truth.same_places(query.stamp_ns, stamps_ns) if stamps_ns else []
    true = [ns for ns, verdict in zip(stamps_ns, verdicts, strict=True) if verdict]
    return true[len(true) // 2] if true else None


def _closures(run: Run, truth: GroundTruth | None) -> list[Example]:
    return [Example(query, query.closure, closure_truth(query, truth), None)
            for query in run.queries if query.closure]


def _false_answers(run: Run, truth: GroundTruth) -> list[Example]:
    """The false best candidates with the highest scores, the highest first."""
    false = [(query, best, score) for query, best, score, verdict in best_answers(run, truth)
             if not verdict]
    return [Example(query, best, False, _true_stamp(query, run, truth))
            for query, best, _ in sorted(false, key=lambda answer: -answer[2])[:SHOWN]]


def _misses(run: Run, truth: GroundTruth) -> list[Example]:
    """Queries of a known place that ended without a loop closure, with their best candidate."""
    missed = []
    for query in run.queries:
        true_ns = None if query.closure else _true_stamp(query, run, truth)
        if true_ns is not None:
            best = next(iter(query.candidates), None)
            verdict = truth.is_same_place(
                query.stamp_ns, best.match_stamp_ns) if best else None
            missed.append(Example(query, best, verdict, true_ns))
    return missed


def choose_examples(run: Run, truth: GroundTruth | None) -> dict[str, list[Example]]:
    """Queries of a run to show, by title; without ground truth, some of its loop closures."""
    closures = _closures(run, truth)
    if truth is None:
        return {'Loop closures': spread(closures, SHOWN)}
    wrong = [example for example in closures if example.verdict is False]
    return {
        'False loop closures': [
            Example(e.query, e.answer, False, _true_stamp(e.query, run, truth))
            for e in spread(wrong, SHOWN)],
        'Worst false answers': _false_answers(run, truth),
        'Misses': spread(_misses(run, truth), SHOWN),
        'Hits': spread([example for example in closures if example.verdict], SHOWN),
    }


TEXTS = {
    'Loop closures': 'Some of the loop closures. Without ground truth, none is judged.',
    'False loop closures': 'Loop closures that were accepted and are false.',
    'Worst false answers': 'The false best candidates with the highest scores, accepted or not.',
    'Misses': 'Queries of a known place without a loop closure.',
    'Hits': 'True loop closures.',
}


def read_photos(
    images: Iterable[tuple[int, Any]], stamps_ns: Iterable[int], settings: ImageSettings
) -> dict[int, str]:
    """data: URIs of some images, by stamp; those that cannot be read are left out.

    Args:
        images: stamp in ns and message, from `Bag.images`; read as far as needed.
        stamps_ns: the images to keep.
        settings: encoding, rotation and mask.
    """
    wanted, photos, read_image = set(stamps_ns), {}, ImageReader(settings)
    if not wanted:
        return {}
    try:
        for stamp_ns, message in images:
            if stamp_ns in wanted:
                photos[stamp_ns] = _photo(message, read_image)
            if len(photos) == len(wanted):
                break
    except BagError as error:
        logger.warning('not all photos can be shown: %s', error)
    return photos


def _photo(message: Any, read_image: ImageReader) -> str:
    try:
        return photo_source(read_image(message))
    except ImageError:
        return ''


# ---- the page -----------------------------------------------------------------------------------


def _told(answer: CandidateRecord, by_local: bool) -> str:
    told = [f'{answer.local_matches} mutual matches'] if by_local else []
    told.append(f'similarity {answer.similarity:.3f}')
    if not math.isnan(answer.probability):
        told.append(f'probability {answer.probability:.3f}')
    return ', '.join([*told, answer.decision.name])


def _row(example: Example, photos: Mapping[int, str], start_ns: int, by_local: bool
         ) -> list[Picture]:
    def picture(words: str, stamp_ns: int, verdict: bool | None = None) -> Picture:
        seconds = (stamp_ns - start_ns) * 1e-9
        return Picture(photos.get(stamp_ns, ''), f'{words} at {seconds:.1f} s', verdict)

    answer, row = example.answer, [picture('query', example.query.stamp_ns)]
    if answer is None:
        row.append(Picture('', 'no candidate'))
    else:
        row.append(picture(f'keyframe {answer.match_id}, {_told(answer, by_local)},',
                           answer.match_stamp_ns, example.verdict))
    if example.true_ns is not None:
        row.append(picture('a true one', example.true_ns, True))
    elif example.verdict is False:
        row.append(Picture('', 'no keyframe shows its place'))
    return row


def example_sections(run: Run, photos: Mapping[int, str],
                     examples: Mapping[str, Sequence[Example]]) -> Iterator[Section]:
    """Examples by title, as rows of photos.

    Args:
        run: of the examples.
        photos: data: URIs by stamp, from `read_photos`.
        examples: from `choose_examples`.
    """
    start_ns, by_local = run.queries[0].stamp_ns if run.queries else 0, is_by_local(run)
    for title, shown in examples.items():
        rows = [_row(example, photos, start_ns, by_local) for example in shown]
        yield Section(title, TEXTS[title] if rows else 'None.', pictures=rows)


def reliability_section(run: Run, truth: GroundTruth | None) -> Iterator[Section]:
    """Share of true candidates over their probability; nothing if no candidate has both."""
    probabilities, is_true = known_probabilities(run, truth) if truth else ([], [])
    if probabilities:
        diagram = png_source(png_of(draw_reliability(reliability(probabilities, is_true))))
        yield Section('Reliability', RELIABILITY, pictures=[[Picture(diagram)]])


def latency_section(metrics: Metrics) -> Iterator[Section]:
    """Percentiles by stage; nothing if no times were measured."""
    if metrics.latency_ms:
        rows = [(stage, *latency.cells) for stage, latency in metrics.latency_ms.items()]
        yield Section('Latency by stage', 'Milliseconds per query.',
                      [('stage', 'p50 [ms]', 'p95 [ms]'), *rows])
