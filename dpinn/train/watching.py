"""Errors against the reference while a network trains."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import xarray as xr

from dpinn.analysis import (
    Array,
    GridSample,
    Network,
    observe,
    predict_at,
    predict_share,
    times_inside,
)
from dpinn.jet.plan import TIME
from dpinn.problem import Problem
from dpinn.sampling import rank_slice
from dpinn.train.distributed import gather_to_first
from dpinn.train.stages import Stage

WATCHED_POINTS = 100_000
"""Points of the reference's grid at which the error is watched: on three axes within two percent of
that on the whole grid."""


class Watch:
    """The errors of a network that trains, on the reference's grid or a part of it.

    Args:
        problem: whose fields and quantities are compared.
        reference: its solution.
    """

    def __init__(self, problem: Problem, reference: xr.Dataset):
        self.problem = problem
        self.reference = reference
        self._parts: dict[tuple[float, float] | None, GridSample | None] = {}

    def errors(self, pinn: Network, stage: Stage | None = None) -> dict[str, float]:
        """Relative L2 by name, in the time window of a stage; none where it stores no time."""
        interval = None if stage is None else stage.interval
        if interval not in self._parts:
            self._parts = {interval: self._part(interval)}
        watched = self._parts[interval]
        if watched is None:
            return {}
        like = next(iter(pinn.parameters()))
        look = observe(pinn, self.problem)
        found = predict_at(look, watched.points, like.device, like.dtype)
        return watched.errors(found, self.problem)

    def _part(self, interval: tuple[float, float] | None) -> GridSample | None:
        part = self.reference
        if interval is not None:
            inside = times_inside(part[TIME].values, interval, self.problem)
            if not inside.any():
                return None
            part = part.isel({TIME: inside})
        return GridSample.of(part, self.problem, WATCHED_POINTS)


def predict_together(
    pinn: Network, problem: Problem, axes: Mapping[str, Array], rank: int, world_size: int
) -> dict[str, Array]:
    """Fields and quantities on a grid, each rank computing its share; all ranks call it.

    Returns:
        ``n_1 x n_2 x ...`` per name on rank 0, nothing on the others.
    """
    like = next(iter(pinn.parameters()))
    shape = tuple(len(axis) for axis in axes.values())
    shares = [rank_slice(math.prod(shape), k, world_size) for k in range(world_size)]
    look = observe(pinn, problem)
    mine = predict_share(look, axes, like.device, like.dtype, *shares[rank])
    sizes = [stop - start for start, stop in shares]
    together = {}
    for name, values in mine.items():
        parts = gather_to_first(torch.from_numpy(values).to(like.device), sizes)
        if parts is not None:
            together[name] = torch.cat([part.cpu() for part in parts]).numpy().reshape(shape)
    return together
