"""Figures that show optimizers side by side, one colour each in all of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dpinn.analysis.errors import RESOLVABLE
from dpinn.track.curves import Axis, draw_group
from dpinn.track.drawing import (
    FAINT,
    INK,
    WIDTH_IN,
    Look,
    legend_columns,
    looks_for,
    new_figure,
    style_panel,
)
from dpinn.track.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = "#E6E6E6"
DIVERGED = 10.0
"""Relative error above which nothing is shown: the solution 0 has 1."""

UNITS_OF_TIME = {"h": 3600.0, "min": 60.0, "s": 1.0}

ALIGNMENTS = {
    "intra": "gradients of the terms",
    "preconditioned": "the same, preconditioned",
    "inter": "successive gradients",
    "update_inter": "successive updates",
}
"""Titles of the alignment panels."""

BY = "alignment/preconditioned_by/"


@dataclass(frozen=True)
class Picture:
    """A figure with its words.

    Attributes:
        key: short name, its own within a problem.
        title: stands above it.
        caption: how to read it.
        figure: light, without a title of its own.
    """

    key: str
    title: str
    caption: str
    figure: Figure


def looks_of(groups: Iterable[Group]) -> dict[str, Look]:
    """A look for each label, and for each preconditioner that is no optimizer here."""
    groups = list(groups)
    names = dict.fromkeys(group.label for group in groups)
    names |= dict.fromkeys(name for group in groups for name in _preconditioners(group))
    return looks_for(names)


def pictures(groups: Sequence[Group], looks: Mapping[str, Look]) -> list[Picture]:
    """The figures of one problem; those for which nothing was logged are left out.

    Args:
        groups: of the problem.
        looks: by label, from `looks_of` of all problems.
    """
    made = (draw(groups, looks) for draw in (_errors, _losses, _alignments, _preconditioned_by))
    return [picture for picture in made if picture is not None]


def stacked_png(titled: Iterable[tuple[str, Figure]]) -> bytes:
    """One image of all figures, one below the other, each under its title."""
    from matplotlib.image import imsave

    rows = []
    for title, figure in titled:
        # On a strip of its own: within the figure it would lie on the legend.
        heading = new_figure(0.5)
        heading.text(0.01, 0.2, title, fontsize=15, color=INK, parse_math=False)
        for part in (heading, figure):
            part.canvas.draw()
            rows.append(np.asarray(part.canvas.buffer_rgba()))  # type: ignore[attr-defined]
    picture = io.BytesIO()
    imsave(picture, np.concatenate(rows), format="png")
    return picture.getvalue()


# --- the figures of a problem --------------------------------------------------------------------


def _errors(groups: Sequence[Group], looks: Mapping[str, Look]) -> Picture | None:
    fields = [m.removeprefix("error/") for m in _metrics(groups, "error/")]
    if not fields:
        return None
    with _panels(len(fields), 2, height=3.7) as (figure, panels):
        for row, name in zip(panels, fields, strict=True):
            metric = f"error/{name}"
            _draw_groups(row[0], groups, metric, looks, axis="steps", logarithmic=True)
            _draw_groups(row[1], groups, metric, looks, axis="seconds", logarithmic=True)
            style_panel(row[0], f"{name} against steps")
            style_panel(row[1], f"{name} against time")
            row[1].sharey(row[0])
            row[0].set_ylabel("relative $L^2$ error")
            _mark_unresolved(row, groups)
            _name_steps(row[0])
            _name_time(row[1])
        _legend(figure, groups, looks)
    caption = (
        "Relative L² error against the reference, over optimizer steps and over training time. "
        "Thick: median over the finished seeds; thin: each seed."
    )
    return Picture("errors", "Relative error", caption, figure)


def _losses(groups: Sequence[Group], looks: Mapping[str, Look]) -> Picture | None:
    terms = [m for m in _metrics(groups, "loss/") if m != "loss/total"]
    if not terms:
        return None
    with _wrapped_panels(len(terms), height=3.1) as (figure, panels):
        for panel, metric in zip(panels, terms, strict=True):
            _draw_groups(panel, groups, metric, looks, logarithmic=True, smooth=True)
            style_panel(panel, metric.removeprefix("loss/"))
            _name_steps(panel)
        panels[0].set_ylabel("mean square of the residual")
        _legend(figure, groups, looks)
    caption = (
        "Every term of the loss without its weight, so that trainings with different weights can "
        "be compared. Thick: median over the finished seeds, long curves smoothed over 4% of "
        "their length; thin: each seed."
    )
    return Picture("losses", "Loss terms", caption, figure)


def _alignments(groups: Sequence[Group], looks: Mapping[str, Look]) -> Picture | None:
    logged = _metrics(groups, "alignment/")
    shown = [name for name in ALIGNMENTS if f"alignment/{name}" in logged]
    if not shown:
        return None
    with _wrapped_panels(len(shown), height=3.3) as (figure, panels):
        for panel, name in zip(panels, shown, strict=True):
            metric = f"alignment/{name}"
            _score_axis(panel, groups if name in ("intra", "preconditioned") else ())
            _draw_groups(panel, groups, metric, looks, smooth=True)
            style_panel(panel, ALIGNMENTS[name])
            _name_steps(panel)
        panels[0].set_ylabel("alignment score")
        _legend(figure, groups, looks)
    caption = (
        "Gradient alignment score (arXiv 2502.00604): 1 where all vectors point the same way, "
        "−1 where they cancel; of two vectors it is the cosine. Between the gradients of the loss "
        "terms of one step, before and after the optimizer's preconditioner, and between "
        "successive steps. Dashed: the score of as many orthogonal vectors as there are terms. "
        "Thick: mean over the finished seeds, long curves smoothed; thin: each seed."
    )
    return Picture("alignment", "Gradient alignment", caption, figure)


def _preconditioned_by(groups: Sequence[Group], looks: Mapping[str, Look]) -> Picture | None:
    comparing = [group for group in groups if _preconditioners(group)]
    if not comparing:
        return None
    names = dict.fromkeys(name for group in comparing for name in _preconditioners(group))
    raw = Look(INK, "-")
    with _wrapped_panels(len(comparing), height=3.3) as (figure, panels):
        for panel, group in zip(panels, comparing, strict=True):
            _score_axis(panel, groups)
            draw_group(panel, group, "alignment/intra", raw, smooth=True)
            for name in _preconditioners(group):
                draw_group(panel, group, BY + name, looks[name], smooth=True)
            style_panel(panel, f"trained by {group.label}")
            _name_steps(panel)
        panels[0].set_ylabel("alignment score")
        shown = {"no preconditioner": raw} | {name: looks[name] for name in names}
        _legend_of(figure, shown)
    caption = (
        "What several preconditioners make of the same gradients, at the same parameters: each "
        "panel is one trajectory, and each colour a preconditioner that was fed its gradients."
    )
    return Picture("preconditioners", "Preconditioners at the same parameters", caption, figure)


# --- curves --------------------------------------------------------------------------------------


def _draw_groups(
    panel: Axes,
    groups: Iterable[Group],
    metric: str,
    looks: Mapping[str, Look],
    axis: Axis = "steps",
    logarithmic: bool = False,
    smooth: bool = False,
) -> None:
    for group in groups:
        draw_group(panel, group, metric, looks[group.label], axis, logarithmic, smooth)
    if logarithmic:
        panel.set_yscale("log")


def _metrics(groups: Iterable[Group], prefix: str) -> list[str]:
    """The metrics below a path that any run has a history of, in the order of the first one's."""
    found = (m for group in groups for run in group.runs for m in run.histories)
    return list(dict.fromkeys(m for m in found if m.startswith(prefix)))


