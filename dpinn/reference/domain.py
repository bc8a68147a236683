"""A reference from a file on the domain of a problem: its axes as they were before rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from dpinn.box import SAME
from dpinn.errors import DpinnError
from dpinn.reference.base import Array

if TYPE_CHECKING:
    from dpinn.problem import Problem

ROUNDINGS = 4
"""Roundings to float32 that an axis may have gone through."""


def on_domain(dataset: xr.Dataset, problem: Problem, source: str) -> xr.Dataset:
    """The part of a dataset that lies in a domain: a network knows nothing of what is beyond it.

    An axis that was stored in float32, whatever its type is now, is restored to float64, so that
    float32(0.3) is the end of a domain that ends at 0.3: points at the ends of the domain become
    the ends, and points that are equispaced but for rounding become equispaced.

    Args:
        dataset: with the problem's coordinates, in float64.
        problem: whose domain it is.
        source: what the dataset is called in an error.

    Raises:
        DpinnError: no point lies in the domain.
    """
    for name in problem.domain.coordinates:
        low, high = problem.domain[name]
        points = np.asarray(dataset[name].values, dtype=np.float64)
        rounding = _rounding(points)
        margin = max(SAME * (high - low), rounding)
        inside = (points >= low - margin) & (points <= high + margin)
        if not inside.any():
            raise DpinnError(
                f"{source} has no {name} from {low:g} to {high:g}, the domain of "
                f"{type(problem).__name__}"
            )
        dataset = dataset.isel({name: inside})
        if rounding:
            restored = _restored(points[inside], low, high, rounding)
            dataset = dataset.assign_coords({name: restored})
    return dataset


def _rounding(points: Array) -> float:
    """How far float32 may have moved the points of an axis; 0 where they are of float64."""
    with np.errstate(over="ignore"):
        if not np.array_equal(points, points.astype(np.float32)):
            return 0.0
    return float(ROUNDINGS * np.finfo(np.float32).eps * np.abs(points).max())


def _restored(points: Array, low: float, high: float, rounding: float) -> Array:
    """Points before they were rounded, as far as that can be told."""
    # The shortest decimal that float32 rounds to a point is most likely the one that was meant.
    restored = np.array([float(str(point)) for point in points.astype(np.float32)])
    for end in (low, high):
        restored[np.abs(restored - end) <= rounding] = end
    even = np.linspace(restored[0], restored[-1], len(restored))
    return even if (np.abs(restored - even) <= rounding).all() else restored
