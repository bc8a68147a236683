"""Boussinesq flow between two walls: Fourier along them, Legendre–Galerkin across them.

The velocity is the curl of a stream function that vanishes at both walls with its slope, plus a
mean flow, so it is free of divergence and of slip by construction, and needs no pressure. Across
the walls each field is expanded in the eigenmodes of its own diffusion: of the Stokes operator for
the velocity, of the Laplacian for mean flow and temperature. Diffusion is then diagonal, as in a
periodic box, and an exponential integrator takes it exactly. Products are integrated without
aliasing, so that the discrete flow keeps the energy budget of the continuous one.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.polynomial import legendre

from dpinn.reference import wall_bases
from dpinn.reference.base import Array
from dpinn.reference.fourier import Modes

CENTRE = 1.0
"""Between the walls at y = 0 and 2; polynomials are taken in ``y - CENTRE``."""
WALLS = np.array([0.0, 2.0])


@dataclass(frozen=True)
class Profiles:
    """The bases across the walls at some points, ``points x modes`` each."""

    stream: tuple[Array, Array, Array]
    """Clamped polynomials and their first and second derivatives."""
    heat: tuple[Array, Array]
    """Eigenmodes of the Laplacian and their derivatives."""
    pressure: tuple[Array, Array]
    """Eigenmodes of the Laplacian with no condition at the walls and their derivatives."""


class Channel:
    """``u_t + u·∇u + ∇p = ν Δu + T e_y, ∇·u = 0, T_t + u·∇T = κ ΔT`` on [0,1]x[0,2].

    Periodic in x; u = v = T = 0 at the walls; p has no mean gradient along them.

    A state is ``2 x modes x waves``: of velocity and temperature, the amplitudes of the eigenmodes
    across the walls for each Fourier coefficient (of ``exp(2πikx)``, k from 0). The eigenmodes are
    orthonormal in u·u and in T², so that diffusion without flow lets every amplitude decay alone.

    Args:
        cells: points along x on which products are formed; a third as many waves are kept, so
            that no product is aliased.
        modes: polynomials across the walls, an even number.
        viscosity: ν.
        diffusivity: κ.
    """

    def __init__(self, cells: int, modes: int, viscosity: float, diffusivity: float) -> None:
        if modes % 2:
            raise ValueError(f"{modes} modes across the walls must be an even number")
        self.cells, self.modes, self.waves = cells, modes, (cells + 2) // 3
        self.viscosity = viscosity
        self.wavenumbers = 2 * np.pi * np.arange(self.waves)
        # Exact for products of three polynomials, whose degree is at most 3 modes + 9.
        nodes, self.weights = legendre.leggauss(3 * modes // 2 + 6)
        self.y = nodes + CENTRE

        # Decay times rather than rates as eigenvalues, here and below: the slow modes, which carry
        # the flow, are then the largest and come out to roundoff.
        value, slope = wall_bases.dirichlet(modes, nodes)
        decay, vectors = scipy.linalg.eigh(self._gram(value), self._gram(slope))
        self.heat_modes = vectors / np.sqrt(decay)
        self.pressure_modes, self.pressure_inverse = self._neumann(*wall_bases.free(modes, nodes))
        self.profiles = self.profiles_at(self.y)
        self.stokes_modes, stokes_rates = self._stokes()

        stokes_rates[:, 0] = 1 / decay
        heat_rates = (1 / decay)[:, None] + self.wavenumbers**2
        self.linear = -np.stack([viscosity * stokes_rates, diffusivity * heat_rates])
        """The rates of diffusion, shaped like a state."""
        profiles = (*self.profiles.stream[:2], *self.profiles.heat)
        self._tests = [np.ascontiguousarray((self.weights[:, None] * p).T) for p in profiles]

    def profiles_at(self, y: Array) -> Profiles:
        """Evaluate the bases at points between the walls, these included."""
        heat, heat_slope = wall_bases.dirichlet(self.modes, y - CENTRE)
        pressure, pressure_slope = wall_bases.free(self.modes, y - CENTRE)
        return Profiles(
            wall_bases.clamped(self.modes, y - CENTRE),
            (heat @ self.heat_modes, heat_slope @ self.heat_modes),
            (pressure @ self.pressure_modes, pressure_slope @ self.pressure_modes),
        )

    def start(self, temperature: Array) -> Modes:
        """Give the state at rest with a temperature, ``len(y) x cells`` values."""
        state = np.zeros((2, self.modes, self.waves), complex)
        state[1] = _apply(self._tests[2], self._to_waves(temperature))
        return state

    def nonlinear(self, state: Modes) -> Modes:
        """Give the rate of change of a state but for diffusion."""
        values = self._values(state)
        u, v, _, temperature = values
        force_x, force_y = self._force(values)
        flux_x, flux_y = self._to_waves(np.stack([u * temperature, v * temperature]))
        along = 1j * self.wavenumbers
        stream, stream_slope, heat, heat_slope = self._tests
        rate = np.empty_like(state)
        rate[0] = self._by_parity(
            self.stokes_modes.transpose(0, 1, 3, 2),
            _apply(stream_slope, force_x) + along * _apply(stream, force_y),
        )
        rate[0, :, 0] = heat @ force_x[:, 0]
        rate[1] = _apply(heat_slope, flux_y) - along * _apply(heat, flux_x)
        return rate

    def sample(self, state: Modes, x: Array, at: Profiles) -> Array:
        """Give u, v, T, p and vorticity, ``5 x len(x) x points``; p has no mean over space."""
        u, v, vorticity, temperature = self.waves_of(state, at)
        head = _apply(at.pressure[0], self._head(state))
        waves = np.stack([u, v, temperature, head, vorticity])
        # Real fields: the waves of negative k double those of positive k.
        phases = np.exp(1j * np.outer(self.wavenumbers, x % 1))
        phases[1:] *= 2
        values = (waves @ phases).real.swapaxes(1, 2)
        values[3] -= (values[0] ** 2 + values[1] ** 2) / 2 - self._mean_energy(state)
        return values

    def _head(self, state: Modes) -> Modes:
        """Give the eigenmodes of the total head ``P = p + |u|²/2``, of zero mean.

        ``∫∇P·∇q = ∫f·∇q + ν [q ω_x]`` for every q, with the force of ``_force`` and the jump from
        wall to wall: u_t is orthogonal to every gradient, and ``Δu = (-ω_y, ω_x)``.
        """
        force_x, force_y = self._force(self._values(state))
        at_walls = self.profiles_at(WALLS)
        vorticity = self.waves_of(state, at_walls)[2]
        along = 1j * self.wavenumbers
        pressure, slope = ((self.weights[:, None] * p).T for p in self.profiles.pressure)
        lower, upper = at_walls.pressure[0]
        friction = np.outer(upper, vorticity[1]) - np.outer(lower, vorticity[0])
        return self.pressure_inverse * (
            _apply(slope, force_y)
            - along * _apply(pressure, force_x)
            + self.viscosity * along * friction
        )

    def _mean_energy(self, state: Modes) -> float:
        """The kinetic energy ``|u|²/2``, mean over space."""
        energy = (np.abs(state[0]) ** 2).sum(axis=0)
        return float(energy[0] + 2 * energy[1:].sum()) / 2 / np.ptp(WALLS)

    def _force(self, values: Array) -> Modes:
        """Give ``u x ω + T e_y``, ``2 x points x waves``.

        It differs from ``-u·∇u + T e_y`` by a gradient, which a velocity free of divergence does
        not feel.
        """
        u, v, vorticity, temperature = values
        return self._to_waves(np.stack([v * vorticity, temperature - u * vorticity]))

    def _values(self, state: Modes) -> Array:
        """Give u, v, vorticity and T where products are formed, ``4 x len(y) x cells``."""
        waves = self.waves_of(state, self.profiles)
        return scipy.fft.irfft(waves, self.cells, norm="forward")

    def waves_of(self, state: Modes, at: Profiles) -> Modes:
        """Give the Fourier coefficients of u, v, vorticity and T, ``4 x points x waves``."""
        stream = self._by_parity(self.stokes_modes, state[0])
        value, slope, curvature = (_apply(profile, stream) for profile in at.stream)
        heat, heat_slope = at.heat
        u, v = slope, -1j * self.wavenumbers * value
        vorticity = self.wavenumbers**2 * value - curvature
        u[:, 0], vorticity[:, 0] = heat @ state[0, :, 0], -heat_slope @ state[0, :, 0]
        return np.stack([u, v, vorticity, _apply(heat, state[1])])

    def _by_parity(self, matrices: Array, modes: Modes) -> Modes:
        """Multiply each wave's amplitudes by its matrix; even and odd functions do not mix."""
        halves = modes.reshape(2, self.modes // 2, self.waves).transpose(2, 0, 1)
        pairs = np.ascontiguousarray(halves).view(float).reshape(*halves.shape, 2)
        product = (matrices @ pairs).view(complex)[..., 0]
        return np.ascontiguousarray(product.transpose(1, 2, 0)).reshape(modes.shape)

    def _to_waves(self, values: Array) -> Modes:
        return scipy.fft.rfft(values, norm="forward")[..., : self.waves]

    def _gram(self, basis: Array) -> Array:
        return basis.T @ (self.weights[:, None] * basis)

    def _stokes(self) -> tuple[Array, Array]:
        """Give the Stokes eigenmodes, ``waves x 2 x modes/2 x modes/2``, and rates by wave.

        With φ a stream function, ``∫ω² = λ ∫|u|²`` where ``∫|u|² = ∫ φ'² + k² φ²`` and
        ``∫ω² = ∫ φ''² + 2 k² φ'² + k⁴ φ²``. Wave 0 has no stream function: its entries stay 0.
        """
        half = self.modes // 2
        grams = [self._gram(profile) for profile in self.profiles.stream]
        vectors = np.zeros((self.waves, 2, half, half))
        rates = np.zeros((self.modes, self.waves))
        for parity, part in enumerate((slice(half), slice(half, None))):
            value, slope, curvature = (gram[part, part] for gram in grams)
            for wave, k in enumerate(self.wavenumbers[1:], start=1):
                decay, modes = scipy.linalg.eigh(
                    slope + k**2 * value, curvature + 2 * k**2 * slope + k**4 * value
                )
                vectors[wave, parity] = modes / np.sqrt(decay)
                rates[part, wave] = 1 / decay
        return vectors, rates

    def _neumann(self, value: Array, slope: Array) -> tuple[Array, Array]:
        """Give eigenmodes that solve ``∫∇P·∇q = rhs`` and their inverse, ``modes x waves``."""
        mass, stiffness = self._gram(value), self._gram(slope)
        share, vectors = scipy.linalg.eigh(mass, mass + stiffness)
        share[-1] = 1.0  # The constant, all mass; its pressure in wave 0 is free and set to zero.
        symbol = (1 - share)[:, None] + share[:, None] * self.wavenumbers**2
        return vectors, np.divide(1, symbol, out=np.zeros_like(symbol), where=symbol != 0)


def _apply(matrix: Array, modes: Modes) -> Modes:
    """Multiply a real matrix by complex columns, at half the cost of a complex one."""
    modes = np.ascontiguousarray(modes)
    return (matrix @ modes.view(float)).view(complex)
