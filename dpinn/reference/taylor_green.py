"""The two-dimensional Taylor–Green vortex: closed form."""

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from dpinn.reference.base import Array, Reference, require_positive
from dpinn.reference.progress import Progress


@dataclass(frozen=True)
class TaylorGreenReference(Reference):
    """Four counter-rotating vortices on [0,2π]² that decay and keep their shape.

    ``u = -cos x sin y e^{-2νt}``, ``v = sin x cos y e^{-2νt}`` and
    ``p = -¼ (cos 2x + cos 2y) e^{-4νt}``, whose mean is zero. Source: Taylor and Green, Proc. R.
    Soc. A 158 (1937).
    """

    name: ClassVar[str] = "taylor_green"
    version: ClassVar[int] = 1

    viscosity: float = 0.05
    """``ν``."""

    def __post_init__(self) -> None:
        require_positive(self, "viscosity")

    def values(self, t: Array, x: Array, y: Array) -> dict[str, Array]:
        """Give u, v, p and the vorticity where ``t``, ``x`` and ``y``, broadcast, say."""
        decay = np.exp(-2 * self.viscosity * t)
        return {
            "u": -np.cos(x) * np.sin(y) * decay,
            "v": np.sin(x) * np.cos(y) * decay,
            "p": -(np.cos(2 * x) + np.cos(2 * y)) / 4 * decay**2,
            "vorticity": 2 * np.cos(x) * np.cos(y) * decay,
        }

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Evaluate the closed form on the grid."""
        started = time.perf_counter()
        t = np.linspace(0, 1, 6 if quick else 21)
        x = np.linspace(0, 2 * np.pi, 33 if quick else 97)
        return self.dataset(
            {"t": t, "x": x, "y": x},
            self.values(t[:, None, None], x[:, None], x),
            # The arguments, at most 4π and 4ν, are rounded.
            error_estimate=np.finfo(float).eps * 4 * (np.pi + self.viscosity),
            solver="closed form (Taylor–Green)",
            resolution="exact",
            started=started,
        )