def _preconditioners(group: Group) -> list[str]:
    return [metric.removeprefix(BY) for metric in _metrics([group], BY)]


# --- panels --------------------------------------------------------------------------------------


@contextmanager
def _panels(rows: int, columns: int, height: float) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """A figure with a grid of panels, `height` inches each."""
    from matplotlib import rc_context

    with rc_context({"text.color": INK, "axes.labelcolor": INK}):
        figure = new_figure(height * rows + 0.4, WIDTH_IN)
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.ravel():
            panel.grid(color=GRID, lw=0.7)
            panel.margins(x=0.02)
        yield figure, [list(row) for row in panels]


@contextmanager
def _wrapped_panels(count: int, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with so many panels, in rows of up to four."""
    columns = count if count <= 4 else 3
    with _panels(-(-count // columns), columns, height) as (figure, grid):
        flat = [panel for row in grid for panel in row]
        for panel in flat[count:]:
            panel.remove()
        yield figure, flat[:count]


def _name_steps(panel: Axes) -> None:
    panel.set_xlabel("optimizer step")
    panel.set_xlim(left=0)
    panel.locator_params(axis="x", nbins=5)
    panel.xaxis.set_major_formatter("{x:,.0f}")


def _name_time(panel: Axes) -> None:
    """Give a time axis in seconds the unit that suits it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    longest = max(panel.dataLim.xmax, 0.0)
    unit, size = next((u, s) for u, s in UNITS_OF_TIME.items() if longest > 2 * s or s == 1.0)
    ticks = MaxNLocator(5).tick_values(0.0, longest / size)
    panel.set_xlabel(f"training time, {unit}")
    panel.set_xlim(left=0)
    panel.set_xticks([size * tick for tick in ticks if tick <= 1.05 * longest / size])
    panel.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds / size:g}"))


def _score_axis(panel: Axes, groups: Sequence[Group]) -> None:
    """Prepare a panel of scores; of several terms, show what orthogonal ones would have."""
    panel.set_ylim(-1.05, 1.05)
    panel.set_yticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    panel.axhline(0.0, color=FAINT, lw=1.0)
    terms = [m for m in _metrics(groups, "loss/") if m != "loss/total"]
    if len(terms) > 2:
        panel.axhline(2 / len(terms) - 1, color=FAINT, lw=1.0, ls=(0, (4, 4)))


def _mark_unresolved(row: Sequence[Axes], groups: Sequence[Group]) -> None:
    """Shade the errors that the reference does not resolve, where curves come near them."""
    low, high = row[0].get_ylim()
    if low < DIVERGED < high:
        row[0].set_ylim(top=DIVERGED)
    stated = [g.reference_error for g in groups if np.isfinite(g.reference_error)]
    limit = RESOLVABLE * max(stated, default=0.0)
    if limit > low:
        for panel in row:
            panel.axhspan(low, limit, color=FAINT, alpha=0.15, lw=0)
        row[0].annotate(
            "not resolved by the reference", (0.01, limit), xycoords=("axes fraction", "data"),
            xytext=(0, -3), textcoords="offset points", va="top", fontsize=9, color=INK,
        )  # fmt: skip


def _legend(figure: Figure, groups: Sequence[Group], looks: Mapping[str, Look]) -> None:
    _legend_of(figure, {group.label: looks[group.label] for group in groups})


def _legend_of(figure: Figure, looks: Mapping[str, Look]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour, linestyle=look.line, lw=2.5, label=name)
        for name, look in looks.items()
    ]
    columns = legend_columns(looks, WIDTH_IN)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)
