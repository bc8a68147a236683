"""The Korteweg–de Vries equation: a wave that breaks into solitons."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.box import Box
from dpinn.jet import Field
from dpinn.problem import Problem, Terms
from dpinn.reference.base import Reference
from dpinn.reference.kdv import KdVReference


class KdV(Problem):
    """u_t + u u_x + δ² u_xxx = 0, t in [0, 1], x in [-1, 1], periodic.

    u(0, x) = cos πx steepens, and dispersion turns the front into a train of solitons. Sources:
    arXiv 2502.00604; Zabusky and Kruskal, Phys. Rev. Lett. 15 (1965). Dimensionless.

    Args:
        dispersion: δ; solitons are about 10 δ wide.
    """

    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)
    periodic = ("x",)

    def __init__(self, dispersion: float = 0.022):
        super().__init__()
        self.dispersion = dispersion

    @property
    def name(self) -> str:
        """Without an underscore in it."""
        return "kdv"

    def residual(self, u: Field) -> Terms:
        """The Korteweg–de Vries equation."""
        return {"pde": u.t + u * u.x + self.dispersion**2 * u.xxx}

    def initial(self, u: Field, x: Tensor) -> Terms:
        """A cosine."""
        return {"ic": u - torch.cos(torch.pi * x)}

    def reference(self) -> Reference:
        """A Fourier-ETDRK4 solution, refined until converged."""
        return KdVReference(dispersion=self.dispersion)
