"""A result that knows how to write itself: JSON, CSV, pictures and a page in one folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from selavpr_ros.evaluation.html import PAGE, Section, render
from selavpr_ros.evaluation.metrics import METRICS
from selavpr_ros.evaluation.result_folder import write_csv, write_json

Item = TypeVar('Item')


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spaced."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


class Report(ABC):
    """One result: data for programs and spreadsheets, pictures, and a page to read.

    Its `str` is what a terminal shows. Nothing is drawn twice.
    """

    @abstractmethod
    def metrics(self) -> Mapping[str, Any]:
        """What metrics.json holds."""

    @abstractmethod
    def tables(self) -> Mapping[str, Iterable[Sequence[object]]]:
        """Head and rows of every CSV file, by its name."""

    @abstractmethod
    def pictures(self) -> Mapping[str, bytes]:
        """Every PNG file, by its name."""

    @abstractmethod
    def heading(self) -> tuple[str, str]:
        """Title and summary of the page."""

    @abstractmethod
    def sections(self) -> Iterable[Section]:
        """Parts of the page."""

    def write_tables(self, folder: Path) -> None:
        """Write the CSV files into a folder."""
        for name, rows in self.tables().items():
            write_csv(folder / f'{name}.csv', rows)

    def write_data(self, folder: Path) -> None:
        """Write metrics.json and the CSV files into a folder."""
        write_json(folder / METRICS, self.metrics())
        self.write_tables(folder)

    def write_pictures(self, folder: Path) -> None:
        """Write the PNG files into a folder."""
        for name, png in self.pictures().items():
            (folder / f'{name}.png').write_bytes(png)

    def write_page(self, folder: Path) -> None:
        """Write report.html into a folder."""
        page = render(*self.heading(), list(self.sections()))
        (folder / PAGE).write_text(page, encoding='utf-8')

    def write(self, folder: Path) -> None:
        """Write all of it into a folder."""
        self.write_data(folder)
        self.write_pictures(folder)
        self.write_page(folder)
