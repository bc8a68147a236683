"""Errors against the reference while a network trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from dpinn.analysis import (
    Array,
    Network,
    axes_of,
    evaluate,
    grid_points,
    observe,
    predict,
    predict_points,
    thin_out,
    times_inside,
)
from dpinn.jet.plan import TIME
from dpinn.problem import Problem
from dpinn.sampling import rank_slice
from dpinn.train.distributed import all_reduce_sum_
from dpinn.train.stages import Stage

WATCHED_POINTS = 20_000
"""Points of the reference grid at which the error is watched; enough for two digits."""


class Watch:
    """The errors of a network that trains, on some points of the reference's grid.

    Args:
        problem: whose fields and quantities are compared.
        reference: its solution.
    """

    def __init__(self, problem: Problem, reference: xr.Dataset):
        self.problem = problem
        self.reference = reference
        self._parts: dict[tuple[float, float] | None, xr.Dataset | None] = {}

    def errors(self, pinn: Network, stage: Stage | None = None) -> dict[str, float]:
        """Relative L2 by name, in the time window of a stage; none where it stores no time."""
        interval = None if stage is None else stage.interval
        if interval not in self._parts:
            self._parts = {interval: self._part(interval)}
        watched = self._parts[interval]
        if watched is None:
            return {}
        like = next(iter(pinn.parameters()))
        axes = axes_of(watched, self.problem)
        found = predict(observe(pinn, self.problem), axes, like.device, like.dtype)
        return evaluate(found, self.problem, watched).errors

    def _part(self, interval: tuple[float, float] | None) -> xr.Dataset | None:
        part = self.reference
        if interval is not None:
            inside = times_inside(part[TIME].values, interval, self.problem)
            if not inside.any():
                return None
            part = part.isel({TIME: inside})
        return thin_out(part, WATCHED_POINTS)


def predict_together(
    pinn: Network, problem: Problem, axes: Mapping[str, Array], rank: int, world_size: int
) -> dict[str, Array]:
    """Fields and quantities on a grid, each rank computing its share; all ranks call it.

    Returns:
        ``n_1 x n_2 x ...`` per name, on every rank.
    """
    like = next(iter(pinn.parameters()))
    points = grid_points(axes)
    start, stop = rank_slice(len(points), rank, world_size)
    mine = predict_points(observe(pinn, problem), points[start:stop], like.device, like.dtype)
    shape = tuple(len(axis) for axis in axes.values())
    together = {}
    for name, values in mine.items():
        whole = torch.zeros(len(points), dtype=torch.float64)
        whole[start:stop] = torch.from_numpy(np.ascontiguousarray(values))
        # A sum with zeros rounds nothing.
        together[name] = all_reduce_sum_(whole.to(like.device)).cpu().numpy().reshape(shape)
    return together
