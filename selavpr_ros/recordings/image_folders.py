"""Folders of images: their order, the tables beside them, and where the images were taken."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selavpr_ros.errors import GroundTruthError

SUFFIXES = {'.bmp', '.jfif', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm', '.tif',
            '.tiff', '.webp'}
POSES = 'poses.csv'
POSE_COLUMNS = ('image', 'x_m', 'y_m', 'yaw_rad')  # the last one may be missing
MSLS_POSITION = ('easting', 'northing')


# ---- files and tables ---------------------------------------------------------------------------


def by_number(file: Path) -> list[tuple[str, int]]:
    """Sort key by which image_2 comes before image_10."""
    parts = re.findall(r'([^0-9]*)([0-9]*)', file.name)
    return [(text, int(number or -1)) for text, number in parts]


def is_image(file: Path) -> bool:
    """Whether a name is that of an image; hidden files, as macOS puts beside them, are none."""
    return (file.suffix.lower() in SUFFIXES and not file.name.startswith('.')
            and not file.is_dir())


def list_images(folder: Path) -> tuple[Path, ...]:
    """The images directly in a folder, sorted by name, with numbers in names by their value.

    Hidden files are left out.

    Raises:
        GroundTruthError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise GroundTruthError(f'{folder} is no folder')
    images = tuple(sorted(filter(is_image, folder.iterdir()), key=by_number))
    if not images:
        inner = next((f.name for f in sorted(folder.iterdir()) if f.is_dir()), None)
        advice = f'; did you mean its folder {inner}?' if inner else ''
        raise GroundTruthError(
            f'{folder} has no image in it ({", ".join(sorted(SUFFIXES))}){advice}')
    return images


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _read_lines(path: Path) -> list[list[str]]:
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GroundTruthError(f'{path} cannot be read: {error}') from error


def read_table(path: Path, columns: Sequence[str], optional: int = 0) -> Iterator[dict[str, str]]:
    """Rows of a CSV file as column -> cell, with the number of the line as 'line'.

    Args:
        path: a file with a header, or without one if it has these columns in this order.
        columns: columns to read; others are ignored.
        optional: how many of the last columns may be missing.

    Raises:
        GroundTruthError: the file cannot be read, has no rows, or lacks a column.
    """
    lines = _read_lines(path)
    header = list(columns)
    needed = columns[: len(columns) - optional]
    if lines and not any(map(_is_number, lines[0])):
        header, lines[0] = lines[0], []
    if not any(lines):
        raise GroundTruthError(f'{path} is empty: it needs rows of {",".join(columns)}')
    if not set(needed) <= set(header):
        raise GroundTruthError(f'{path} has the columns {",".join(header)}: it needs '
                               f'{",".join(needed)}')
    for number, cells in enumerate(lines, start=1):
        if cells and len(cells) < len(needed):
            raise GroundTruthError(f'{path}, line {number}: {len(cells)} columns, not {header}')
        if cells:
            yield {**dict(zip(header, cells, strict=False)), 'line': str(number)}


# ---- where an image was taken -------------------------------------------------------------------


def _read_numbers(
    path: Path, row: dict[str, str], columns: Sequence[str], may_be_unknown: bool = False
) -> list[float]:
    """The finite numbers of a row; NaN for an empty cell or 'nan' if it `may_be_unknown`."""
    texts = [row.get(column, '') for column in columns]
    unknown = ('', 'nan') if may_be_unknown else ()
    if not all(_is_number(text) or text.lower() in unknown for text in texts):
        raise GroundTruthError(f'{path}, line {row["line"]}: {",".join(columns)} are '
                               f'{",".join(texts)}, not all of them numbers')
    return [float(text or 'nan') for text in texts]


