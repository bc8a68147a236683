"""Burgers' equation, whose solution steepens to a shock layer at x = 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms, on
from dpinn.reference import BurgersReference, Reference


class Burgers(Problem):
    """u_t + u u_x = ν u_xx, t in [0, 1], x in [-1, 1], u = 0 at both ends.

    u(0, x) = -sin πx. Source: arXiv 2502.00604. All quantities are dimensionless.

    Args:
        viscosity: ν; at 0.01/π the shock layer is about 0.014 wide.
    """

    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)

    def __init__(self, viscosity: float = 0.01 / math.pi):
        super().__init__()
        self.viscosity = viscosity

    def residual(self, u: Field) -> Terms:
        """Burgers' equation."""
        return {"pde": u.t + u * u.x - self.viscosity * u.xx}

    def initial(self, u: Field, x: Tensor) -> Terms:
        """A sine."""
        return {"ic": u + torch.sin(torch.pi * x)}

    @on(x=(-1, 1))
    def ends(self, u: Field) -> Terms:
        """Zero at both ends."""
        return {"bc": u}

    def reference(self) -> Reference:
        """The Cole-Hopf solution."""
        return BurgersReference(viscosity=self.viscosity)
