"""Incompressible flow on a periodic rectangle: a dealiased pseudo-spectral simulation.

The state is the vorticity ``ω = v_x - u_y``, which obeys ``ω_t + u·∇ω = ν Δω + curl f``. With
``∇·u = 0`` the advection is ``(∂xx - ∂yy) uv + ∂xy (v² - u²)`` (Basdevant, J. Comput. Phys. 50
(1983)), which takes four transforms a call, one less than ``∇·(u ω)``.
"""

from collections.abc import Iterator

import numpy as np

from dpinn.reference.base import Array
from dpinn.reference.etdrk4 import integrate
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.progress import Progress

KEEP = 2 / 3
"""Orszag's rule: what a product of two fields aliases then falls on modes that are not kept."""


class PeriodicFlow:
    """The motion of a fluid on a grid, by the modes of its vorticity.

    Diffusion is exact in time (ETDRK4), advection and force are explicit: a step ``h`` must obey
    ``(|u| + |v|) k h < 2.8``, with ``k = 2π cells / (3 length)`` the highest wavenumber kept.

    Args:
        cells: points along x and y, even numbers.
        lengths: the periods along x and y; the box begins at 0.
        viscosity: ``ν``.
        force: steady force per mass of zero mean, ``2 x n_x x n_y`` values; None for none.
        mean_velocity: constant, as no other force acts on it.

    Raises:
        ValueError: the force has a mean, so that it accelerates the mean velocity.
    """

    def __init__(
        self,
        cells: tuple[int, int],
        lengths: tuple[float, float],
        viscosity: float,
        force: Array | None = None,
        mean_velocity: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.grid = FourierGrid(lower=(0.0, 0.0), lengths=lengths, cells=cells, keep=KEEP)
        self.viscosity = viscosity
        kept = self.grid.dealias(np.ones((cells[0], cells[1] // 2 + 1), complex))
        self.x, self.y = (self.grid.derivative(axis) * kept for axis in (0, 1))
        mean = self.grid.laplacian == 0
        # Of minus the Laplacian, on fields of zero mean.
        self.inverse = np.where(mean, 0, -1 / np.where(mean, 1, self.grid.laplacian))
        self.biot_savart = np.stack([self.y * self.inverse, -self.x * self.inverse])
        self.mean_velocity = np.reshape(mean_velocity, (2, 1, 1))
        # Real symbols: half the work of complex ones.
        self.of_shear = (self.y**2 - self.x**2).real
        self.of_normal = (self.x * self.y).real
        self.force = np.zeros((2, *kept.shape), complex)
        if force is not None:
            self.force = self.grid.to_modes(force)
            if np.abs(self.force[:, 0, 0]).max() > 1e-12 * np.abs(self.force).max():
                raise ValueError("the force has a mean; subtract it, it only moves the frame")
        self.force_curl = self.vorticity_of(self.force)

    def vorticity_of(self, velocity: Modes) -> Modes:
        """Give the curl of ``2 x n_x x n_y/2+1`` modes, ``n_x x n_y/2+1``."""
        return self.x * velocity[1] - self.y * velocity[0]

    def velocity(self, vorticity: Modes) -> Array:
        """Give the ``2 x n_x x n_y`` values of u and v that have this vorticity (Biot–Savart)."""
        return self.grid.to_values(self.biot_savart * vorticity) + self.mean_velocity

    def nonlinear(self, vorticity: Modes) -> Modes:
        """Give the rate of the vorticity by advection and force."""
        u, v = self.velocity(vorticity)
        shear, normal = self.grid.to_modes(np.stack([u * v, u * u - v * v]))
        return self.of_shear * shear + self.of_normal * normal + self.force_curl

    def pressure(self, vorticity: Modes) -> Modes:
        """Give the pressure of zero mean: ``Δp = ∇·f - ∂i∂j (u_i u_j)``."""
        u, v = self.velocity(vorticity)
        uu, uv, vv = self.grid.to_modes(np.stack([u * u, u * v, v * v]))
        stress = self.x**2 * uu + 2 * self.x * self.y * uv + self.y**2 * vv
        return self.inverse * (stress - self.x * self.force[0] - self.y * self.force[1])

    def history(
        self,
        vorticity: Modes,
        times: Array,
        steps: int,
        progress: Progress = False,
        description: str = "Navier–Stokes",
    ) -> Iterator[Modes]:
        """Yield the vorticity's modes at each of ``times``, the start included.

        Args:
            vorticity: modes at ``times[0]``; those that are not kept are dropped.
            times: equispaced.
            steps: time steps between two of them.
            progress: see ``integrate``.
            description: what the bar is called.
        """
        linear = self.viscosity * self.grid.laplacian
        start = self.grid.dealias(vorticity.copy())
        return integrate(start, linear, self.nonlinear, times, steps, progress, description)

    def sample(self, vorticity: Modes, points: tuple[int, int]) -> Array:
        """Give u, v, p and the vorticity at equispaced points, both ends of each axis included.

        Returns:
            ``4 x points_x x points_y``
        """
        fields = [*(self.biot_savart * vorticity), self.pressure(vorticity), vorticity]
        values = self.grid.sample(np.stack(fields), points)
        values[:2] += self.mean_velocity
        return values


def regrid(modes: Modes, cells: tuple[int, int]) -> Modes:
    """Give the modes of the same finite Fourier series on another grid.

    Modes that the new grid does not hold are dropped, and so are both grids' Nyquist modes, whose
    derivative no grid knows.

    Args:
        modes: ``... x n_x x n_y/2+1``, with ``n_y`` even.
        cells: points of the new grid along x and y, even numbers.
    """
    old = modes.shape[-2], 2 * (modes.shape[-1] - 1)
    high_x, high_y = (min(a, b) // 2 - 1 for a, b in zip(old, cells, strict=True))
    new = np.zeros((*modes.shape[:-2], cells[0], cells[1] // 2 + 1), complex)
    held = np.s_[: high_y + 1]
    new[..., : high_x + 1, held] = modes[..., : high_x + 1, held]
    if high_x:
        new[..., -high_x:, held] = modes[..., -high_x:, held]
    return new * (cells[0] * cells[1] / (old[0] * old[1]))
