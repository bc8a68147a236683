"""The wave equation with two standing modes."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms, on
from dpinn.reference import Reference, WaveReference


class Wave(Problem):
    """u_tt = c² u_xx on [0,1]², u = 0 at both ends, u_t(0, x) = 0.

    u(0, x) = sin πx + ½ sin 4πx; the solution is a sum of two standing waves. Source:
    arXiv 2502.00604. All quantities are dimensionless.

    Args:
        speed: the speed c of the waves.
    """

    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)

    def __init__(self, speed: float = 2.0):
        super().__init__()
        self.speed = speed

    def residual(self, u: Field) -> Terms:
        """The wave equation."""
        return {"pde": u.tt - self.speed**2 * u.xx}

    def initial(self, u: Field, x: Tensor) -> Terms:
        """The start: a given shape, at rest."""
        shape = torch.sin(torch.pi * x) + 0.5 * torch.sin(4 * torch.pi * x)
        return {"ic": u - shape, "ic_t": u.t}

    @on(x=(0, 1))
    def ends(self, u: Field) -> Terms:
        """Fixed ends."""
        return {"bc": u}

    def reference(self) -> Reference:
        """The closed form."""
        return WaveReference(speed=self.speed)
