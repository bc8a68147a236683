"""The Allen-Cahn equation: phases that separate and sharpen."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms
from dpinn.reference import AllenCahnReference, Reference


class AllenCahn(Problem):
    """u_t = d u_xx + r (u - u³), t in [0, 1], x in [-1, 1], periodic.

    u(0, x) = x² cos πx, whose slope jumps at the periodic seam. Source: arXiv 2502.00604.
    All quantities are dimensionless.

    Args:
        diffusivity: d.
        reaction: r.
    """

    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)
    periodic = ("x",)

    def __init__(self, diffusivity: float = 1e-4, reaction: float = 5.0):
        super().__init__()
        self.diffusivity = diffusivity
        self.reaction = reaction

    def residual(self, u: Field) -> Terms:
        """The Allen-Cahn equation."""
        return {"pde": u.t - self.diffusivity * u.xx - self.reaction * (u - u**3)}

    def initial(self, u: Field, x: Tensor) -> Terms:
        """The start."""
        return {"ic": u - x**2 * torch.cos(torch.pi * x)}

    def reference(self) -> Reference:
        """A Fourier-ETDRK4 solution, refined until converged."""
        return AllenCahnReference(diffusivity=self.diffusivity, reaction=self.reaction)
