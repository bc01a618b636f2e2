"""Image folders -> queries, database, and which database images show a query's place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from selavpr_ros.errors import GroundTruthError
from selavpr_ros.pose import SAME_PLACE_M, SAME_PLACE_RAD
from selavpr_ros.recordings.ground_truth import SamePlace
from selavpr_ros.recordings.image_folders import (
    PlacedImages,
    list_images,
    read_msls_side,
    read_placed_images,
    read_table,
)

TOLERANCE = 2  # frames; two walks along one way are never in step to the frame
EXCLUDED = 10  # images; those next to a query show its place, which takes no recognition
# The usual radius of the published data sets, whose positions come from GPS.
PUBLISHED_RADIUS_M = 25.0

PAIR_COLUMNS = ('image_a', 'image_b')

# Paths of images, or (H, W, 3) uint8 RGB arrays; (N, H, W, 3) is such a sequence, too.
Images = Sequence[Path] | Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Queries, the database in which they are looked for, and the right answers.

    Attributes:
        name: short, good for the name of a file.
        same_place: what makes an image a positive.
        database: images.
        queries: images; the same object as `database` where a recording is compared with itself.
        positives: for every query the database images of its place, the likely nearest first.
        excluded: for every query the range of database images that it is not compared with, not
            even if they are positives; none unless given.

    Raises:
        GroundTruthError: the lengths differ, a positive is no database image, or no query has one.
    """

    name: str
    same_place: SamePlace
    database: Images
    queries: Images
    positives: Sequence[Sequence[int]]
    excluded: Sequence[range] = field(default=())

    def __post_init__(self) -> None:
        # The dataclass is frozen, so only this method may fill in the attributes.
        excluded = self.excluded or (range(0),) * len(self.queries)
        object.__setattr__(self, 'excluded', tuple(excluded))
        if not len(self.queries) == len(self.positives) == len(self.excluded):
            raise GroundTruthError(
                f'{self.name}: {len(self.queries)} queries, but {len(self.positives)} lists of '
                f'positives and {len(self.excluded)} ranges of excluded images')
        self._check_positives()
        comparable = tuple(
            tuple(image for image in images if image not in out)
            for images, out in zip(self.positives, self.excluded, strict=True))
        object.__setattr__(self, 'positives', comparable)
        if not self.answerable:
            raise GroundTruthError(
                f'{self.name}: none of {len(self.queries)} queries has a positive in the database '
                f'({self.same_place}): widen what counts as the same place, or exclude fewer '
                'images')

    def _check_positives(self) -> None:
        for query, images in enumerate(self.positives):
            wrong = [image for image in images if not 0 <= image < len(self.database)]
            if wrong:
                raise GroundTruthError(
                    f'{self.name}: query {query} has the positive {wrong[0]}, but there are '
                    f'{len(self.database)} database images')

    @property
    def answerable(self) -> list[int]:
        """The queries that have a positive: recall is over these."""
        return [query for query, positives in enumerate(self.positives) if positives]

    @property
    def unanswerable(self) -> list[int]:
        """The queries without a positive that are still compared with some images."""
        return [query for query, positives in enumerate(self.positives)
                if not positives and len(self.comparable(query))]

    def comparable(self, query: int) -> np.ndarray:
        """Database images that a query is compared with, (n,) increasing indices."""
        out = self.excluded[query]
        index = np.arange(len(self.database))
        return index[(index < out.start) | (index >= out.stop)]


def _name(folder: Path) -> str:
    """Name of a folder of images; its parent's if it is just called 'images'."""
    path = folder.resolve()
    return path.parent.name if path.name == 'images' else path.name


# ---- same number, same place --------------------------------------------------------------------


def _numbers(images: Sequence[Path]) -> list[int] | None:
    """The one number in every name; None if a name has none or several, or two have the same."""
    found = [re.findall(r'[0-9]+', image.stem) for image in images]
    if not all(len(numbers) == 1 for numbers in found):
        return None
    numbers = [int(number) for (number,) in found]
    return numbers if len(set(numbers)) == len(numbers) else None


