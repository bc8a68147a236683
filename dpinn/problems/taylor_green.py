"""The two-dimensional Taylor–Green vortex: Navier–Stokes with a closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms, quantity
from dpinn.reference import Reference
from dpinn.reference.taylor_green import TaylorGreenReference


class TaylorGreen(Problem):
    """u_t + u·∇u + ∇p = ν Δu, ∇·u = 0, t in [0, 1], (x, y) in [0, 2π]², periodic.

    u(0) = (-cos x sin y, sin x cos y), four vortices whose advection the pressure balances, so
    that they decay in place. The pressure is determined but for a function of time: compare it
    with the mean over the box subtracted. All quantities are dimensionless.

    Args:
        viscosity: ν.
    """

    domain = Box(t=(0.0, 1.0), x=(0.0, 2 * math.pi), y=(0.0, 2 * math.pi))
    fields = ("u", "v", "p")
    up_to_constant = ("p",)
    periodic = ("x", "y")

    def __init__(self, viscosity: float = 0.05):
        super().__init__()
        self.viscosity = viscosity

    def residual(self, u: Field, v: Field, p: Field) -> Terms:
        """Momentum in both directions, and incompressibility."""
        return {
            "momentum_x": u.t + u * u.x + v * u.y + p.x - self.viscosity * u.laplacian,
            "momentum_y": v.t + u * v.x + v * v.y + p.y - self.viscosity * v.laplacian,
            "continuity": u.x + v.y,
        }

    def initial(self, u: Field, v: Field, x: Tensor, y: Tensor) -> Terms:
        """The vortices at full strength."""
        return {
            "ic_u": u + torch.cos(x) * torch.sin(y),
            "ic_v": v - torch.sin(x) * torch.cos(y),
        }

    @quantity
    def vorticity(self, u: Field, v: Field) -> Tensor:
        """v_x - u_y."""
        return v.x - u.y

    def reference(self) -> Reference:
        """The closed form."""
        return TaylorGreenReference(viscosity=self.viscosity)
