"""Statistics of incompressible flow: energy, enstrophy, dissipation, energy spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.integrate

from dpinn.analysis.predictions import Array


@dataclass(frozen=True)
class FlowStatistics:
    """What a fluid dynamicist asks of a flow on a periodic box; means are over the box.

    Attributes:
        times: ``n_t``.
        energy: ``½<|u|²>``, ``n_t``.
        enstrophy: ``½<|ω|²>``, ``n_t``.
        dissipation: ``2ν<S:S>`` with the strain rate S, ``n_t``.
        wavenumbers: angular, ``shells``.
        spectrum: energy in each shell, ``shells``; it sums up to the energy.
        spectrum_time: when.
    """

    times: Array
    energy: Array
    enstrophy: Array
    dissipation: Array
    wavenumbers: Array
    spectrum: Array
    spectrum_time: float


def flow_statistics(
    times: Array,
    velocity: Sequence[Array],
    lengths: Sequence[float],
    viscosity: float,
    spectrum_index: int = -1,
) -> FlowStatistics:
    """Compute the statistics of a flow on the grid of a reference.

    Derivatives are spectral: of a flow with waves shorter than two cells they miss those.

    Args:
        times: ``n_t``.
        velocity: d = 2 or 3 components, each ``n_t x n_1 x ... x n_d`` on equispaced points that
            hold both ends of each axis.
        lengths: d periods.
        viscosity: ν.
        spectrum_index: index of the time of the spectrum.
    """
    flow = one_period(np.stack(velocity), len(lengths))
    # One time after the other, as the gradient takes d² times the memory.
    energies = np.array([energy(flow[:, k]) for k in range(len(times))])
    squares = np.array([squared_gradients(flow[:, k], lengths) for k in range(len(times))])
    wavenumbers, spectrum = energy_spectrum(flow[:, spectrum_index], lengths)
    return FlowStatistics(
        times=np.asarray(times, float),
        energy=energies,
        enstrophy=squares[:, 0] / 2,
        dissipation=2 * viscosity * squares[:, 1],
        wavenumbers=wavenumbers,
        spectrum=spectrum,
        spectrum_time=float(times[spectrum_index]),
    )


def one_period(values: Array, dimensions: int) -> Array:
    """Drop the last point, which repeats the first, of each of the last axes."""
    whole, all_but_last = slice(None), slice(-1)
    return values[(whole,) * (values.ndim - dimensions) + (all_but_last,) * dimensions]


def energy(velocity: Array) -> float:
    """Give ``½<|u|²>`` of ``d x n_1 x ... x n_d`` values over one period."""
    return float(np.mean(np.sum(velocity**2, axis=0)) / 2)


def energy_spectrum(velocity: Array, lengths: Sequence[float]) -> tuple[Array, Array]:
    """Give the kinetic energy in shells of the wavenumber.

    Shell m holds the modes with ``m - ½ <= |k| L / 2π < m + ½``, L the longest period. By
    Parseval's identity the shells sum up to ``½<|u|²>``; divided by the shells' width ``2π / L``
    they are a density over the wavenumber.

    Args:
        velocity: ``d x n_1 x ... x n_d`` values over one period, the last point not repeated.
        lengths: d periods.

    Returns:
        The shells' wavenumbers ``2π m / L`` and their energies, from m = 0, the mean flow.
    """
    cells = velocity.shape[1:]
    modes = scipy.fft.fftn(velocity, axes=range(1, velocity.ndim)) / np.prod(cells)
    energies = np.sum(np.abs(modes) ** 2, axis=0) / 2
    unit = 2 * np.pi / max(lengths)
    squared = sum(k**2 for k in _wavenumbers(cells, lengths))
    shells = np.floor(np.sqrt(squared) / unit + 0.5).astype(int)
    spectrum = np.bincount(shells.ravel(), energies.ravel()).astype(np.float64)
    return unit * np.arange(len(spectrum), dtype=np.float64), spectrum


def squared_gradients(velocity: Array, lengths: Sequence[float]) -> tuple[float, float]:
    """Give ``<|ω|²>`` and ``<S:S>`` of ``d x n_1 x ... x n_d`` values over one period.

    With ``G_ij = ∂_j u_i``: the strain rate is ``S = (G + Gᵀ) / 2``, and ``|ω|²`` is half the
    square of ``G - Gᵀ``, in two dimensions as in three.
    """
    gradient = _gradient(velocity, lengths)
    transposed = np.swapaxes(gradient, 0, 1)
    points = np.prod(velocity.shape[1:])
    vorticity = np.sum((gradient - transposed) ** 2) / 2
    strain = np.sum((gradient + transposed) ** 2) / 4
    return float(vorticity / points), float(strain / points)


def energy_and_enstrophy_by_quadrature(
    velocity: Sequence[Array], vorticity: Array, coordinates: Sequence[Array]
) -> tuple[Array, Array]:
    """Give ``½<|u|²>`` and ``½<|ω|²>`` over time by the trapezoidal rule: for a box with walls.

    Args:
        velocity: components, each ``n_t x n_1 x ... x n_d``.
        vorticity: ``n_t x n_1 x ... x n_d``.
        coordinates: d arrays of ``n_i`` points that hold both ends of each axis.

    Returns:
        Two arrays of ``n_t``.
    """
    squares = np.stack([sum(component**2 for component in velocity), vorticity**2]) / 2
    for points in reversed(coordinates):
        squares = scipy.integrate.trapezoid(squares, points, axis=-1) / (points[-1] - points[0])
    return squares[0], squares[1]


def _wavenumbers(cells: tuple[int, ...], lengths: Sequence[float]) -> list[Array]:
    """Angular wavenumbers along each axis, shaped to broadcast against modes."""
    along = [
        2 * np.pi * scipy.fft.fftfreq(n, length / n)
        for n, length in zip(cells, lengths, strict=True)
    ]
    return list(np.meshgrid(*along, indexing="ij", sparse=True))


def _gradient(velocity: Array, lengths: Sequence[float]) -> Array:
    """``d x d x n_1 x ... x n_d``: component, direction, points."""
    cells = velocity.shape[1:]
    axes = range(-len(cells), 0)
    modes = scipy.fft.fftn(velocity, axes=axes)
    directions = []
    for k, n in zip(_wavenumbers(cells, lengths), cells, strict=True):
        # The derivative of the highest mode of an even grid is zero on the grid.
        inner = k if n % 2 else np.where(np.abs(k) == np.abs(k).max(), 0, k)
        directions.append(scipy.fft.ifftn(1j * inner * modes, axes=axes).real)
    return np.stack(directions, axis=1)
