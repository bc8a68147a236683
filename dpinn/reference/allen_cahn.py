"""The Allen–Cahn equation: Fourier in space, ETDRK4 in time, refined until converged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dpinn.reference.base import Array, require_positive
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.refine import Resolution
from dpinn.reference.spectral import FourierReference, Scale

STEPS_PER_REACTION = 8
"""Of the coarsest solve, in one reaction time 1/r: safely stable for every r."""


@dataclass(frozen=True)
class AllenCahnReference(FourierReference):
    """``u_t = d u_xx + r (u - u³)`` on [0,1]x[-1,1], periodic, ``u(0,x) = x² cos πx``.

    The start has a kink at the seam. Its Fourier coefficients fall as 1/k² only and are taken in
    closed form, so that no mode carries the aliasing of sampling it; diffusion then wipes out the
    high ones, and the convergence in space is exponential for every t > 0. The cubic term is not
    dealiased: measured, at the same number of cells that is the more accurate.
    """

    name: ClassVar[str] = "allen_cahn"
    version: ClassVar[int] = 2
    coordinates = ("x",)
    fields = ("u",)
    lower = (-1.0,)
    lengths = (2.0,)

    diffusivity: float = 1e-4
    """``d``."""
    reaction: float = 5.0
    """``r``."""

    def __post_init__(self) -> None:
        require_positive(self, "diffusivity", "reaction")

    def scale(self, quick: bool) -> Scale:
        """Begin with thousands of modes for the kink."""
        times = 51 if quick else 201
        steps = math.ceil(STEPS_PER_REACTION * self.reaction / (times - 1))
        if quick:
            return Scale(times, 129, Resolution(512, steps), target=1e-4)
        return Scale(times, 1025, Resolution(2048, steps), target=1e-10)

    def start(self, axes: Sequence[Array]) -> Array:
        """A parabola times a cosine."""
        (x,) = axes
        return (x**2 * np.cos(np.pi * x))[None]

    def linear(self, grid: FourierGrid) -> Array:
        """Diffusion."""
        return self.diffusivity * grid.laplacian

    def nonlinear(self, grid: FourierGrid) -> Callable[[Modes], Modes]:
        """The reaction, its linear part included."""

        def reaction(modes: Modes) -> Modes:
            u = grid.to_values(modes)
            return grid.to_modes(self.reaction * (u - u**3))

        return reaction

    def start_modes(self, grid: FourierGrid) -> Modes:
        """Fourier coefficients of x² cos πx, as scipy's transform from x = -1 has them.

        From ``∫ x² cos mπx dx = 4 (-1)^m / (mπ)²`` over [-1, 1], and 2/3 for m = 0.
        """

        def integral(m: Array) -> Array:
            return np.where(
                m == 0, 2 / 3, 4 * np.cos(np.pi * m) / (np.pi * np.where(m == 0, 1, m)) ** 2
            )

        (cells,) = grid.cells
        k = np.arange(cells // 2 + 1.0)
        coefficients = (integral(k + 1) + integral(k - 1)) / 4
        return (cells * np.cos(np.pi * k) * coefficients).astype(complex)[None]
