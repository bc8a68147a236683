"""The steady lid-driven cavity."""

from __future__ import annotations

import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms, on, quantity
from dpinn.reference import Reference
from dpinn.reference.lid_driven_cavity import LidDrivenCavityReference


class LidDrivenCavity(Problem):
    """u u_x + v u_y + p_x = Δu / Re, u v_x + v v_y + p_y = Δv / Re, u_x + v_y = 0 on [0, 1]².

    The lid y = 1 slides with u = 1, v = 0; the other walls rest, u = v = 0. At both upper corners
    the velocity jumps and the pressure is unbounded. Lengths are in sides of the square,
    velocities in those of the lid, the pressure in density times the square of the latter, and is
    known up to a constant. Source: arXiv 2502.00604; U. Ghia, K. N. Ghia and C. T. Shin,
    J. Comput. Phys. 48 (1982).

    Args:
        reynolds: Re, velocity of the lid times side of the square over kinematic viscosity. It is
            read at each call, so that a curriculum may change it.
    """

    domain = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u", "v", "p")
    up_to_constant = ("p",)

    def __init__(self, reynolds: float = 5000.0):
        super().__init__()
        self.reynolds = reynolds

    def residual(self, u: Field, v: Field, p: Field) -> Terms:
        """Steady incompressible Navier–Stokes equations."""
        return {
            "momentum_x": u * u.x + v * u.y + p.x - u.laplacian / self.reynolds,
            "momentum_y": u * v.x + v * v.y + p.y - v.laplacian / self.reynolds,
            "continuity": u.x + v.y,
        }

    @on(y=1)
    def lid(self, u: Field, v: Field) -> Terms:
        """The sliding wall."""
        return {"lid_u": u - 1, "lid_v": v}

    @on(x=(0, 1), y=0)
    def walls(self, u: Field, v: Field) -> Terms:
        """The walls at rest."""
        return {"wall_u": u, "wall_v": v}

    @quantity
    def speed(self, u: Field, v: Field) -> Tensor:
        """Magnitude of the velocity, what published errors are of."""
        return torch.sqrt(u**2 + v**2)

    def reference(self) -> Reference:
        """Newton's method with splines."""
        return LidDrivenCavityReference(reynolds=float(self.reynolds))
