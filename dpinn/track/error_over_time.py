"""A figure of how the error grows over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dpinn.track.drawing import (
    FAINT,
    INK,
    ROW_IN,
    Array,
    legend_columns,
    looks_for,
    new_figure,
    style_panel,
    typeset,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 9.0, 4.0  # inches, without the legend


def error_over_time_figure(
    times: Array,
    errors: Mapping[str, Array],
    bound: float = math.nan,
    seams: Sequence[float] = (),
    title: str | None = None,
) -> Figure:
    """Show the relative error at each time on a logarithmic scale, one line per name.

    Args:
        times: ``n_t``.
        errors: ``n_t`` per name; what is not finite or not above zero leaves a gap.
        bound: errors below it are not resolved by the reference; NaN where it is not known.
        seams: times at which one time window ends and the next begins.
        title: above the panel.
    """
    figure = new_figure(HEIGHT, width=WIDTH)
    panel = figure.subplots()
    for (name, error), look in zip(
        errors.items(), looks_for(errors, overlapping=True).values(), strict=True
    ):
        known = np.isfinite(error) & (error > 0)
        shown = np.where(known, error, np.nan)
        panel.plot(times, shown, look.line, color=look.colour, lw=2.0, label=typeset(name))
        # A line needs two neighbours; a time between gaps would not be seen.
        alone = known & ~np.roll(np.pad(known, 1), 1)[1:-1] & ~np.roll(np.pad(known, 1), -1)[1:-1]
        panel.plot(times[alone], shown[alone], "o", color=look.colour, ms=4)
    panel.set_yscale("log")
    if bound > 0:
        low, high = panel.get_ylim()
        if bound > low:
            panel.axhspan(low / 1e9, bound, color="#EEEEEE", lw=0, zorder=0)
            panel.plot([], [], color="#DDDDDD", lw=8, label="not resolved by the reference")
        panel.set_ylim(low, high)
    for k, seam in enumerate(seams):
        label = "seams of the time windows" if k == 0 else None
        panel.axvline(seam, color=FAINT, lw=0.7, alpha=0.4, zorder=0, label=label)
    style_panel(panel, title or "")
    panel.grid(color="#E6E6E6", lw=0.7, axis="y")
    panel.set_xlim(times[0], times[-1])
    panel.set_xlabel("$t$")
    panel.set_ylabel("relative $L^2$ error", color=INK)
    _, labels = panel.get_legend_handles_labels()
    columns = legend_columns(labels, WIDTH)
    figure.set_figheight(HEIGHT + ROW_IN * (-(-len(labels) // columns)))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure
