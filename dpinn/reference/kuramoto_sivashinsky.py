"""The Kuramoto–Sivashinsky equation: Fourier in space, ETDRK4 in time, refined until converged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dpinn.reference.base import Array, require_positive
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.refine import Resolution
from dpinn.reference.spectral import FourierReference, Scale


@dataclass(frozen=True)
class KuramotoSivashinskyReference(FourierReference):
    """``u_t + α u u_x + β u_xx + γ u_xxxx = 0`` on [0,horizon]x[0,2π], periodic.

    ``u(0,x) = cos x (1 + sin x)``. The solution becomes chaotic, which amplifies every error; so
    what is refined until it stands still is the whole history. At its end a change is about three
    times that of all times together.
    """

    name: ClassVar[str] = "kuramoto_sivashinsky"
    version: ClassVar[int] = 1
    coordinates = ("x",)
    fields = ("u",)
    lower = (0.0,)
    lengths = (2 * np.pi,)
    keep = 2 / 3

    steepening: float = 100 / 16
    """``α``."""
    production: float = 100 / 16**2
    """``β``."""
    damping: float = 100 / 16**4
    """``γ``."""
    horizon: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "steepening", "production", "damping", "horizon")

    def scale(self, quick: bool) -> Scale:
        """Begin with the modes that the fronts of the benchmark need."""
        if quick:
            return Scale(51, 129, Resolution(128, 8), target=1e-3)
        return Scale(201, 513, Resolution(512, 16), target=1e-7)

    def start(self, axes: Sequence[Array]) -> Array:
        """Two waves."""
        (x,) = axes
        return (np.cos(x) * (1 + np.sin(x)))[None]

    def linear(self, grid: FourierGrid) -> Array:
        """Production of long waves, damping of short ones."""
        squared = -grid.laplacian
        return self.production * squared - self.damping * squared**2

    def nonlinear(self, grid: FourierGrid) -> Callable[[Modes], Modes]:
        """Steepening."""
        half_slope = -0.5 * self.steepening * grid.derivative(0)

        def steepening(modes: Modes) -> Modes:
            return grid.dealias(half_slope * grid.to_modes(grid.to_values(modes) ** 2))

        return steepening
