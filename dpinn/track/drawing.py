"""What all figures share: colours, scales, panels; drawn without pyplot's global state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

Array = NDArray[np.floating[Any]]

WIDTH_IN, DPI = 12.0, 100  # 1200 pixels wide, and text sizes that suit it
# Okabe and Ito's palette, told apart under every common colour blindness; yellow is too pale.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT = "#222222", "#8A8A8A"
Line = Literal["-", "--", ":", "-."]
LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
# Of a legend in matplotlib's 10 points, in inches: its lines with their gaps, one letter, one row.
HANDLE_IN, LETTER_IN, ROW_IN = 0.75, 0.08, 0.21
GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "lambda", "mu", "nu"}
    | {"xi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Phi", "Psi", "Omega"}
)
PEAKED = 30.0  # largest error over median from which a linear scale would show one spot alone
LOG_DECADES = 4  # of the error's logarithmic scale, below its largest value


@dataclass(frozen=True)
class Look:
    """How a curve is drawn."""

    colour: str
    line: Line


def looks_for(names: Iterable[str], overlapping: bool = False) -> dict[str, Look]:
    """Return a look for each name, 24 different ones.

    First all colours, then other lines; of curves that may lie on one another, neighbours have
    another line as well.
    """
    looks = {}
    for i, name in enumerate(dict.fromkeys(names)):
        # Shifted in every other round, since 4 and 6 have a factor in common.
        line = i + i // 12 if overlapping else i // len(PALETTE)
        looks[name] = Look(PALETTE[i % len(PALETTE)], LINES[line % len(LINES)])
    return looks


def legend_columns(labels: Iterable[str], width: float) -> int:
    """Return how many columns of a legend fit into a width in inches, at least 1."""
    labels = list(labels)
    column = HANDLE_IN + LETTER_IN * max(map(len, labels), default=0)
    fitting = max(1, min(len(labels), int(width / column)))
    # Rows of the same length.
    return math.ceil(len(labels) / math.ceil(len(labels) / fitting)) if labels else 1


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


def typeset(name: str) -> str:
    """Set a name as mathematics: one letter, or a Greek one by its name."""
    if name in GREEK:
        return rf"$\{name}$"
    return f"${name}$" if len(name) == 1 else name
