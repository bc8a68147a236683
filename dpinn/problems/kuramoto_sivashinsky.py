"""The Kuramoto–Sivashinsky equation: fronts that become chaotic."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.box import Box
from dpinn.jet import Field
from dpinn.problem import Problem, Terms
from dpinn.reference.base import Reference
from dpinn.reference.kuramoto_sivashinsky import KuramotoSivashinskyReference


class KuramotoSivashinsky(Problem):
    """u_t + α u u_x + β u_xx + γ u_xxxx = 0, t in [0, horizon], x in [0, 2π], periodic.

    α = 100/16, β = 100/16², γ = 100/16⁴; u(0, x) = cos x (1 + sin x). Waves longer than
    2π sqrt(γ/β) grow, shorter ones decay, and the fronts between them move chaotically from
    t = 0.4 on. Source: arXiv 2502.00604. Dimensionless.

    Args:
        horizon: where the solution ends.
    """

    domain = Box(t=(0.0, 1.0), x=(0.0, 2 * torch.pi))
    fields = ("u",)
    periodic = ("x",)

    steepening = 100 / 16
    production = 100 / 16**2
    damping = 100 / 16**4

    def __init__(self, horizon: float = 1.0):
        super().__init__()
        self.domain = Box(t=(0.0, horizon), x=(0.0, 2 * torch.pi))

    def residual(self, u: Field) -> Terms:
        """The Kuramoto–Sivashinsky equation."""
        waves = self.production * u.xx + self.damping * u.xxxx
        return {"pde": u.t + self.steepening * u * u.x + waves}

    def initial(self, u: Field, x: Tensor) -> Terms:
        """Two waves."""
        return {"ic": u - torch.cos(x) * (1 + torch.sin(x))}

    def reference(self) -> Reference:
        """A Fourier-ETDRK4 solution, refined until converged."""
        return KuramotoSivashinskyReference(
            self.steepening, self.production, self.damping, self.domain["t"][1]
        )
