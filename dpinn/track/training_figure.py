"""The course of a training: losses, errors, weights, alignment and learning rate over steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dpinn.track.drawing import (
    HANDLE_IN,
    INK,
    LETTER_IN,
    ROW_IN,
    WIDTH_IN,
    Array,
    Look,
    legend_columns,
    looks_for,
    new_figure,
    style_panel,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]

ALIGNMENT = "gradient alignment"
MARGINS_IN = 0.7  # of a panel: ticks and labels
FEW = 100  # values of a curve that is not smoothed


def curves_figure(history: History, title: str | None = None) -> Figure:
    """Show training: loss terms, errors, term weights if they vary, alignment, learning rate.

    Args:
        history: records with ``step`` and metrics by path name (``loss/pde``, ``error/u``,
            ``weight/ic``, ``alignment/intra``, ``lr``); a record need not hold every metric.
        title: above the panels.
    """
    groups = {
        "loss terms": _series(history, "loss"),
        "relative errors": _series(history, "error"),
        "term weights": _series(history, "weight"),
        ALIGNMENT: {
            name: series
            for name, series in _series(history, "alignment").items()
            if name in ("intra", "preconditioned", "inter")
        },
        "learning rate": _series(history, "lr") | _series(history, "learning_rate"),
    }
    weights = groups["term weights"].values()
    if not any(np.ptp(values) > 1e-6 * np.max(np.abs(values)) for _, values in weights):
        del groups["term weights"]
    shown = {label: series for label, series in groups.items() if series}
    if not shown:
        raise ValueError(
            "the history has no loss/, error/, weight/, alignment/ or lr metric with finite values"
        )
    terms = dict.fromkeys([*groups["loss terms"], *shown.get("term weights", {})])
    term_looks = looks_for(t for t in terms if t != "total") | {"total": Look(INK, "-")}
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    width = WIDTH_IN / columns - MARGINS_IN
    legends = [_legend_rows(label, series, width) for label, series in shown.items()]
    tallest = [max(legends[i : i + columns]) for i in range(0, len(legends), columns)]
    figure = new_figure(3.5 * rows + 0.4 + ROW_IN * sum(tallest))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for panel in panels[len(shown) :]:
        panel.remove()
    for i, (panel, (label, series)) in enumerate(zip(panels, shown.items(), strict=False)):
        smooth = label in ("loss terms", ALIGNMENT)
        looks = term_looks if label in ("loss terms", "term weights") else looks_for(series)
        _draw_curves(panel, series, looks, smooth, score=label == ALIGNMENT)
        style_panel(panel, label)
        _add_legend(panel, label, series, width)
        panel.grid(color="#E6E6E6", lw=0.7)
        panel.margins(x=0.01)
        if i + columns >= len(shown):
            panel.set_xlabel("optimizer step")
            panel.tick_params(labelbottom=True)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    return figure


def _draw_curves(
    panel: Axes,
    series: Mapping[str, tuple[Array, Array]],
    looks: Mapping[str, Look],
    smooth: bool,
    score: bool,
) -> None:
    for name, (steps, values) in series.items():
        look = looks[name]
        trend = (running_mean if score else _trend)(values) if smooth else values
        if trend is not values:
            panel.plot(steps, values, color=look.colour, lw=0.6, alpha=0.25)
        panel.plot(steps, trend, look.line, color=look.colour, lw=1.8, label=name)
    if score:
        panel.set_ylim(-1.05, 1.05)
    elif all(np.min(values) > 0 for _, values in series.values()):
        panel.set_yscale("log")


def _add_legend(panel: Axes, title: str, names: Collection[str], width: float) -> None:
    """Put the legend above the curves: inside, noisy ones leave no free place."""
    if not any(names):
        return
    rows = _legend_rows(title, names, width)
    if not rows:
        panel.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=len(names))
        return
    columns = legend_columns(names, width)
    panel.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.0
    )
    panel.set_title(panel.get_title("left"), loc="left", pad=72 * ROW_IN * rows + 10)


def _legend_rows(title: str, names: Collection[str], width: float) -> int:
    """Rows that a legend takes under its panel's title; 0 where it fits into the title's line."""
    left = width - LETTER_IN * len(title)
    per_line = legend_columns(names, left)
    if per_line >= len(names) and LETTER_IN * max(map(len, names)) + HANDLE_IN <= left:
        return 0
    return -(-len(names) // legend_columns(names, width))


def _trend(values: Array) -> Array:
    """Return the geometric running mean; few values, or ones not above zero, as they are."""
    if len(values) < FEW or np.min(values) <= 0:
        return values
    return np.exp(running_mean(np.log(values)))


def running_mean(values: Array) -> Array:
    """Return the mean over 4% of the curve around each value; few values as they are."""
    half = len(values) // 50
    if len(values) < FEW:
        return values
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1.0 / (2 * half + 1)), mode="valid")


def _series(history: History, group: str) -> dict[str, tuple[Array, Array]]:
    """Return steps and finite values of the metrics below a path, by the rest of their names."""
    found: dict[str, dict[float, float]] = {}
    for record in history:
        for key, value in record.items():
            first, _, rest = key.partition("/")
            if first == group and np.isfinite(value):
                found.setdefault(rest, {})[record["step"]] = float(value)
    return {
        name: (np.array(sorted(points)), np.array([points[s] for s in sorted(points)]))
        for name, points in found.items()
    }
