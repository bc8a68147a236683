"""Kolmogorov flow: turbulence driven by a body force that is a sine of y."""

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from dpinn.errors import DpinnError
from dpinn.reference.base import Array, Reference, require_positive
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.navier_stokes import PeriodicFlow, regrid
from dpinn.reference.progress import Progress
from dpinn.reference.refine import Resolution, refine
from dpinn.reference.store import load_reference

FIELDS = ("u", "v", "p", "vorticity")
HORIZON = 1.0

START_WAVES = 32
"""Highest wavenumber of the start, in waves a box."""
START_CELLS = 66
"""The smallest even grid that holds the start without its Nyquist mode."""

SPIN_UP_CELLS = 96
"""Their 31 waves a box are all that the start keeps."""
SPIN_UP_VISCOSITY = 1e-3
"""Resolved by the spin-up's grid: 1e-5 of the enstrophy is beyond wavenumber 26."""
SPIN_UP_TIME = 4.0
"""About five turnovers: the force's jets have broken up, and the ring is forgotten."""
SPIN_UP_STEPS = 1600
RING = (3, 8)
"""Wavenumbers of the random field that the spin-up begins with, in waves a box."""

COURANT = 2.5
"""Of the time steps: ETDRK4 is stable up to 2.8 where the diffusion is weak."""

TARGET = 1e-3
QUICK_TARGET = 2e-1
DOUBLINGS = 2


@dataclass(frozen=True)
class KolmogorovStart(Reference):
    """Developed turbulence on [0,1]² as a finite Fourier series, ``|k| <= 32`` waves a box.

    A random field (independent normal modes in a ring of wavenumbers, u_rms = 1) is driven by the
    force for a fixed time at viscosity 1e-3, whatever the viscosity of the problem, so that a
    modest grid resolves it. A smooth filter then ends its spectrum at ``START_WAVES``.
    """

    name: ClassVar[str] = "kolmogorov_start"
    version: ClassVar[int] = 1

    force: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.force):
            raise DpinnError(f"force of the reference {self.name} is {self.force}; use a number")
        if self.seed < 0:
            raise DpinnError(f"seed of the reference {self.name} is {self.seed}; use 0, 1, ...")

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Spin up; ``quick`` changes nothing, as the start defines the problem.

        Returns:
            u and v on ``START_CELLS + 1`` points along x and y, which hold the series exactly.
        """
        started = time.perf_counter()
        flow = driven_flow(SPIN_UP_CELLS, SPIN_UP_VISCOSITY, self.force)
        times = np.linspace(0, SPIN_UP_TIME, 11)
        steps = SPIN_UP_STEPS // 10
        *_, vorticity = flow.history(ring(flow, self.seed), times, steps, progress, self.name)
        velocity = flow.biot_savart * (vorticity * end_of_spectrum(flow.grid))
        u, v = start_grid().sample(
            regrid(velocity, (START_CELLS, START_CELLS)), (START_CELLS + 1,) * 2
        )
        x = np.linspace(0, 1, START_CELLS + 1)
        return self.dataset(
            {"x": x, "y": x},
            {"u": u, "v": v},
            error_estimate=np.finfo(float).eps,
            solver=f"spin-up of a random field (numpy default_rng, seed {self.seed}) over "
            f"{SPIN_UP_TIME} at viscosity {SPIN_UP_VISCOSITY}; defined by these numbers",
            resolution=f"{SPIN_UP_CELLS} cells, {SPIN_UP_STEPS} time steps",
            started=started,
        )


@dataclass(frozen=True)
class KolmogorovReference(Reference):
    """``u_t + u·∇u + ∇p = ν Δu + f sin(4πy) e_x``, ``∇·u = 0`` on [0,1]², periodic.

    Pseudo-spectral, from :class:`KolmogorovStart`; the pressure has zero mean. With the defaults
    u_rms is 1.5 and ω_rms 11 to 14, so that the horizon is 1.5 turnover times ``L / u_rms``, or 12
    times ``1 / ω_rms``. By then the start held constant is wrong by 50 % in u, 63 % in v and 68 %
    in the vorticity.
    """

    name: ClassVar[str] = "kolmogorov"
    version: ClassVar[int] = 1

    viscosity: float = 1e-4
    """``ν``."""
    force: float = 2.0
    """``f``."""
    horizon: float = HORIZON
    """The last time."""
    seed: int = 0
    """Of the start."""

    def __post_init__(self) -> None:
        require_positive(self, "viscosity", "horizon")

    @property
    def start(self) -> KolmogorovStart:
        """What the flow begins with."""
        return KolmogorovStart(self.force, self.seed)

    def definition(self, quick: bool = False) -> dict[str, Any]:
        """Give all that decides the solution; the definition of its start is a part of it."""
        return {**super().definition(quick), "start": self.start.definition()}

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Refine from a coarse resolution until the error estimate is below the target."""
        started = time.perf_counter()
        t = np.linspace(0, self.horizon, 11 if quick else 41)
        points = 81 if quick else 129
        cells = 80 if quick else 128
        refined = refine(
            lambda resolution: self.solve_at(resolution, t, points, progress),
            # Cells are doubled once before the steps are.
            start=Resolution(cells, self.steps(2 * cells, t[1], progress)),
            target=QUICK_TARGET if quick else TARGET,
            doublings=DOUBLINGS,
        )
        x = np.linspace(0, 1, points)
        return self.dataset(
            {"t": t, "x": x, "y": x},
            dict(zip(FIELDS, refined.values, strict=True)),
            error_estimate=refined.error_estimate,
            solver="dealiased Fourier pseudo-spectral in x and y, ETDRK4 in t, float64; the last "
            f"doublings changed the fields by {refined.space_change:.1e} (space) and "
            f"{refined.time_change:.1e} (time)",
            resolution=str(refined.resolution),
            study=refined.study,
            started=started,
        )

    def solve_at(
        self, resolution: Resolution, t: Array, points: int, progress: Progress = False
    ) -> Array:
        """Solve at one resolution.

        Args:
            resolution: cells must be a multiple of ``points - 1``.
            t: equispaced times from 0.
            points: equispaced points from 0 to 1 along x and y, both included.
            progress: see ``Reference.solve``.

        Returns:
            ``4 x len(t) x points x points`` values of u, v, p and the vorticity.
        """
        cells = resolution.cells
        flow = driven_flow(cells, self.viscosity, self.force)
        start = load_reference(self.start, progress=progress)
        vorticity = flow.vorticity_of(regrid(start_modes(start), (cells, cells)))
        history = flow.history(
            vorticity, t, resolution.steps, progress, f"{self.name}, {resolution}"
        )
        return np.stack([flow.sample(modes, (points, points)) for modes in history], axis=1)

    def steps(self, cells: int, interval: float, progress: Progress = False) -> int:
        """Give the time steps within an interval that are stable on a grid.

        The speed is that of the start, plus half of what the force would add to a fluid at rest:
        turbulence hands the rest on.
        """
        start = load_reference(self.start, progress=progress)
        speed = float(np.max(abs(start.u) + abs(start.v))) + abs(self.force) * self.horizon / 2
        highest = 2 * np.pi * cells / 3
        return math.ceil(interval * speed * highest / COURANT)


