"""Figures of flows: energy, enstrophy, dissipation, spectrum; streamlines of a steady one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpinn.analysis.flow_comparison import NOISE, FlowComparison, FlowHistory
from dpinn.track.drawing import (
    INK,
    PALETTE,
    WIDTH_IN,
    Array,
    colour_bar,
    new_figure,
    style_panel,
    typeset,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYMBOLS = {"energy": "kinetic energy", "enstrophy": "enstrophy", "dissipation": "dissipation"}
ROOM = 30.0  # times the reference's highest and lowest energies that the spectrum's scale leaves
REFERENCE: dict[str, Any] = {"color": PALETTE[5], "lw": 4.0, "label": "reference"}
PREDICTION: dict[str, Any] = {"color": INK, "lw": 1.5, "ls": "--", "label": "prediction"}


def flow_figure(flow: FlowComparison, title: str | None = None) -> Figure:
    """Show the statistics of a flow over time, and the energy spectrum at the last one.

    Args:
        flow: the prediction is dashed over the reference, where there is one.
        title: above the panels.
    """
    both: list[tuple[FlowHistory, dict[str, Any]]] = [(flow.prediction, PREDICTION)]
    if flow.reference is not None:
        both.insert(0, (flow.reference, REFERENCE))
    names = list(flow.prediction.histories)
    has_spectrum = len(flow.prediction.spectrum) > 0
    count = len(names) + has_spectrum
    columns = 2 if count == 4 else count
    rows = -(-count // columns)
    figure = new_figure(3.1 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        for history, look in both:
            panel.plot(flow.times, history.histories[name], **look)
        style_panel(panel, SYMBOLS[name])
        panel.set_xlabel("$t$")
        panel.margins(x=0.01)
        panel.grid(color="#E6E6E6", lw=0.7)
    if has_spectrum:
        _draw_spectra(panels[-1], both, f"energy spectrum at $t$ = {flow.times[-1]:.3g}")
    if flow.reference is not None:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    return figure


def streamlines_figure(
    axes: Mapping[str, Array],
    velocity: Sequence[Array],
    reference: Sequence[Array] | None = None,
    title: str | None = None,
) -> Figure:
    """Show streamlines of a steady flow over its speed, prediction beside reference.

    Args:
        axes: two coordinates of space by name, `n_1`- and `n_2`-dim, equispaced.
        velocity: both components, `n_1 x n_2`-dim.
        reference: the same.
        title: above the panels.
    """
    from matplotlib.colors import Normalize

    names, (x, y) = list(axes), axes.values()
    shown = {"prediction": velocity} | ({} if reference is None else {"reference": reference})
    fastest = float(np.nanmax(np.hypot(*(velocity if reference is None else reference))))
    width = WIDTH_IN * (0.4 * len(shown) + 0.1)
    aspect = float(np.ptp(y) / np.ptp(x))
    figure = new_figure(0.36 * WIDTH_IN * float(np.clip(aspect, 0.3, 2.0)) + 0.9, width=width)
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (label, (u, v)) in zip(panels, shown.items(), strict=True):
        image = panel.pcolormesh(
            x,
            y,
            np.hypot(u, v).T,
            norm=Normalize(0, fastest),
            cmap="viridis",
            shading="nearest",
            rasterized=True,
        )
        if np.isfinite(u).all() and np.isfinite(v).all():
            panel.streamplot(
                x, y, u.T, v.T, color="white", linewidth=0.7, arrowsize=0.7, density=1.6
            )
        style_panel(panel, label)
        panel.set_aspect("equal")
        panel.set_xlim(x[0], x[-1])
        panel.set_ylim(y[0], y[-1])
        panel.set_xlabel(typeset(names[0]))
    panels[0].set_ylabel(typeset(names[1]), rotation=0, labelpad=10)
    colour_bar(figure, image, panels[-1], "speed", len(shown))
    if title:
        figure.suptitle(f"{title},  streamlines", x=0.01, ha="left", fontsize=13, color=INK)
    return figure


def _draw_spectra(
    panel: Axes, both: Sequence[tuple[FlowHistory, dict[str, Any]]], title: str
) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    for k, (history, look) in enumerate(both):
        density = history.spectrum[1:] / history.wavenumbers[1]
        above = density > NOISE * density.sum()
        panel.plot(history.wavenumbers[1:][above], density[above], **look)
        # The reference, which comes first where there is one, sets the scale.
        if k == 0 and above.any():
            panel.set_ylim(density[above].min() / ROOM, density[above].max() * ROOM)
    style_panel(panel, title)
    panel.set_xlabel("wavenumber $k$")
    panel.set_ylabel("$E(k)$")
    panel.grid(color="#E6E6E6", lw=0.7)
