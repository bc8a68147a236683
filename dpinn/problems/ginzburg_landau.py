"""The complex Ginzburg–Landau equation: spirals that wind out of a vortex."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.box import Box
from dpinn.jet import Field
from dpinn.problem import Problem, Terms
from dpinn.reference.base import Reference
from dpinn.reference.ginzburg_landau import GinzburgLandauReference


class GinzburgLandau(Problem):
    """A_t = ε ΔA + μ A - γ (1 + iβ) A abs(A)², t in [0, horizon], x and y in [-1, 1], periodic.

    A = u + iv; ε = 0.004, μ = γ = 10, β = 1.5; A(0) = (10 y + 10 i x) exp(-25 (x² + y²)). Source:
    arXiv 2502.00604. Dimensionless.

    Args:
        horizon: where the solution ends.
    """

    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0), y=(-1.0, 1.0))
    fields = ("u", "v")
    periodic = ("x", "y")

    diffusivity = 0.004
    growth = 10.0
    saturation = 10.0
    rotation = 1.5

    def __init__(self, horizon: float = 1.0):
        super().__init__()
        self.domain = Box(t=(0.0, horizon), x=(-1.0, 1.0), y=(-1.0, 1.0))

    def residual(self, u: Field, v: Field) -> Terms:
        """Real and imaginary part of the equation."""
        size = self.saturation * (u**2 + v**2)
        linear_u = self.diffusivity * u.laplacian + self.growth * u
        linear_v = self.diffusivity * v.laplacian + self.growth * v
        return {
            "real": u.t - linear_u + size * (u - self.rotation * v),
            "imaginary": v.t - linear_v + size * (v + self.rotation * u),
        }

    def initial(self, u: Field, v: Field, x: Tensor, y: Tensor) -> Terms:
        """A vortex."""
        bump = 10 * torch.exp(-25 * (x**2 + y**2))
        return {"ic_u": u - y * bump, "ic_v": v - x * bump}

    def reference(self) -> Reference:
        """A Fourier-ETDRK4 solution, refined until converged."""
        return GinzburgLandauReference(
            self.diffusivity, self.growth, self.saturation, self.rotation, self.domain["t"][1]
        )
