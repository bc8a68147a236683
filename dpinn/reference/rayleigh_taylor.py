"""Rayleigh–Taylor instability between walls: a spectral solution, refined until converged."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from dpinn.reference.base import Array, Reference, require_positive
from dpinn.reference.boussinesq import Channel
from dpinn.reference.etdrk4 import integrate
from dpinn.reference.progress import Progress
from dpinn.reference.refine import Resolution, refine

FIELDS = ("u", "v", "T", "p", "vorticity")
"""The order of ``solve_at``."""

THICKNESS = 0.1
"""δ of the interface, that of the layers at the walls too."""
AMPLITUDE = 0.05
"""a, by which the interface is bent."""

TARGET = 1e-5
QUICK_TARGET = 5e-2
CELLS_PER_LAYER = 2.78
"""Of the coarsest solve, in the thickness ``sqrt(diffusivity)`` that a layer reaches in one time
unit: 96 cells at Ra = 1e6."""
QUICK_CELLS_PER_LAYER = 1.15
FEWEST_CELLS = 24
"""Resolve the start to 5e-4 of T, and no worse if diffusion is fast."""
MODES_PER_CELL = 1.5
"""Polynomials over the height of 2, measured to be as accurate as the waves over the width of 1."""
COURANT = 1.0
"""Time step times cells: measured stable up to 1.6 at the plume's velocities, which reach 1.3."""
DOUBLINGS = 1
"""So that the first steps are stable for the last cells."""


@dataclass(frozen=True)
class RayleighTaylorReference(Reference):
    """Boussinesq flow on [0,1]x[0,2] from warm below cold, periodic in x, walls in y.

    ``u_t + u·∇u + ∇p = sqrt(Pr/Ra) Δu + T e_y``, ``∇·u = 0``, ``T_t + u·∇T = ΔT / sqrt(Pr Ra)``,
    with u = v = T = 0 at the walls; u = v = 0 at the start, and T as in ``start``. The pressure has
    zero mean over space at each time.

    Fourier–Galerkin in x, Legendre–Galerkin in y (see ``boussinesq``), ETDRK4 in t. The start is
    not compatible with the walls to all orders: the pressure that it sets up would slide the fluid
    along them. It is some 1e-3 of the buoyancy there and makes thin layers of vorticity, which are
    exact in the Stokes eigenmodes.
    """

    name: ClassVar[str] = "rayleigh_taylor"
    version: ClassVar[int] = 1

    rayleigh: float = 1e6
    """``Ra``."""
    prandtl: float = 0.71
    """``Pr``."""
    horizon: float = 4.0
    """Last time."""

    def __post_init__(self) -> None:
        require_positive(self, "rayleigh", "prandtl", "horizon")

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Refine from a coarse resolution until the error estimate is below the target."""
        started = time.perf_counter()
        t = np.linspace(0, self.horizon, 11 if quick else 41)
        x = np.linspace(0, 1, 33 if quick else 65)
        y = np.linspace(0, 2, 65 if quick else 129)
        refined = refine(
            lambda resolution: self.solve_at(resolution, t, x, y, progress),
            start=self._coarsest(t[1], quick),
            target=QUICK_TARGET if quick else TARGET,
            doublings=DOUBLINGS,
        )
        return self.dataset(
            {"t": t, "x": x, "y": y},
            dict(zip(FIELDS, refined.values, strict=True)),
            error_estimate=refined.error_estimate,
            solver="Fourier-Galerkin in x, Legendre-Galerkin in y, ETDRK4 in t, float64; the last "
            f"doublings changed the fields by {refined.space_change:.1e} (space) and "
            f"{refined.time_change:.1e} (time), the largest of u, v, T, p and vorticity",
            resolution=f"{refined.resolution}; {MODES_PER_CELL} polynomials in y for a cell in x",
            study=refined.study,
            started=started,
        )

    def solve_at(
        self, resolution: Resolution, t: Array, x: Array, y: Array, progress: Progress = False
    ) -> Array:
        """Solve at one resolution.

        Args:
            resolution: cells along x; there are ``MODES_PER_CELL`` polynomials in y for each.
            t: equispaced times from 0.
            x: points, any.
            y: points from 0 to 2, any.
            progress: see ``Reference.solve``.

        Returns:
            ``5 x len(t) x len(x) x len(y)``, in the order of ``FIELDS``; u, v and T
            at t = 0 are exact.
        """
        viscosity, diffusivity = self._diffusivities()
        modes = 2 * math.ceil(MODES_PER_CELL * resolution.cells / 2)
        channel = Channel(resolution.cells, modes, viscosity, diffusivity)
        grid = np.arange(resolution.cells) / resolution.cells
        history = integrate(
            channel.start(start(grid, channel.y[:, None])),
            channel.linear,
            channel.nonlinear,
            t,
            resolution.steps,
            progress,
            f"{self.name}, {resolution}",
        )
        profiles = channel.profiles_at(y)
        values = np.stack([channel.sample(state, x, profiles) for state in history], axis=1)
        values[FIELDS.index("T"), 0] = start(x[:, None], y)
        return values

    def _diffusivities(self) -> tuple[float, float]:
        """Of momentum and of heat."""
        return math.sqrt(self.prandtl / self.rayleigh), 1 / math.sqrt(self.prandtl * self.rayleigh)

    def _coarsest(self, interval: float, quick: bool) -> Resolution:
        """Cells that resolve the layers, and steps that are stable with the cells doubled."""
        wanted = QUICK_CELLS_PER_LAYER if quick else CELLS_PER_LAYER
        cells = max(FEWEST_CELLS, 2 * math.ceil(wanted / math.sqrt(min(self._diffusivities())) / 2))
        return Resolution(cells, steps=math.ceil(2**DOUBLINGS * cells * interval / COURANT))


def start(x: Array, y: Array) -> Array:
    """Give the temperature at t = 0: 1 below a bent interface at y = 1, 0 above and at the walls.

    ``T = (1 - tanh((y - 1 - a cos 2πx) / δ)) / 2 · tanh(y/δ) tanh((2-y)/δ)``.
    """
    interface = 1 + AMPLITUDE * np.cos(2 * np.pi * x)
    at_walls = np.tanh(y / THICKNESS) * np.tanh((2 - y) / THICKNESS)
    return (1 - np.tanh((y - interface) / THICKNESS)) / 2 * at_walls
