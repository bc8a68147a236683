"""Kolmogorov flow: two-dimensional turbulence driven by a steady force."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms, quantity
from dpinn.reference import Reference, load_reference
from dpinn.reference.kolmogorov import HORIZON, START_WAVES, KolmogorovReference, KolmogorovStart


class Kolmogorov(Problem):
    """u_t + u·∇u + ∇p = ν Δu + f sin(4πy) e_x, ∇·u = 0, (x, y) in [0, 1]², periodic.

    The start is developed turbulence, a finite Fourier series that is free of divergence. It is
    computed once, in seconds, and cached: see ``KolmogorovStart``. The horizon is about 1.5
    turnover times L / u_rms. The equations after arXiv 2502.00604, whose start and horizon are
    not published. The pressure is determined but for a function of time: compare it with the
    mean over the box subtracted. All quantities are dimensionless.

    Args:
        viscosity: ν.
        force: f.
        horizon: the last time.
        seed: of the start.
    """

    domain = Box(t=(0.0, HORIZON), x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u", "v", "p")
    up_to_constant = ("p",)
    periodic = ("x", "y")

    def __init__(
        self,
        viscosity: float = 1e-4,
        force: float = 2.0,
        horizon: float = HORIZON,
        seed: int = 0,
    ):
        super().__init__()
        self.viscosity = viscosity
        self.force = force
        self.horizon = horizon
        self.seed = seed
        self.domain = Box(t=(0.0, horizon), x=(0.0, 1.0), y=(0.0, 1.0))
        self.start = TurbulentStart(KolmogorovStart(force, seed))

    def residual(self, u: Field, v: Field, p: Field, y: Tensor) -> Terms:
        """Momentum in both directions, and incompressibility."""
        force = self.force * torch.sin(4 * torch.pi * y)
        return {
            "momentum_x": u.t + u * u.x + v * u.y + p.x - self.viscosity * u.laplacian - force,
            "momentum_y": v.t + u * v.x + v * v.y + p.y - self.viscosity * v.laplacian,
            "continuity": u.x + v.y,
        }

    def initial(self, u: Field, v: Field, x: Tensor, y: Tensor) -> Terms:
        """The turbulent start."""
        u0, v0 = self.start(x, y)
        return {"ic_u": u - u0, "ic_v": v - v0}

    @quantity
    def vorticity(self, u: Field, v: Field) -> Tensor:
        """v_x - u_y."""
        return v.x - u.y

    def reference(self) -> Reference:
        """A pseudo-spectral simulation, refined until converged."""
        return KolmogorovReference(self.viscosity, self.force, self.horizon, self.seed)


class TurbulentStart:
    """The Fourier series of the start, in float64 whatever the precision of the training.

    An object of its own, since a problem's tensors are rounded to that precision.

    Args:
        reference: from which the velocity is loaded when it is first asked for.
    """

    def __init__(self, reference: KolmogorovStart):
        self.reference = reference
        self._series: dict[torch.device, Tensor] = {}

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return u and v at t = 0 where ``x`` and ``y``, tensors of ``N``, say."""
        if x.device not in self._series:
            # The first call is not compiled, so that the compiler finds constants here.
            start = load_reference(self.reference)
            velocity = np.stack([start.u.values, start.v.values])[:, :-1, :-1]
            self._series[x.device] = sine_series(velocity).to(x.device)
        # In float64, which no mode of reduced precision (TF32, autocast) touches.
        along_x, along_y = (waves(c.double()) for c in (x, y))
        u0, v0 = (torch.matmul(along_x, self._series[x.device]) * along_y).sum(-1).to(x.dtype)
        return u0, v0


def waves(x: Tensor) -> Tensor:
    """Give cos 2πkx for k = 0 ... K, then sin 2πkx for k = 1 ... K: ``N x 2K+1``."""
    k = torch.arange(START_WAVES + 1, dtype=x.dtype, device=x.device)
    phases = 2 * math.pi * x[:, None] * k
    return torch.cat([torch.cos(phases), torch.sin(phases[:, 1:])], dim=1)


def sine_series(values: np.ndarray) -> Tensor:
    """Give the coefficients of products of `waves` in x and in y.

    Args:
        values: ``... x n x n`` on equispaced points of a period, the last not repeated, n > 2K.

    Returns:
        ``... x 2K+1 x 2K+1``, float64.
    """
    cells = values.shape[-1]
    inverse = 2 / cells * waves(torch.arange(cells, dtype=torch.float64) / cells)
    inverse[:, 0] /= 2
    return inverse.T @ torch.from_numpy(values) @ inverse
