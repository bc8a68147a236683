"""The complex Ginzburg–Landau equation: Fourier in space, ETDRK4 in time, refined."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dpinn.reference.base import Array, require_positive
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.refine import Resolution
from dpinn.reference.spectral import FourierReference, Scale


@dataclass(frozen=True)
class GinzburgLandauReference(FourierReference):
    """``A_t = ε ΔA + μ A - γ (1 + iβ) A |A|²`` on [0,horizon]x[-1,1]², periodic; A = u + iv.

    ``A(0) = (10 y + 10 i x) exp(-25 (x² + y²))``, which jumps by 3e-10 at the seam.
    """

    name: ClassVar[str] = "ginzburg_landau"
    version: ClassVar[int] = 1
    coordinates = ("x", "y")
    fields = ("u", "v")
    lower = (-1.0, -1.0)
    lengths = (2.0, 2.0)

    diffusivity: float = 0.004
    """``ε``."""
    growth: float = 10.0
    """``μ``."""
    saturation: float = 10.0
    """``γ``."""
    rotation: float = 1.5
    """``β``."""
    horizon: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "diffusivity", "growth", "saturation", "horizon")

    def scale(self, quick: bool) -> Scale:
        """Begin with the modes that the spirals of the benchmark need."""
        if quick:
            return Scale(11, 65, Resolution(64, 16), target=1e-2)
        return Scale(41, 129, Resolution(128, 10), target=1e-5)

    def start(self, axes: Sequence[Array]) -> Array:
        """A vortex."""
        x, y = axes
        bump = 10 * np.exp(-25 * (x**2 + y**2))
        return np.stack(np.broadcast_arrays(y * bump, x * bump))

    def linear(self, grid: FourierGrid) -> Array:
        """Diffusion and growth."""
        return self.diffusivity * grid.laplacian + self.growth

    def nonlinear(self, grid: FourierGrid) -> Callable[[Modes], Modes]:
        """Saturation, which rotates the phase."""

        def saturation(modes: Modes) -> Modes:
            u, v = grid.to_values(modes)
            size = -self.saturation * (u**2 + v**2)
            turned = (u - self.rotation * v, v + self.rotation * u)
            return grid.to_modes(size * np.stack(turned))

        return saturation
