"""Errors of a solution against a reference on its grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dpinn.analysis.predictions import Array
from dpinn.box import SAME
from dpinn.errors import DpinnWarning
from dpinn.jet.plan import TIME
from dpinn.problem import Problem

RESOLVABLE = 5.0
"""An error under so many times the reference's own says no more than that it is small."""


def relative_l2(prediction: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """``||prediction - reference|| / ||reference||`` over all points of a grid.

    Against a reference that is zero everywhere any difference is infinitely large, and none is 0:
    so NaN always means that the prediction is not a number.
    """
    difference = float(np.linalg.norm(prediction - reference))
    norm = float(np.linalg.norm(reference))
    if norm == 0:
        return math.inf if difference > 0 else difference
    return difference / norm


def statement(error: float | None, own: float | None) -> str:
    """An error as it may be printed: a bound where the reference cannot resolve it.

    Args:
        error: relative L2; None or not finite where there is none.
        own: the reference's own error; None or NaN where it is not known.
    """
    if error is None or not math.isfinite(error):
        return "not finite"
    if own is not None and error < RESOLVABLE * own:
        return f"< {RESOLVABLE * own:.1e}"
    return f"{error:.2e}"


@dataclass(frozen=True)
class Evaluation:
    """Errors of a solution.

    Attributes:
        errors: relative L2 per name.
        reference_error: the reference's own, NaN where it is not known.
        predictions: per name on the reference's grid, shifted where only a constant is free.
        over_time: per name the relative L2 at each time of the reference, NaN where the reference
            is zero everywhere; empty without time.
    """

    errors: dict[str, float]
    reference_error: float
    predictions: dict[str, Array]
    over_time: dict[str, Array] = field(default_factory=dict)

    def statement(self, name: str) -> str:
        """The error as it may be printed: a bound where the reference cannot resolve it."""
        return statement(self.errors[name], self.reference_error)


def evaluate(
    predictions: Mapping[str, Array], problem: Problem, reference: xr.Dataset
) -> Evaluation:
    """Compare predictions with a reference on the reference's grid.

    Of a field that is known up to a constant (``problem.up_to_constant``), such as a pressure, the
    mean of the difference over the grid's points in space is taken away first, at each time.

    Args:
        predictions: ``n_1 x n_2 x ...`` per name, over `axes_of` the reference.
        problem: names the coordinates.
        reference: one variable per field or quantity. What it lacks is not compared.
    """
    coordinates = problem.domain.coordinates
    in_space = tuple(k for k, c in enumerate(coordinates) if c != TIME)
    errors, over_time, compared = {}, {}, dict(predictions)
    for name, prediction in predictions.items():
        if name not in reference:
            continue
        exact = reference[name].transpose(*coordinates).values
        if name in problem.up_to_constant:
            prediction = prediction - np.mean(prediction - exact, axis=in_space, keepdims=True)
            compared[name] = prediction
        if not exact.any():
            warnings.warn(
                f"{name} is zero everywhere in the reference, so that its relative error is "
                "infinite unless it is met exactly",
                DpinnWarning,
                stacklevel=2,
            )
        errors[name] = relative_l2(prediction, exact)
        if TIME in coordinates:
            over_time[name] = _over_time(prediction, exact, coordinates.index(TIME))
    own = float(reference.attrs.get("error_estimate", math.nan))
    return Evaluation(errors, own, compared, over_time)


def window_errors(
    evaluation: Evaluation,
    problem: Problem,
    reference: xr.Dataset,
    windows: Sequence[tuple[float, float]],
) -> dict[str, list[float]]:
    """Relative L2 within each time window; NaN in one without a time of the reference.

    Args:
        evaluation: what `evaluate` gave for this reference.
        problem: names the coordinates.
        reference: as for `evaluate`.
        windows: first and last time of each, in their order; a seam counts to the window that ends
            there.
    """
    coordinates = problem.domain.coordinates
    times = reference[TIME].values
    inside = [times_inside(times, window, problem) for window in windows]
    found: dict[str, list[float]] = {}
    for name in evaluation.errors:
        exact = np.moveaxis(
            reference[name].transpose(*coordinates).values, coordinates.index(TIME), 0
        )
        prediction = np.moveaxis(evaluation.predictions[name], coordinates.index(TIME), 0)
        found[name] = [
            relative_l2(prediction[at], exact[at]) if at.any() else math.nan for at in inside
        ]
    return found


def times_inside(times: Array, window: tuple[float, float], problem: Problem) -> NDArray[np.bool_]:
    """Which times lie in a window; a seam counts to the window that ends there."""
    start, end = window
    margin = SAME * problem.domain.length(TIME)
    inside = (times > start + margin) & (times <= end + margin)
    if start <= problem.domain[TIME][0]:
        inside |= np.abs(times - start) <= margin
    return inside


def axes_of(reference: xr.Dataset, problem: Problem) -> dict[str, Array]:
    """The axes of a reference's grid, in the order of the problem's coordinates."""
    return {c: np.asarray(reference[c].values, float) for c in problem.domain.coordinates}


def _over_time(prediction: Array, reference: Array, time: int) -> Array:
    others = tuple(axis for axis in range(reference.ndim) if axis != time)
    norms = np.sqrt(np.sum(reference**2, axis=others))
    differences = np.sqrt(np.sum((prediction - reference) ** 2, axis=others))
    return np.divide(differences, norms, out=np.full_like(norms, np.nan), where=norms > 0)
