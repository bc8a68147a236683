"""The Korteweg–de Vries equation: Fourier in space, ETDRK4 in time, refined until converged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dpinn.reference.base import Array, require_positive
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.refine import Resolution
from dpinn.reference.spectral import FourierReference, Scale


@dataclass(frozen=True)
class KdVReference(FourierReference):
    """``u_t + u u_x + δ² u_xxx = 0`` on [0,1]x[-1,1], periodic, ``u(0,x) = cos πx``.

    Zabusky and Kruskal, Phys. Rev. Lett. 15 (1965). The dispersion is solved exactly; the
    quadratic term is dealiased.
    """

    name: ClassVar[str] = "kdv"
    version: ClassVar[int] = 1
    coordinates = ("x",)
    fields = ("u",)
    lower = (-1.0,)
    lengths = (2.0,)
    keep = 2 / 3

    dispersion: float = 0.022
    """``δ``."""

    def __post_init__(self) -> None:
        require_positive(self, "dispersion")

    def scale(self, quick: bool) -> Scale:
        """Begin with the modes that the solitons of the benchmark need."""
        if quick:
            return Scale(51, 129, Resolution(256, 8), target=1e-4)
        return Scale(201, 513, Resolution(512, 8), target=1e-10)

    def start(self, axes: Sequence[Array]) -> Array:
        """A cosine."""
        (x,) = axes
        return np.cos(np.pi * x)[None]

    def linear(self, grid: FourierGrid) -> Modes:
        """Dispersion."""
        return -(self.dispersion**2) * grid.derivative(0, 3)

    def nonlinear(self, grid: FourierGrid) -> Callable[[Modes], Modes]:
        """Steepening."""
        half_slope = -0.5 * grid.derivative(0)

        def steepening(modes: Modes) -> Modes:
            return grid.dealias(half_slope * grid.to_modes(grid.to_values(modes) ** 2))

        return steepening
