"""References on periodic boxes: Fourier in space, ETDRK4 in time, refined until converged."""

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dpinn.reference.base import Array, Reference
from dpinn.reference.etdrk4 import integrate
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.progress import Progress
from dpinn.reference.refine import Resolution, refine


@dataclass(frozen=True)
class Scale:
    """How finely a solution is stored, and where its refinement begins and ends."""

    times: int
    """Stored, the start included."""
    points: int
    """Stored along each axis, both ends of the period included."""
    start: Resolution
    """Of the coarsest solve; its cells are a multiple of ``points - 1``."""
    target: float
    """Of the error estimate."""
    doublings: int = 5
    """Most of them, in space and in time."""


class FourierReference(Reference):
    """A system ``u_t = linear u + nonlinear(u)`` on a periodic box.

    A subclass names the box and the fields and gives both parts and the start.
    """

    coordinates: ClassVar[tuple[str, ...]]
    """Of space."""
    fields: ClassVar[tuple[str, ...]]
    lower: ClassVar[tuple[float, ...]]
    """Where each axis begins."""
    lengths: ClassVar[tuple[float, ...]]
    """The period along each axis."""
    keep: ClassVar[float] = 1.0
    """Part of the wavenumbers that survive dealiasing, see `FourierGrid`."""
    horizon: float = 1.0
    """Where the solution ends; it begins at t = 0."""

    @abstractmethod
    def scale(self, quick: bool) -> Scale:
        """Give the scale of the quick and of the full solution."""

    @abstractmethod
    def start(self, axes: Sequence[Array]) -> Array:
        """Give the fields at t = 0, ``fields x n_1 x ...``, on axes that broadcast together."""

    @abstractmethod
    def linear(self, grid: FourierGrid) -> NDArray[Any]:
        """Give the symbol of the linear part, broadcastable against modes."""

    @abstractmethod
    def nonlinear(self, grid: FourierGrid) -> Callable[[Modes], Modes]:
        """Give the rest of the right-hand side, from modes to new modes."""

    def start_modes(self, grid: FourierGrid) -> Modes:
        """Give the modes at t = 0: sampled, where that is as good as their integrals."""
        return grid.to_modes(self.start(grid.points))

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Refine from a coarse resolution until the error estimate is below the target."""
        started = time.perf_counter()
        scale = self.scale(quick)
        t = np.linspace(0, self.horizon, scale.times)
        refined = refine(
            lambda resolution: self.solve_at(resolution, t, scale.points, progress),
            start=scale.start,
            target=scale.target,
            doublings=scale.doublings,
        )
        axes = self._axes(scale.points)
        return self.dataset(
            {"t": t, **dict(zip(self.coordinates, axes, strict=True))},
            dict(zip(self.fields, refined.values, strict=True)),
            error_estimate=refined.error_estimate,
            solver="Fourier collocation in space, ETDRK4 in time, float64; changed by the last "
            f"doublings: {refined.space_change:.1e} (space), {refined.time_change:.1e} (time)",
            resolution=str(refined.resolution),
            started=started,
            study=refined.study,
        )

    def solve_at(
        self, resolution: Resolution, t: Array, points: int, progress: Progress = False
    ) -> Array:
        """Solve at one resolution.

        Args:
            resolution: cells must be a multiple of ``points - 1``.
            t: equispaced times from 0.
            points: along each axis, both ends of the period included.
            progress: see ``Reference.solve``.

        Returns:
            ``fields x times x points x ...`` values; those at t = 0 are exact.
        """
        dimensions = len(self.lengths)
        grid = FourierGrid(
            self.lower, self.lengths, (resolution.cells,) * dimensions, keep=self.keep
        )
        history = integrate(
            self.start_modes(grid),
            self.linear(grid),
            self.nonlinear(grid),
            t,
            resolution.steps,
            progress,
            f"{self.name}, {resolution}",
        )
        values = np.stack([grid.sample(modes, (points,) * dimensions) for modes in history], axis=1)
        values[:, 0] = self.start(np.ix_(*self._axes(points)))
        return values

    def _axes(self, points: int) -> list[Array]:
        return [
            np.linspace(low, low + length, points)
            for low, length in zip(self.lower, self.lengths, strict=True)
        ]
