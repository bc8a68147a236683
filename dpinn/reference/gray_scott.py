"""The Gray–Scott model: Fourier in space, ETDRK4 in time, refined until converged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.fft

from dpinn.reference.base import Array, require_positive
from dpinn.reference.fourier import FourierGrid, Modes
from dpinn.reference.refine import Resolution
from dpinn.reference.spectral import FourierReference, Scale

CENTRES = ((-0.05, -0.02), (0.05, 0.02))
"""Of the holes in u and of the spot of v."""

SHARPNESS = 10.0

FINE = 2**17
"""Cells of the transform of the start along one axis: its quadrature error is below 1e-13."""


@dataclass(frozen=True)
class GrayScottReference(FourierReference):
    """Two species on [0,horizon]x[-1,1]², periodic::

        u_t = ε₁ Δu + b₁ (1 - u) - c₁ u v²
        v_t = ε₂ Δv - b₂ v + c₂ u v²

    from ``u = 1 - exp(-10 ((x+.05)² + (y+.02)²))``, ``v = exp(-10 ((x-.05)² + (y-.02)²))``.

    The start jumps by 1e-4 at the periodic seam. Its Fourier coefficients are taken as integrals,
    to roundoff, not by sampling on the solver's cells: so all resolutions start from the same
    function, of which they keep fewer or more modes. Diffusion smooths the jump at once. On the
    seam itself, at t = 0 alone, the stored values are those of the formula at either end.
    """

    name: ClassVar[str] = "gray_scott"
    version: ClassVar[int] = 1
    coordinates = ("x", "y")
    fields = ("u", "v")
    lower = (-1.0, -1.0)
    lengths = (2.0, 2.0)

    diffusivity_u: float = 0.2
    """``ε₁``."""
    diffusivity_v: float = 0.1
    """``ε₂``."""
    feed: float = 40.0
    """``b₁``."""
    removal: float = 100.0
    """``b₂``."""
    reaction: float = 1000.0
    """``c₁ = c₂``."""
    horizon: float = 2.0

    def __post_init__(self) -> None:
        names = ("diffusivity_u", "diffusivity_v", "feed", "removal", "reaction", "horizon")
        require_positive(self, *names)

    def scale(self, quick: bool) -> Scale:
        """Begin with the modes and steps that the spots of the benchmark need."""
        if quick:
            return Scale(11, 65, Resolution(64, 60), target=1e-2)
        return Scale(41, 129, Resolution(128, 40), target=3e-5)

    def start(self, axes: Sequence[Array]) -> Array:
        """A hole in u beside a spot of v."""
        x, y = axes
        spots = [np.exp(-SHARPNESS * ((x - a) ** 2 + (y - b) ** 2)) for a, b in CENTRES]
        return np.stack([1 - spots[0], spots[1]])

    def start_modes(self, grid: FourierGrid) -> Modes:
        """The spots' coefficients, products of one for each axis."""
        hole, spot = (
            np.multiply.outer(
                _bump(a, grid.cells[0]), _bump(b, grid.cells[1])[: grid.cells[1] // 2 + 1]
            )
            for a, b in CENTRES
        )
        u = -hole
        u[0, 0] += grid.cells[0] * grid.cells[1]
        return np.stack([u, spot])

    def linear(self, grid: FourierGrid) -> Array:
        """Diffusion and decay."""
        return np.stack(
            [
                self.diffusivity_u * grid.laplacian - self.feed,
                self.diffusivity_v * grid.laplacian - self.removal,
            ]
        )

    def nonlinear(self, grid: FourierGrid) -> Callable[[Modes], Modes]:
        """The feed, and the reaction that turns u into v."""
        fed = self.feed * grid.cells[0] * grid.cells[1]

        def reaction(modes: Modes) -> Modes:
            u, v = grid.to_values(modes)
            turned = self.reaction * grid.to_modes(u * v**2)
            out = np.stack([-turned, turned])
            out[0, 0, 0] += fed
            return out

        return reaction


def _bump(centre: float, cells: int) -> Modes:
    """Modes of exp(-10 (x - centre)²) on [-1, 1] along one axis, ``cells`` of them.

    By the trapezoidal rule on a grid so fine that it gives the integrals, whatever the cells.
    """
    x = -1 + 2 * np.arange(FINE) / FINE
    values = np.exp(-SHARPNESS * (x - centre) ** 2)
    values[0] = (values[0] + np.exp(-SHARPNESS * (1 - centre) ** 2)) / 2
    modes = scipy.fft.fft(values) * (cells / FINE)
    half = cells // 2
    kept = np.concatenate([modes[:half], modes[-half:]])
    kept[half] = kept[half].real
    return kept
