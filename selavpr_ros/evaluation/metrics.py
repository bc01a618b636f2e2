"""Figures that a replay and an evaluation of image folders have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

METRICS = 'metrics.json'  # name of their file in a result folder
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one stage: the median and the 95th percentile."""

    p50: float
    p95: float

    @classmethod
    def of(cls, milliseconds: Sequence[float] | np.ndarray) -> Latency:
        """Percentiles of (n,) measurements, at least one."""
        return cls(*np.percentile(milliseconds, [50, 95]).tolist())

    @property
    def cells(self) -> tuple[str, str]:
        """Both percentiles as cells of a table."""
        return f'{self.p50:.2f}', f'{self.p95:.2f}'


def share_within(ranks: Sequence[int | None], n: int, count: int) -> float:
    """Share of `count` queries whose first positive is among the first n.

    Args:
        ranks: rank, from 0, of each query's first positive; None where none is listed.
        n: how many answers count.
        count: number of queries, above 0.
    """
    return sum(rank is not None and rank < n for rank in ranks) / count


def told(value: float | None, digits: int = 3) -> str:
    """A figure for a table; '-' where it is not known."""
    return '-' if value is None else f'{value:.{digits}f}'
