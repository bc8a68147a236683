"""Which figures a solution gets: what is worth looking at follows from its problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import xarray as xr

from dpinn.analysis.errors import RESOLVABLE, Evaluation
from dpinn.analysis.flow_comparison import VELOCITY, VORTICITY, FlowComparison
from dpinn.jet.plan import TIME
from dpinn.problem import Problem
from dpinn.track.animation import animation
from dpinn.track.drawing import Array
from dpinn.track.error_over_time import error_over_time_figure
from dpinn.track.figures import snapshots_figure, solution_figure
from dpinn.track.flow_figures import flow_figure, streamlines_figure
from dpinn.track.training_figure import History, curves_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Write = Callable[[BinaryIO], object]

SAVED_DPI = 150


def pictures(
    problem: Problem,
    axes: Mapping[str, Array],
    evaluation: Evaluation,
    reference: xr.Dataset | None,
    windows: Sequence[tuple[float, float]] = (),
    flow: FlowComparison | None = None,
    history: History = (),
) -> Iterator[tuple[str, Write]]:
    """Draw one picture after the other: the name of its file, and what writes it.

    Args:
        problem: decides which pictures there are.
        axes: of the predictions, in the order of the problem's coordinates.
        evaluation: holds the predictions; without a reference nothing else.
        reference: on the same axes; what it lacks stands alone.
        windows: intervals of time that were trained one after the other.
        flow: statistics, where the solution is a flow.
        history: the logged metrics of the training.
    """
    title = type(problem).__name__
    order = sorted(axes, key=lambda name: name != TIME)  # the time first
    back = [list(axes).index(name) for name in order]
    axes = {name: axes[name] for name in order}
    shown: dict[str, tuple[Array, Array | None]] = {}
    for name, values in evaluation.predictions.items():
        known = reference is not None and name in reference
        exact = (
            reference[name].transpose(*order).values if known and reference is not None else None
        )
        shown[name] = np.transpose(values, back), exact
    in_time, space = TIME in axes, len(axes) - (TIME in axes)
    for name, (prediction, exact) in shown.items():
        if len(axes) in (2, 3):
            times = thirds(axes[TIME]) if in_time and space == 2 else None
            figure = solution_figure(name, axes, prediction, exact, title, times)
            yield f"{name}.png", _png(figure)
        if in_time and space == 1:
            yield (
                f"{name}_snapshots.png",
                _png(snapshots_figure(name, axes, prediction, exact, title)),
            )
    if evaluation.over_time:
        seams = [end for _, end in windows[:-1]]
        bound = RESOLVABLE * evaluation.reference_error
        figure = error_over_time_figure(axes[TIME], evaluation.over_time, bound, seams, title)
        yield "error_over_time.png", _png(figure)
    if flow is not None:
        yield "flow.png", _png(flow_figure(flow, title))
    if not in_time and _is_velocity(problem, axes):
        velocity = [shown[name][0] for name in VELOCITY]
        others = [e for name in VELOCITY if (e := shown[name][1]) is not None]
        figure = streamlines_figure(axes, velocity, others if len(others) == 2 else None, title)
        yield "streamlines.png", _png(figure)
    if in_time and space == 2:
        main = VORTICITY if VORTICITY in shown else problem.fields[0]
        moving = animation(main, axes, *shown[main], title)
        yield f"{main}.gif", lambda file: file.write(moving)
    if history:
        yield "curves.png", _png(curves_figure(history, title))


def thirds(times: Array) -> list[float]:
    """One third, two thirds and the whole of a span of time."""
    return [float(t) for t in np.linspace(times[0], times[-1], 4)[1:]]


def _is_velocity(problem: Problem, axes: Mapping[str, Array]) -> bool:
    """Whether u and v are a plane flow: of a reaction, they would be concentrations."""
    derived = {quantity.name for quantity in problem.quantities}
    even = all(np.allclose(np.diff(a), np.diff(a)[0], rtol=1e-6) for a in axes.values())
    named = set(VELOCITY) <= set(problem.fields) and bool(derived & {VORTICITY, "speed"})
    return named and len(axes) == 2 and even


def _png(figure: Figure) -> Write:
    return partial(figure.savefig, format="png", dpi=SAVED_DPI)
