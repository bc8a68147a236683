"""The Gray–Scott model: a spot that feeds on its surroundings and divides."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.box import Box
from dpinn.jet import Field
from dpinn.problem import Problem, Terms
from dpinn.reference.base import Reference
from dpinn.reference.gray_scott import GrayScottReference


class GrayScott(Problem):
    """u_t = ε₁ Δu + b₁ (1 - u) - c u v², v_t = ε₂ Δv - b₂ v + c u v², periodic on [-1, 1]².

    t in [0, horizon]; ε₁ = 0.2, ε₂ = 0.1, b₁ = 40, b₂ = 100, c = 1000. The start is a hole in u,
    1 - exp(-10 ((x+.05)² + (y+.02)²)), beside a spot of v, exp(-10 ((x-.05)² + (y-.02)²)). Source:
    arXiv 2502.00604. Dimensionless.

    Args:
        horizon: where the solution ends.
    """

    domain = Box(t=(0.0, 2.0), x=(-1.0, 1.0), y=(-1.0, 1.0))
    fields = ("u", "v")
    periodic = ("x", "y")

    diffusivity_u = 0.2
    diffusivity_v = 0.1
    feed = 40.0
    removal = 100.0
    reaction = 1000.0

    def __init__(self, horizon: float = 2.0):
        super().__init__()
        self.domain = Box(t=(0.0, horizon), x=(-1.0, 1.0), y=(-1.0, 1.0))

    def residual(self, u: Field, v: Field) -> Terms:
        """Diffusion, feed, removal and reaction of both species."""
        turned = self.reaction * u * v**2
        return {
            "u": u.t - self.diffusivity_u * u.laplacian - self.feed * (1 - u) + turned,
            "v": v.t - self.diffusivity_v * v.laplacian + self.removal * v - turned,
        }

    def initial(self, u: Field, v: Field, x: Tensor, y: Tensor) -> Terms:
        """A hole in u beside a spot of v."""
        hole = torch.exp(-10 * ((x + 0.05) ** 2 + (y + 0.02) ** 2))
        spot = torch.exp(-10 * ((x - 0.05) ** 2 + (y - 0.02) ** 2))
        return {"ic_u": u - (1 - hole), "ic_v": v - spot}

    def reference(self) -> Reference:
        """A Fourier-ETDRK4 solution, refined until converged."""
        return GrayScottReference(
            self.diffusivity_u, self.diffusivity_v, self.feed, self.removal, self.reaction,
            self.domain["t"][1],
        )  # fmt: skip
