"""Whether probabilities are calibrated: eight in ten answers with 0.8 should be true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

BINS = 10
RELIABILITY = 'Share of true candidates over their probability.'


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers in bins of equal width by their probability.

    Attributes:
        edges: (B + 1,) from 0 to 1; the upper edge of a bin belongs to it, 0 to the first one.
        counts: (B,) number of answers.
        probability: (B,) mean probability of the answers; NaN in an empty bin.
        share_true: (B,) true answers / answers; NaN in an empty bin.
        expected_calibration_error: mean distance of `share_true` from `probability`, weighted by
            the counts (Naeini et al., AAAI 2015); NaN without answers.
    """

    edges: np.ndarray
    counts: np.ndarray
    probability: np.ndarray
    share_true: np.ndarray
    expected_calibration_error: float


def reliability(
    probabilities: Sequence[float], is_true: Sequence[bool], bins: int = BINS
) -> Reliability:
    """Compare the probabilities of answers with the share of true ones.

    Args:
        probabilities: (N,) from 0 to 1.
        is_true: (N,) whether each answer was true.
        bins: number of bins.
    """
    promised, true = np.asarray(probabilities, float), np.asarray(is_true, float)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.searchsorted(edges[1:-1], promised)
    counts = np.bincount(which, minlength=bins)
    with np.errstate(invalid='ignore'):  # 0 / 0 is the NaN of an empty bin
        probability = np.bincount(which, promised, bins) / counts
        share_true = np.bincount(which, true, bins) / counts
    gaps = np.nansum(np.abs(share_true - probability) * counts)
    error = float(gaps / len(promised)) if len(promised) else float('nan')
    return Reliability(edges, counts, probability, share_true, error)


def draw_reliability(found: Reliability) -> Figure:
    """Draw the share of true answers over their probability, and below it how many there are."""
    figure = Figure(figsize=(5.5, 6), dpi=110, layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={'height_ratios': (3, 1)})
    filled = found.counts > 0
    left, width = found.edges[:-1], np.diff(found.edges)
    upper.plot([0, 1], [0, 1], '--', color='#9a9a9a', linewidth=1, label='calibrated')
    upper.bar(left[filled], found.share_true[filled], width[filled], align='edge',
              color='#2c7bb6', alpha=0.35, edgecolor='#2c7bb6')
    upper.plot(found.probability[filled], found.share_true[filled], 'o-', color='#2c7bb6',
               label=f'{found.counts.sum()} answers')
    upper.set(ylabel='share of true answers', xlim=(0, 1), ylim=(0, 1.02),
              title=f'Expected calibration error {found.expected_calibration_error:.3f}')
    upper.legend(loc='upper left', fontsize=9)
    lower.bar(left, found.counts, width, align='edge', color='#9a9a9a', edgecolor='white')
    lower.set(xlabel='probability', ylabel='answers')
    for axes in (upper, lower):
        axes.grid(color='#e5e5e5', linewidth=0.5)
        axes.set_axisbelow(True)
    return figure
