"""A picture of a match: query and keyframe side by side. Independent of ROS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from selavpr_ros.decision.gates import NO_CANDIDATES, ORDER, Candidate, Decision

Colour = tuple[int, int, int]

DARK, GREY, DIM, LIGHT, WHITE = ((value,) * 3 for value in (24, 70, 165, 215, 255))
GREEN, RED, ORANGE = (60, 230, 90), (255, 60, 50), (255, 150, 60)

FONT = cv2.FONT_HERSHEY_SIMPLEX
HEAD_HEIGHT, FACT_HEIGHT, FACT_WIDTH, MARGIN = 32, 44, 150, 10
LEAST_WIDTH = 640  # pixels; a narrower picture has no room for the texts
MOST_TALL = 2.0  # largest ratio of height to width; a taller image gets dark sides
LINE_SHARE = 0.6  # opacity of the lines: the image behind them stays visible
MARKER_SIZE, DASH = 6, 12  # pixels
FACTS = ('similarity', 'mutual matches', 'overlap', 'inliers', 'this view', 'probability')


# ---- what to show -------------------------------------------------------------------------------


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """The accepted candidate, else the first of those that got farthest; None without any."""
    def gates_passed(candidate: Candidate) -> int:
        # A duplicate shows the place of a better candidate, which is shown instead.
        return ORDER.index(candidate.decision) if candidate.decision in ORDER else -1

    return max(candidates, key=gates_passed, default=None)


def choose_lines(similarity: np.ndarray, inliers: np.ndarray | None, most: int) -> np.ndarray:
    """Choose the strongest mutual matches, with the same share of inliers as among all.

    Args:
        similarity: (P,) of the mutual matches.
        inliers: (P,) bool, or None where geometry was not computed.
        most: how many to choose at most.

    Returns:
        (min(P, most),) indices, the others before the inliers.
    """
    strongest = np.argsort(-similarity, kind='stable')
    most = min(most, len(strongest))
    if inliers is None or not most:
        return strongest[:most]
    fitting, others = strongest[inliers[strongest]], strongest[~inliers[strongest]]
    kept = round(most * len(fitting) / len(strongest))
    return np.concatenate([others[: most - kept], fitting[:kept]])


def _number(value: float, unknown: str) -> str:
    return unknown if math.isnan(value) else f'{value:.3f}'


def describe(candidate: Candidate) -> dict[str, str]:
    """The evidence for a candidate as text, by the names in FACTS."""
    match = candidate.match
    matches, inliers = 'not compared', 'not computed'
    if not math.isnan(match.local_score):
        matches = f'{match.local_matches} ({match.local_score:.0%})'
    if match.geometry:
        share = match.geometry.count / max(match.local_matches, 1)
        inliers = f'{match.geometry.count} ({share:.0%})'
    return dict(zip(FACTS, (
        f'{match.similarity:.3f}', matches, _number(match.overlap, 'not known'), inliers,
        f'{candidate.likelihood_ratio:.2g} x', _number(candidate.probability, 'not known'),
    ), strict=True))


# ---- images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Area:
    """A rectangle of the picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The view of this area in the picture, to draw on."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]

    def points(self, positions: np.ndarray) -> list[tuple[int, int]]:
        """Pixels of the picture at (P, 2) positions, which are shares of the area's size."""
        inside = (positions * (self.width, self.height)).astype(int)
        return [(x, y) for x, y in (inside + (self.left, self.top)).tolist()]

    def fit(self, image: np.ndarray) -> _Area:
        """The area of an image that is scaled to fit into this one, in its middle."""
        height, width = image.shape[:2]
        factor = min(self.width / width, self.height / height)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
        return _Area(self.left + (self.width - width) // 2, self.top + (self.height - height) // 2,
                     width, height)


def _draw_image(picture: np.ndarray, panel: _Area, image: np.ndarray | None) -> _Area:
    """Draw an image, or a grey panel without one; returns the area that is covered."""
    if image is None:
        panel.cut(picture)[:] = GREY
        return panel
    area = panel.fit(image)
    method = cv2.INTER_AREA if area.width < image.shape[1] else cv2.INTER_CUBIC
    area.cut(picture)[:] = cv2.resize(image, (area.width, area.height), interpolation=method)
    return area


# ---- lines --------------------------------------------------------------------------------------


def _draw_dashed(
    picture: np.ndarray, start: tuple[int, int], end: tuple[int, int], colour: Colour
) -> None:
    count = max(1, round(math.dist(start, end) / (2 * DASH)))
    dashes = np.linspace(start, end, 2 * count).astype(np.int32).reshape(count, 2, 2)
    cv2.polylines(picture, list(dashes), False, colour, 1, cv2.LINE_AA)