def _frame_numbers(
    database: Sequence[Path], queries: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the frames of two walks, from their names if possible, else by counting."""
    names = _numbers(database), _numbers(queries)
    if names[0] and names[1] and not set(names[0]).isdisjoint(names[1]):
        return np.array(names[0]), np.array(names[1])
    if len(database) != len(queries):
        raise GroundTruthError(
            f'{database[0].parent} has {len(database)} images and {queries[0].parent} has '
            f'{len(queries)}, and their names have no common frame numbers: without these, image '
            'n of one folder has to be image n of the other')
    return np.arange(len(database)), np.arange(len(queries))


def read_frames(database: Path, queries: Path, tolerance: int = TOLERANCE) -> EvaluationSet:
    """Two walks along one way: frames of the same number show the same place.

    A frame's number is the one in its name (Gardens Point: Image012.jpg; Nordland:
    images-00012.png), so that one folder may hold fewer frames than the other. Such numbers are
    used if every name has exactly one, none occurs twice in a folder, and the folders share some;
    stamps are no such numbers. Otherwise the n-th image is frame n, and the folders must have
    equally many images.

    Args:
        database, queries: folders with images.
        tolerance: number of frames that a positive may be off by.

    Raises:
        GroundTruthError: one of the folders is missing or empty, or the folders differ in length
            and have no such numbers.
    """
    if database.resolve() == queries.resolve():
        raise GroundTruthError(f'{queries} is both: every image would find itself')
    files, asked = list_images(database), list_images(queries)
    numbers, asked_numbers = _frame_numbers(files, asked)

    def near(number: int) -> list[int]:
        off_by = np.abs(numbers - number)
        order = np.argsort(off_by, kind='stable')
        return order[: np.count_nonzero(off_by <= tolerance)].tolist()

    return EvaluationSet(f'{_name(queries)}-{_name(database)}', SamePlace(frames=tolerance),
                         files, asked, [near(number) for number in asked_numbers])


# ---- marked pairs -------------------------------------------------------------------------------


def _read_pairs(path: Path, count: int) -> Iterator[tuple[int, int]]:
    """Pairs (later, earlier) of indices from 0."""
    for row in read_table(path, PAIR_COLUMNS):
        numbers = [row[column] for column in PAIR_COLUMNS]
        if not all(n.isdecimal() and 1 <= int(n) <= count for n in numbers):
            raise GroundTruthError(
                f'{path}, line {row["line"]}: {",".join(numbers)} are not two of the images 1 to '
                f'{count}')
        earlier, later = sorted(int(number) - 1 for number in numbers)
        yield later, earlier


def read_pairs(images: Path, pairs: Path, exclude: int = EXCLUDED) -> EvaluationSet:
    """One recording that revisits places: every image is compared with the images before it.

    Recall is over the images with a marked earlier one. An image without one does not count: its
    place may be new, or known but not marked.

    Args:
        images: folder, in order of recording.
        pairs: CSV file with the columns image_a,image_b: numbers, from 1, of images that show
            the same place, in either order.
        exclude: number of images directly before the query that it is not compared with.

    Raises:
        GroundTruthError: a file or folder is missing, or a pair does not name two of the images.
    """
    files = list_images(images)
    marked: list[set[int]] = [set() for _ in files]
    for later, earlier in _read_pairs(pairs, len(files)):
        marked[later].add(earlier)
    # Distances are not known; the middle of a visit is likely to be the nearest.
    positives = [sorted(images, key=lambda i: (abs(i - sum(images) / len(images)), i))
                 for images in marked]
    excluded = [range(max(0, query - exclude), len(files)) for query in range(len(files))]
    return EvaluationSet(_name(images), SamePlace(is_marked=True, excluded=exclude), files, files,
                         positives, excluded)


# ---- positions ----------------------------------------------------------------------------------


def _turned_by(yaw_rad: np.ndarray, other_rad: float) -> np.ndarray:
    return np.abs((yaw_rad - other_rad + math.pi) % (2 * math.pi) - math.pi)


def nearest_within(
    database: PlacedImages, queries: PlacedImages, radius_m: float, heading_rad: float | None
) -> list[list[int]]:
    """Database images within a radius, and an angle unless None, by query; the nearest first."""
    found = []
    for query, position_m in enumerate(queries.positions_m):
        distances_m = np.linalg.norm(database.positions_m - position_m, axis=1)
        near = distances_m <= radius_m
        if heading_rad is not None:
            assert database.yaw_rad is not None
            assert queries.yaw_rad is not None
            near &= _turned_by(database.yaw_rad, queries.yaw_rad[query]) <= heading_rad
        order = np.argsort(distances_m, kind='stable')
        found.append(order[near[order]].tolist())
    return found


def _choose_heading(sides: Sequence[PlacedImages], heading_rad: float | None) -> float | None:
    """The largest angle between headings; None if headings are not known."""
    if all(side.yaw_rad is not None for side in sides):
        return SAME_PLACE_RAD if heading_rad is None else heading_rad
    if heading_rad is not None:
        raise GroundTruthError('the images have positions without headings: an angle between '
                               'headings cannot be asked for')
    return None


def read_positions(
    database: Path, queries: Path | None = None, *, radius_m: float | None = None,
    heading_rad: float | None = None, exclude: int = EXCLUDED,
) -> EvaluationSet:
    """Images with positions: the same place means within a radius and looking the same way.

    Args:
        database: folder as in `read_placed_images`.
        queries: another such folder; None compares the recording with itself, a query also with
            later images.
        radius_m: None takes PUBLISHED_RADIUS_M for positions in names, else SAME_PLACE_M.
        heading_rad: largest angle between headings; None takes SAME_PLACE_RAD if headings are
            known, and pi ignores them.
        exclude: number of images on either side of a query that it is not compared with if a
            recording is compared with itself; a query is never compared with itself.

    Raises:
        GroundTruthError: something is missing, or no query has a positive.
    """
    if queries is not None and queries.resolve() == database.resolve():
        queries = None
    placed = read_placed_images(database)
    asked = placed if queries is None else read_placed_images(queries)
    heading = _choose_heading((placed, asked), heading_rad)
    if radius_m is None:
        radius_m = PUBLISHED_RADIUS_M if placed.is_published else SAME_PLACE_M
    same_place = SamePlace(radius_m, None if heading is None else math.degrees(heading))
    positives = nearest_within(placed, asked, radius_m, heading)
    if queries is not None:
        return EvaluationSet(f'{_name(queries)}-{_name(database)}', same_place, placed.files,
                             asked.files, positives)
    count = len(placed.files)
    excluded = [range(max(0, i - exclude), min(count, i + exclude + 1)) for i in range(count)]
    return EvaluationSet(_name(database), replace(same_place, excluded=exclude), placed.files,
                         placed.files, positives, excluded)


# ---- Mapillary Street-Level Sequences -----------------------------------------------------------


def read_msls(city: Path, radius_m: float = PUBLISHED_RADIUS_M) -> EvaluationSet:
    """A city of Mapillary Street-Level Sequences, by its published protocol for single images.

    Queries and database are the images of its folders `query` and `database` without panoramas
    and, where there is a subtask_index.csv, of the subtask 'all'. A positive is within the
    radius, whatever its heading. One city is one set: the positions of two cities may be of
    different UTM zones.

    Raises:
        GroundTruthError: a file is missing, or a row is wrong; the test cities have no positions.
    """
    database, queries = read_msls_side(city / 'database'), read_msls_side(city / 'query')
    return EvaluationSet(f'msls-{_name(city)}', SamePlace(radius_m), database.files,
                         queries.files, nearest_within(database, queries, radius_m, None))
