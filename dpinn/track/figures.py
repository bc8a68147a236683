"""Figures of solutions: a field beside its reference, and profiles at a few times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpinn.analysis.errors import relative_l2
from dpinn.track.drawing import (
    INK,
    PALETTE,
    WIDTH_IN,
    Array,
    check_shapes,
    colour_bar,
    error_scale,
    field_scale,
    new_figure,
    style_panel,
    typeset,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def solution_figure(
    name: str,
    axes: Mapping[str, Array],
    prediction: Array,
    reference: Array | None = None,
    title: str | None = None,
    times: Sequence[float] | None = None,
) -> Figure:
    """Show a field: prediction, reference and absolute error side by side.

    Prediction and reference share one colour scale, symmetric about zero when the field changes
    sign. Time runs horizontally; two space dimensions have equal aspect.

    Args:
        name: the field, such as ``u`` or ``omega``.
        axes: coordinates by name in the order of the array's dimensions, `n_i`-dim each: two of
            them, or three with the time first.
        prediction: `n_1 x n_2 (x n_3)`-dim array.
        reference: array of the same shape; without it the prediction stands alone.
        title: stands before the relative L2 error.
        times: with three axes, one row of panels for each, or one panel where the prediction
            stands alone; the final time if not given.
    """
    check_shapes(axes, prediction, reference)
    if len(axes) not in (2, 3):
        raise ValueError(f"a solution figure needs 2 or 3 axes, not {', '.join(axes)}")
    names, grids = list(axes), list(axes.values())
    rows: list[tuple[str, Any]] = [("", ...)]
    if len(axes) == 3:
        picked = _nearest(grids[0], times if times is not None else [float(grids[0][-1])])
        rows = [(f"{typeset(names[0])} = {grids[0][i]:.3g}", i) for i in picked]
        names, grids = names[1:], grids[1:]
    in_space = "t" not in names
    # A prediction that stands alone has its times side by side.
    alone = reference is None
    down, columns = (1, len(rows)) if alone else (len(rows), 3)
    height = _row_height(grids, in_space, columns > 1) * down + 0.45
    figure = new_figure(height, width=0.6 * WIDTH_IN if in_space and columns == 1 else WIDTH_IN)
    panels = figure.subplots(down, columns, sharex=True, sharey=True, squeeze=False)
    field_norm, field_map = field_scale(prediction if reference is None else reference)
    error = None if reference is None else np.abs(prediction - reference)
    error_norm = None if error is None else error_scale(error)
    symbol = typeset(name)
    for row, (when, index) in enumerate(rows):
        shown = [("prediction", prediction[index], field_norm, field_map)]
        if reference is not None and error is not None and error_norm is not None:
            shown += [
                ("reference", reference[index], field_norm, field_map),
                ("absolute error", error[index], error_norm, "magma"),
            ]
        here = panels.reshape(len(rows), -1)[row]
        for panel, (label, values, norm, colours) in zip(here, shown, strict=True):
            floor = norm.vmin if label == "absolute error" else None
            image = panel.pcolormesh(
                grids[0],
                grids[1],
                np.asarray(values if floor is None else np.maximum(values, floor)).T,
                norm=norm,
                cmap=colours,
                shading="nearest",
                rasterized=True,
            )
            style_panel(panel, ", ".join(part for part in (label, when) if part))
            if in_space:
                panel.set_aspect("equal")
            if alone or row == len(rows) - 1:
                panel.set_xlabel(typeset(names[0]))
            if panel in panels[:, 0]:
                panel.set_ylabel(typeset(names[1]), rotation=0, labelpad=10)
            if label == "reference" or (alone and row == len(rows) - 1):
                colour_bar(figure, image, panel, symbol, columns)
            elif label == "absolute error":
                colour_bar(figure, image, panel, f"|Δ{symbol}|", columns)
    _headline(figure, symbol, title, prediction, reference)
    return figure


def snapshots_figure(
    name: str,
    axes: Mapping[str, Array],
    prediction: Array,
    reference: Array | None = None,
    title: str | None = None,
    times: Sequence[float] | None = None,
) -> Figure:
    """Show profiles over x at a few times: the prediction dashed over the reference.

    Args:
        name: the field.
        axes: two coordinates by name, the time first, `n_t`- and `n_x`-dim.
        prediction: `n_t x n_x`-dim array.
        reference: array of the same shape.
        title: stands before the relative L2 error.
        times: when; five evenly spaced ones if not given.
    """
    check_shapes(axes, prediction, reference)
    if len(axes) != 2:
        raise ValueError(f"snapshots need a time and one more axis, not {', '.join(axes)}")
    (time_name, time_grid), (space_name, space_grid) = axes.items()
    if times is None:
        times = [float(t) for t in np.linspace(time_grid[0], time_grid[-1], 5)]
    picked = _nearest(time_grid, times)
    figure = new_figure(3.3)
    panels = figure.subplots(1, len(picked), sharey=True, squeeze=False)[0]
    for panel, i in zip(panels, picked, strict=True):
        if reference is not None:
            panel.plot(space_grid, reference[i], color=PALETTE[5], lw=3.5, label="reference")
        panel.plot(space_grid, prediction[i], "--", color=INK, lw=1.4, label="prediction")
        style_panel(panel, f"{typeset(time_name)} = {time_grid[i]:.3g}")
        panel.set_xlabel(typeset(space_name))
        panel.margins(x=0.02)
        panel.locator_params(axis="x", nbins=4)
        panel.grid(color="#E6E6E6", lw=0.7)
    panels[0].set_ylabel(typeset(name), rotation=0, labelpad=10)
    if reference is not None:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    _headline(figure, typeset(name), title, prediction, reference)
    return figure


def _nearest(grid: Array, wanted: Iterable[float]) -> list[int]:
    return list(dict.fromkeys(int(np.argmin(np.abs(grid - value))) for value in wanted))


def _row_height(grids: Sequence[Array], in_space: bool, three: bool) -> float:
    """Return a row's height in inches: true to scale in space, wide in time."""
    if not in_space:
        return 3.4 if three else 4.5
    panel_width = WIDTH_IN / 3.9 if three else 0.5 * WIDTH_IN
    aspect = float(np.ptp(grids[1]) / np.ptp(grids[0]))
    return float(np.clip(panel_width * aspect, 1.5, 6.0)) + 0.7


def _headline(
    figure: Figure, symbol: str, title: str | None, prediction: Array, reference: Array | None
) -> None:
    error = None if reference is None else relative_l2(prediction, reference)
    accuracy = None if error is None else f"relative $L^2$ error of {symbol}: {error:.2e}"
    parts = [part for part in (title, accuracy) if part]
    if parts:
        figure.suptitle(",  ".join(parts), x=0.01, ha="left", fontsize=13, color=INK)