def _draw_lines(
    picture: np.ndarray, candidate: Candidate, positions: np.ndarray, areas: Sequence[_Area],
    most: int,
) -> None:
    """Lines from the query's local features to the keyframe's, the inliers on top."""
    pairs, geometry = candidate.match.pairs, candidate.match.geometry
    fits = np.ones(len(pairs), bool) if geometry is None else geometry.inliers
    colour = LIGHT if geometry is None else GREEN
    shown = choose_lines(pairs.similarity, fits, most)
    points = [area.points(positions[pairs.pairs[shown, side]]) for side, area in enumerate(areas)]
    below = picture.copy()
    for start, end, fit in zip(*points, fits[shown], strict=True):
        if fit:
            cv2.line(picture, start, end, colour, 1, cv2.LINE_AA)
        else:
            _draw_dashed(picture, start, end, RED)
    cv2.addWeighted(picture, LINE_SHARE, below, 1.0 - LINE_SHARE, 0.0, picture)
    for side in points:
        for point, fit in zip(side, fits[shown], strict=True):
            marker = cv2.MARKER_SQUARE if fit else cv2.MARKER_TILTED_CROSS
            cv2.drawMarker(
                picture, point, colour if fit else RED, marker, MARKER_SIZE, 1, cv2.LINE_AA)


# ---- texts --------------------------------------------------------------------------------------


def _write(
    picture: np.ndarray, text: str, left: int, baseline: int, size: float,
    colour: Colour = WHITE, thickness: int = 1,
) -> None:
    cv2.putText(picture, text, (left, baseline), FONT, size, colour, thickness, cv2.LINE_AA)


def _write_over(picture: np.ndarray, text: str, panel: _Area) -> None:
    """Write a text into the middle of a panel, legible over lines."""
    (width, height), _ = cv2.getTextSize(text, FONT, 0.8, 2)
    left = panel.left + (panel.width - width) // 2
    baseline = panel.top + (panel.height + height) // 2
    _write(picture, text, left, baseline, 0.8, GREY, 8)
    _write(picture, text, left, baseline, 0.8, WHITE, 2)


def _columns(width: int) -> int:
    return min(len(FACTS), max(1, width // FACT_WIDTH))


def _draw_facts(picture: np.ndarray, facts: Mapping[str, str], top: int) -> None:
    columns = _columns(picture.shape[1])
    for number, name in enumerate(FACTS):
        row, column = divmod(number, columns)
        left = MARGIN + column * picture.shape[1] // columns
        _write(picture, name, left, top + row * FACT_HEIGHT + 16, 0.4, DIM)
        _write(picture, facts.get(name, '-'), left, top + row * FACT_HEIGHT + 36, 0.5)


def _draw_head(picture: np.ndarray, candidate: Candidate | None) -> None:
    if candidate is None:
        _write(picture, NO_CANDIDATES, MARGIN, 22, 0.6, ORANGE, 2)
        return
    colour = GREEN if candidate.decision is Decision.ACCEPTED else ORANGE
    _write(picture, candidate.decision.name, MARGIN, 22, 0.6, colour, 2)
    _write(picture, f'keyframe {candidate.match.keyframe.id}',
           picture.shape[1] // 2 + MARGIN, 22, 0.6)


# ---- the picture --------------------------------------------------------------------------------


def _panel_size(size: tuple[int, int], max_width: int) -> tuple[int, int]:
    """(width, height) of each panel, from (height, width) of the query image."""
    height, width = size
    panel_width = max(LEAST_WIDTH, min(max_width, 2 * width)) // 2
    return panel_width, max(1, round(min(height / width, MOST_TALL) * panel_width))


def draw(
    query_image: np.ndarray, match_image: np.ndarray | None, candidate: Candidate | None,
    positions: np.ndarray | None, max_width: int, most_lines: int,
) -> np.ndarray:
    """Draw query and matched keyframe, their mutual matches, and the evidence as text.

    Green lines are inliers, dashed red ones the other mutual matches; lines are grey where
    geometry was not computed. All pictures of one camera have the same size.

    Args:
        query_image: (H, W, 3) uint8 RGB.
        match_image: (h, w, 3) uint8 RGB of the keyframe; None if there is none.
        candidate: the candidate to show; None if the query had none.
        positions: (N, 2) of the local features as shares of width and height; None, and then
            without lines, where they are not a grid.
        max_width: largest width of the picture in pixels; it is never below LEAST_WIDTH.
        most_lines: how many mutual matches to draw at most, see `choose_lines`.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    width, height = _panel_size(query_image.shape[:2], max_width)
    rows = math.ceil(len(FACTS) / _columns(2 * width))
    picture = np.full(
        (HEAD_HEIGHT + height + rows * FACT_HEIGHT, 2 * width, 3), DARK[0], np.uint8)
    left, right = (_Area(x, HEAD_HEIGHT, width, height) for x in (0, width))
    areas = [_draw_image(picture, left, query_image), _draw_image(picture, right, match_image)]
    picture[:, width - 1 : width + 1] = DARK
    if candidate and positions is not None:
        _draw_lines(picture, candidate, positions, areas, most_lines)
    if match_image is None:
        _write_over(picture, 'no thumbnail' if candidate else 'no candidates', right)
    _draw_head(picture, candidate)
    _draw_facts(picture, describe(candidate) if candidate else {}, HEAD_HEIGHT + height)
    return picture
