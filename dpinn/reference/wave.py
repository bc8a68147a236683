"""The wave equation: closed form."""

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from dpinn.reference.base import Array, Reference, require_positive
from dpinn.reference.progress import Progress


@dataclass(frozen=True)
class WaveReference(Reference):
    """``u_tt = c² u_xx`` on [0,1]x[0,1], ``u(0,x) = sin πx + ½ sin 4πx`` at rest, ends fixed."""

    name: ClassVar[str] = "wave"
    version: ClassVar[int] = 1

    speed: float = 2.0
    """``c``."""

    def __post_init__(self) -> None:
        require_positive(self, "speed")

    def values(self, t: Array, x: Array) -> Array:
        """Give u where ``t`` and ``x``, broadcast against each other, say."""
        return np.sin(np.pi * x) * np.cos(np.pi * self.speed * t) + 0.5 * np.sin(
            4 * np.pi * x
        ) * np.cos(4 * np.pi * self.speed * t)

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Evaluate the closed form on the grid."""
        started = time.perf_counter()
        t = np.linspace(0, 1, 51 if quick else 201)
        x = np.linspace(0, 1, 129 if quick else 513)
        u = self.values(t[:, None], x)
        u[:, [0, -1]] = 0
        return self.dataset(
            {"t": t, "x": x},
            {"u": u},
            # The argument of the fastest cosine is rounded.
            error_estimate=np.finfo(float).eps * (1 + 4 * np.pi * self.speed),
            solver="closed form (two standing waves)",
            resolution="exact",
            started=started,
        )