def read_poses(
    path: Path, *, may_be_unknown: bool = False
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Rows of a table of poses: number of the line, name of the image, and its pose.

    A pose is (3,): x_m, y_m, yaw_rad. The yaw is NaN where its column is missing. If numbers
    `may_be_unknown`, any of them may be NaN or empty.

    Raises:
        GroundTruthError: as for `read_table`, or a cell is not a number.
    """
    for row in read_table(path, POSE_COLUMNS, optional=1):
        columns = [column for column in POSE_COLUMNS[1:] if column in row]
        numbers = _read_numbers(path, row, columns, may_be_unknown)
        yield int(row['line']), row['image'], np.array([*numbers, math.nan][:3])


def position_in_name(file: Path) -> tuple[float, float] | None:
    """Metres east and north from a name '@utm_east@utm_north@...' of published sets, or None."""
    cells = file.name.split('@')[1:3]
    if len(cells) < 2 or not all(map(_is_number, cells)):
        return None
    return float(cells[0]), float(cells[1])


@dataclass(frozen=True, eq=False)
class PlacedImages:
    """Images and where they were taken.

    Attributes:
        files: N images in order.
        positions_m: (N, 2) x and y.
        yaw_rad: (N,) headings, or None if any of them is unknown.
        is_published: whether this is a published data set: positions in names of files, or MSLS.
    """

    files: tuple[Path, ...]
    positions_m: np.ndarray
    yaw_rad: np.ndarray | None
    is_published: bool


def _find_image(folder: Path, line: int, image: str) -> Path:
    for file in (folder / image, folder / 'images' / image):
        if file.is_file():
            return file
    raise GroundTruthError(f"{folder / POSES}, line {line}: no image '{image}' in {folder} or its "
                           'folder images')


def _read_table_of_poses(folder: Path) -> PlacedImages:
    rows = list(read_poses(folder / POSES))
    poses = np.array([pose for *_, pose in rows])
    yaw_rad = None if np.isnan(poses[:, 2]).any() else poses[:, 2]
    files = tuple(_find_image(folder, line, image) for line, image, _ in rows)
    return PlacedImages(files, poses[:, :2], yaw_rad, False)


def _read_names(folder: Path) -> PlacedImages:
    files, positions = list_images(folder), []
    for file in files:
        position = position_in_name(file)
        if position is None:
            raise GroundTruthError(
                f'{folder} has neither a file {POSES} ({",".join(POSE_COLUMNS)}) nor names of '
                f"images with positions ('@utm_east@utm_north@...'), as '{file.name}' shows")
        positions.append(position)
    return PlacedImages(files, np.array(positions), None, True)


def read_placed_images(folder: Path) -> PlacedImages:
    """Images with positions: from poses.csv, else from names as in the published data sets.

    poses.csv has the columns image,x_m,y_m,yaw_rad, in order of recording and with or without a
    header; yaw_rad may be missing. An image lies in the folder, or in its folder `images`.
    Published names are '@utm_east@utm_north@...@.jpg', in metres.

    Raises:
        GroundTruthError: it has neither, or a row or a name is wrong.
    """
    if not folder.is_dir():
        raise GroundTruthError(f'{folder} is no folder')
    return _read_table_of_poses(folder) if (folder / POSES).is_file() else _read_names(folder)


# ---- Mapillary Street-Level Sequences -----------------------------------------------------------


def _rows_by_key(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    return {row['key']: row for row in read_table(path, ('key', *columns))}


def _kept_keys(folder: Path) -> set[str]:
    """Keys that the published protocol compares: no panoramas, and in the subtask 'all'."""
    raw = _rows_by_key(folder / 'raw.csv', ('pano',))
    kept = {key for key, row in raw.items() if row['pano'].lower() == 'false'}
    subtasks = folder / 'subtask_index.csv'
    if not subtasks.is_file():
        return kept
    return {key for key, row in _rows_by_key(subtasks, ('all',)).items()
            if key in kept and row['all'].lower() == 'true'}


def read_msls_side(folder: Path) -> PlacedImages:
    """The folder `query` or `database` of a city, as the published protocol compares it.

    Raises:
        GroundTruthError: a table or an image is missing, or a row is wrong.
    """
    path = folder / 'postprocessed.csv'
    kept = _kept_keys(folder)
    rows = [row for row in read_table(path, ('key', *MSLS_POSITION)) if row['key'] in kept]
    if not rows:
        raise GroundTruthError(f'{path} names no image that counts: all are panoramas, or not of '
                               "the subtask 'all'")
    files = tuple(folder / 'images' / f'{row["key"]}.jpg' for row in rows)
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise GroundTruthError(f'{len(missing)} of {len(files)} images of {path} are missing, '
                               f'{missing[0]} is the first: unpack all volumes')
    positions_m = np.array([_read_numbers(path, row, MSLS_POSITION) for row in rows])
    return PlacedImages(files, positions_m, None, True)
