"""Refinement in space and time, each measured by itself, until the solution stands still."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dpinn.errors import DpinnWarning
from dpinn.reference.base import Array, Trial


@dataclass(frozen=True)
class Resolution:
    """What a solver on a grid computes with."""

    cells: int
    """Grid cells along each axis."""
    steps: int
    """Time steps between two stored times."""

    def __str__(self) -> str:
        return f"{self.cells} cells, {self.steps} time steps between stored times"


@dataclass(frozen=True)
class Refined:
    """A solution, and how much each refinement changed it."""

    values: Array
    """``fields x n_1 x n_2 x ...``"""
    resolution: Resolution
    space_change: float
    """Relative L2 change when the cells were last doubled."""
    time_change: float
    """Relative L2 change when the steps were last doubled."""
    study: tuple[Trial, ...]
    """All solves, coarsest first."""

    @property
    def error_estimate(self) -> float:
        """The sum of both changes.

        It bounds the error of ``values`` wherever a doubling at least halves the error: a change
        is at least the error that is left, and fifteen times that at fourth order.
        """
        return self.space_change + self.time_change


def relative_l2(values: Array, truth: Array) -> float:
    """Relative L2 difference over the grid, the largest over the fields (the first axis).

    Of a field whose truth is zero everywhere, the difference itself.
    """
    difference, size = (
        np.linalg.norm(array.reshape(len(truth), -1), axis=1) for array in (values - truth, truth)
    )
    return float(np.max(difference / np.where(size > 0, size, 1)))


def refine(
    solve: Callable[[Resolution], Array], start: Resolution, target: float, doublings: int
) -> Refined:
    """Double cells and steps until both changes together are below ``target``.

    Args:
        solve: from a resolution to ``fields x n_1 x n_2 x ...`` values on one fixed grid.
        start: the coarsest resolution.
        target: wanted bound on the error estimate.
        doublings: most doublings in each of space and time, at least one.

    Returns:
        The finest solution. Where ``doublings`` did not reach the target, a ``DpinnWarning`` says
        so, and the error estimate is what was reached.
    """
    trials: list[Trial] = []
    values = None

    def change_by(kind: str, at: Resolution) -> float:
        """Solve once more, and give the change against the solution before."""
        nonlocal values
        started = time.perf_counter()
        coarse, values = values, solve(at)
        change = None if coarse is None else relative_l2(coarse, values)
        trials.append(Trial(kind, str(at), change, time.perf_counter() - started))
        return float("inf") if change is None else change

    resolution = start
    space_change = time_change = change_by("start", resolution)
    most_cells, most_steps = start.cells * 2**doublings, start.steps * 2**doublings
    # Written so that a change that is not a number never passes for a small one.
    while not space_change + time_change <= target:
        before = resolution
        if not space_change <= target / 2 and resolution.cells < most_cells:
            resolution = replace(resolution, cells=2 * resolution.cells)
            space_change = change_by("space", resolution)
        if not time_change <= target / 2 and resolution.steps < most_steps:
            resolution = replace(resolution, steps=2 * resolution.steps)
            time_change = change_by("time", resolution)
        if resolution == before:
            warnings.warn(
                f"the reference solution reached an error estimate of "
                f"{space_change + time_change:.1e} instead of {target:.1e} at {resolution}",
                DpinnWarning,
                stacklevel=2,
            )
            break
    assert values is not None
    return Refined(values, resolution, space_change, time_change, tuple(trials))
