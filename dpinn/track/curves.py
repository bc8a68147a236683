"""Curves of a group of runs: a thin one for each seed, a thick one for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from dpinn.track.drawing import Array, Look
from dpinn.track.experiment import Series, TrackedRun
from dpinn.track.groups import Group
from dpinn.track.training_figure import running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["steps", "seconds"]

POINTS = 400
"""Of a curve in a figure: more than its panel has pixels would only make the page larger."""


def draw_group(
    panel: Axes,
    group: Group,
    metric: str,
    look: Look,
    axis: Axis = "steps",
    logarithmic: bool = False,
    smooth: bool = False,
) -> None:
    """Draw a thin line for each run of a group and a thick one for what they have in common.

    Args:
        panel: to draw in.
        group: whose thick line is that of the finished runs, where there are any.
        metric: name of a history.
        look: of all of its lines.
        axis: what the curves run over.
        logarithmic: whether the panel's scale is; there, only what is above zero can be shown.
        smooth: take the thick line's running mean.
    """
    several = [s for run in group.runs if (s := _drawn(run, metric, logarithmic)) is not None]
    for series in several:
        x, y = _thinned(getattr(series, axis), series.values)
        panel.plot(x, y, look.line, color=look.colour, lw=0.8, alpha=0.35)
    common = middle(group.finished or group.runs, metric, logarithmic)
    if common is None:
        return
    y = common.values
    if smooth:
        y = np.exp(running_mean(np.log(y))) if logarithmic else running_mean(y)
    x, y = _thinned(getattr(common, axis), y)
    panel.plot(x, y, look.line, color=look.colour, lw=2.0)
    if len(x) == 1:
        panel.plot(x, y, "o", color=look.colour, ms=5)


def middle(runs: Iterable[TrackedRun], metric: str, logarithmic: bool) -> Series | None:
    """What the seeds have in common, at the steps that all of them have come to.

    The median on a logarithmic scale, else the mean; between its own steps a run is interpolated.
    None where no run has the metric, or not at the same steps.
    """
    several = [s for run in runs if (s := _drawn(run, metric, logarithmic)) is not None]
    if not several:
        return None
    first, last = max(s.steps[0] for s in several), min(s.steps[-1] for s in several)
    steps = np.unique(np.concatenate([s.steps for s in several]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not len(steps):
        return None
    seconds = np.median([np.interp(steps, s.steps, s.seconds) for s in several], axis=0)
    if logarithmic:
        logs = [np.interp(steps, s.steps, np.log(s.values)) for s in several]
        return Series(steps, seconds, np.exp(np.median(logs, axis=0)))
    values = [np.interp(steps, s.steps, s.values) for s in several]
    return Series(steps, seconds, np.mean(values, axis=0))


def _drawn(run: TrackedRun, metric: str, logarithmic: bool) -> Series | None:
    """The part of a history that its scale can show."""
    series = run.histories.get(metric)
    if series is None or not logarithmic:
        return series
    kept = series.values > 0
    if not kept.any():
        return None
    return Series(series.steps[kept], series.seconds[kept], series.values[kept])


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    if len(x) <= POINTS:
        return x, y
    kept = np.linspace(0, len(x) - 1, POINTS).round().astype(int)
    return x[kept], y[kept]