def driven_flow(cells: int, viscosity: float, force: float) -> PeriodicFlow:
    """Give the flow on the unit box under the body force ``f sin(4πy) e_x``."""
    along_y = force * np.sin(4 * np.pi * np.arange(cells) / cells)
    along_x = np.broadcast_to(along_y, (cells, cells))
    return PeriodicFlow(
        (cells, cells), (1.0, 1.0), viscosity, np.stack([along_x, np.zeros_like(along_x)])
    )


def ring(flow: PeriodicFlow, seed: int) -> Modes:
    """Give the vorticity's modes of a random flow of u_rms = 1, as much energy in each shell."""
    noise = np.random.default_rng(seed).standard_normal(flow.grid.cells)
    waves = waves_per_box(flow.grid)
    inside = (waves >= RING[0]) & (waves <= RING[1])
    vorticity = flow.grid.to_modes(noise) * np.sqrt(waves) * inside
    return vorticity / np.sqrt(2 * np.mean(flow.velocity(vorticity) ** 2))


def end_of_spectrum(grid: FourierGrid) -> Array:
    """Give a factor for each mode: 1 but near ``START_WAVES``, where it falls to roundoff."""
    waves = waves_per_box(grid)
    return np.exp(-36 * (waves / START_WAVES) ** 16) * (waves <= START_WAVES)


def waves_per_box(grid: FourierGrid) -> Array:
    """Give the length of each mode's wave vector on the unit box, without the factor of 2π."""
    return np.sqrt(-grid.laplacian) / (2 * np.pi)


def start_modes(start: xr.Dataset) -> Modes:
    """Give the modes of a start's u and v, ``2 x START_CELLS x START_CELLS/2+1``."""
    return start_grid().to_modes(np.stack([start.u.values, start.v.values])[:, :-1, :-1])


def start_grid() -> FourierGrid:
    """Give the smallest grid that holds a start."""
    return FourierGrid((0.0, 0.0), (1.0, 1.0), (START_CELLS, START_CELLS))
