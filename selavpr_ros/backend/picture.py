"""Draws the trajectory without and with loop closures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selavpr_ros.backend.offline import Optimised, session_borders

Style = dict[str, Any]
# In the order of drawing: the truth lies below. Dashes tell lines apart without colours, too.
TRUE_STYLE: Style = {'color': '#bdbdbd', 'linewidth': 5.0}
ODOMETRY_STYLE: Style = {'color': '#d7191c', 'linewidth': 1.2, 'linestyle': '--'}
OPTIMISED_STYLE: Style = {'color': '#2c7bb6', 'linewidth': 1.6}


def _with_gaps(optimised: Optimised, positions: np.ndarray) -> np.ndarray:
    """(M, 2) positions of one line that breaks between two sessions."""
    return np.insert(positions[:, :2], session_borders(optimised.nodes), np.nan, axis=0)


def _label(name: str, error_m: float | None) -> str:
    return name if error_m is None else f'{name}: {error_m:.2f} m off'


def _draw(axes: Axes, optimised: Optimised) -> None:
    ways = [
        (optimised.odometry, ODOMETRY_STYLE, _label('odometry', optimised.error_before_m)),
        (optimised.optimised, OPTIMISED_STYLE,
         _label(f'with {optimised.closures} loop closures', optimised.error_after_m))]
    if optimised.true is not None:
        ways.insert(0, (optimised.true, TRUE_STYLE, 'truth'))
    for positions, style, label in ways:
        axes.plot(*_with_gaps(optimised, positions).T, **style, label=label)


def draw_trajectories(optimised: Optimised) -> Figure:
    """Draw the way from above: by odometry, optimised, and the true one if it is known.

    The labels tell the absolute trajectory errors (root mean square, in metres).
    """
    figure = Figure(figsize=(8, 7), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    _draw(axes, optimised)
    axes.set(xlabel='x [m]', ylabel='y [m]', title='What the loop closures make of odometry')
    axes.set_aspect('equal', adjustable='datalim')
    axes.grid(color='#e5e5e5', linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.09), ncols=3, frameon=False)
    return figure
