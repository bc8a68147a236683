"""Figures of solutions and of training, drawn without pyplot's global state."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpinn.analysis.errors import relative_l2

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

Array = NDArray[np.floating[Any]]
History = Sequence[Mapping[str, float]]

WIDTH_IN, DPI = 12.0, 100  # 1200 pixels wide, and text sizes that suit it
# Okabe and Ito's palette, told apart under every common colour blindness; yellow is too pale.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT = "#222222", "#8A8A8A"
GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "lambda", "mu", "nu"}
    | {"xi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Phi", "Psi", "Omega"}
)
ALIGNMENT = "gradient alignment"
PEAKED = 30.0  # largest error over median from which a linear scale would show one spot alone
FEW = 100  # values of a curve that is not smoothed
LOG_DECADES = 4  # of the error's logarithmic scale, below its largest value


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
    term_colours = dict(
        zip((t for t in terms if t != "total"), itertools.cycle(PALETTE), strict=False)
    )
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.5 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for panel in panels[len(shown) :]:
        panel.remove()
    for i, (panel, (label, series)) in enumerate(zip(panels, shown.items(), strict=False)):
        smooth = label in ("loss terms", ALIGNMENT)
        _draw_curves(panel, series, term_colours, smooth, score=label == ALIGNMENT)
        style_panel(panel, label)
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
    term_colours: Mapping[str, str],
    smooth: bool,
    score: bool,
) -> None:
    others = itertools.cycle(PALETTE)
    for name, (steps, values) in series.items():
        colour = INK if name == "total" else term_colours.get(name) or next(others)
        trend = (running_mean if score else _trend)(values) if smooth else values
        if trend is not values:
            panel.plot(steps, values, color=colour, lw=0.6, alpha=0.25)
        panel.plot(steps, trend, color=colour, lw=1.8, label=name)
    if score:
        panel.set_ylim(-1.05, 1.05)
    elif all(np.min(values) > 0 for _, values in series.values()):
        panel.set_yscale("log")
    if any(series):
        # Above the curves, on the title's line: inside, noisy curves leave no free place.
        panel.legend(
            frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=min(5, len(series))
        )


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


def check_shapes(axes: Mapping[str, Array], prediction: Array, reference: Array | None) -> None:
    """Refuse arrays that are not on the grid of the axes."""
    expected = tuple(len(grid) for grid in axes.values())
    for label, values in (("prediction", prediction), ("reference", reference)):
        if values is not None and values.shape != expected:
            raise ValueError(
                f"the {label} has shape {values.shape}, but the axes {', '.join(axes)} "
                f"make {expected}"
            )


def field_scale(values: Array) -> tuple[Normalize, str]:
    """Return a colour scale: diverging about zero for a field that changes sign."""
    from matplotlib.colors import Normalize

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    # A field that dips below zero by its numerical noise does not change sign.
    if min(-low, high) > 0.02 * max(-low, high):
        largest = max(-low, high)
        return Normalize(-largest, largest), "RdBu_r"
    return Normalize(low, high), "viridis"


def error_scale(error: Array) -> Normalize:
    """Return a scale from zero, or a logarithmic one when few points hold the error."""
    from matplotlib.colors import LogNorm, Normalize

    finite = error[np.isfinite(error)]
    largest = float(finite.max()) if finite.size else 0.0
    if largest == 0.0:
        return Normalize(0.0, 1.0)
    if largest > PEAKED * float(np.median(finite)):
        return LogNorm(largest * 10.0**-LOG_DECADES, largest)
    return Normalize(0.0, largest)


def _nearest(grid: Array, wanted: Iterable[float]) -> list[int]:
    return list(dict.fromkeys(int(np.argmin(np.abs(grid - value))) for value in wanted))


def _row_height(grids: Sequence[Array], in_space: bool, three: bool) -> float:
    """Return a row's height in inches: true to scale in space, wide in time."""
    if not in_space:
        return 3.4 if three else 4.5
    panel_width = WIDTH_IN / 3.9 if three else 0.5 * WIDTH_IN
    aspect = float(np.ptp(grids[1]) / np.ptp(grids[0]))
    return float(np.clip(panel_width * aspect, 1.5, 6.0)) + 0.7


def new_figure(height: float, width: float = WIDTH_IN) -> Figure:
    """Return an empty figure, sizes in inches, that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_panel(panel: Axes, title: str) -> None:
    """Give a panel its title and quiet spines."""
    panel.set_title(title, loc="left", fontsize=11, color=INK)
    panel.tick_params(which="both", colors=INK, labelsize=10)
    panel.xaxis.label.set_fontsize(12)
    panel.yaxis.label.set_fontsize(12)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        panel.spines[side].set_color(FAINT)


def colour_bar(figure: Figure, image: Any, panel: Axes, label: str, columns: int) -> None:
    """Put a labelled colour bar beside the last of the panels that share it."""
    # An inset keeps the panel's height whatever its aspect.
    place = (1.0 + 0.01 * columns, 0.0, max(0.02, 0.015 * columns), 1.0)
    bar = figure.colorbar(image, cax=panel.inset_axes(place))
    bar.ax.set_title(label, fontsize=11, color=INK, loc="left")
    bar.ax.tick_params(labelsize=10, colors=INK)
    bar.outline.set_visible(False)


def _headline(
    figure: Figure, symbol: str, title: str | None, prediction: Array, reference: Array | None
) -> None:
    error = None if reference is None else relative_l2(prediction, reference)
    accuracy = None if error is None else f"relative $L^2$ error of {symbol}: {error:.2e}"
    parts = [part for part in (title, accuracy) if part]
    if parts:
        figure.suptitle(",  ".join(parts), x=0.01, ha="left", fontsize=13, color=INK)


def typeset(name: str) -> str:
    """Set a name as mathematics: one letter, or a Greek one by its name."""
    if name in GREEK:
        return rf"$\{name}$"
    return f"${name}$" if len(name) == 1 else name
