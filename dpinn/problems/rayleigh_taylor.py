"""The Rayleigh-Taylor instability: warm fluid below cold turns over in plumes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpinn.jet import Field
from dpinn.problem import Box, Problem, Terms, on, quantity
from dpinn.reference import Reference
from dpinn.reference.rayleigh_taylor import AMPLITUDE, THICKNESS, RayleighTaylorReference


class RayleighTaylor(Problem):
    """Boussinesq flow between walls, t in [0, horizon], x in [0, 1] periodic, y in [0, 2].

    u_t + u u_x + v u_y + p_x = α₁ Δu, v_t + u v_x + v v_y + p_y = α₁ Δv + T, u_x + v_y = 0,
    T_t + u T_x + v T_y = α₄ ΔT with α₁ = sqrt(Pr/Ra), α₄ = 1/sqrt(Pr Ra), and u = v = T = 0 at the
    walls y = 0 and y = 2. The fluid is at rest at t = 0, with T = 1 below the bent interface
    y = 1 + a cos 2πx and T = 0 above it, over a thickness δ, and falling to 0 at the walls:

        T = (1 - tanh((y - 1 - a cos 2πx) / δ)) / 2 · tanh(y/δ) tanh((2-y)/δ), a = 0.05, δ = 0.1.

    Lengths are in widths L of the box, temperatures in differences ΔT between warm and cold fluid,
    velocities in free-fall units sqrt(g β ΔT L), times in L over that; Ra = g β ΔT L³ / (ν κ),
    Pr = ν / κ. At the default horizon the plumes have curled up into mushrooms and come within a
    quarter of the walls; the flow is not yet chaotic. The pressure is known up to a function of
    time. Equations: arXiv 2502.00604, whose start is not published; this one is ours.

    Args:
        rayleigh: Ra.
        prandtl: Pr.
        horizon: last time.
    """

    domain = Box(t=(0.0, 4.0), x=(0.0, 1.0), y=(0.0, 2.0))
    fields = ("u", "v", "T", "p")
    up_to_constant = ("p",)
    periodic = ("x",)

    def __init__(self, rayleigh: float = 1e6, prandtl: float = 0.71, horizon: float = 4.0):
        super().__init__()
        RayleighTaylorReference(rayleigh, prandtl, horizon)  # refuses what is not positive
        self.rayleigh = rayleigh
        self.prandtl = prandtl
        self.horizon = horizon
        self.domain = Box(t=(0.0, horizon), x=(0.0, 1.0), y=(0.0, 2.0))
        self.viscosity = math.sqrt(prandtl / rayleigh)
        self.diffusivity = 1 / math.sqrt(prandtl * rayleigh)

    def residual(self, u: Field, v: Field, T: Field, p: Field) -> Terms:
        """Momentum along and across the walls, continuity, and heat."""

        def advected(field: Field) -> Tensor:
            return field.t + u * field.x + v * field.y

        return {
            "momentum_x": advected(u) + p.x - self.viscosity * u.laplacian,
            "momentum_y": advected(v) + p.y - self.viscosity * v.laplacian - T,
            "continuity": u.x + v.y,
            "energy": advected(T) - self.diffusivity * T.laplacian,
        }

    def initial(self, u: Field, v: Field, T: Field, x: Tensor, y: Tensor) -> Terms:
        """The start at rest."""
        return {"ic_u": u, "ic_v": v, "ic_T": T - start(x, y)}

    @on(y=(0.0, 2.0))
    def walls(self, u: Field, v: Field, T: Field) -> Terms:
        """Cold walls without slip."""
        return {"wall_u": u, "wall_v": v, "wall_T": T}

    @quantity
    def vorticity(self, u: Field, v: Field) -> Tensor:
        """Positive where the fluid turns counterclockwise."""
        return v.x - u.y

    def reference(self) -> Reference:
        """A Fourier-Legendre-ETDRK4 solution, refined until converged."""
        return RayleighTaylorReference(self.rayleigh, self.prandtl, self.horizon)


def start(x: Tensor, y: Tensor) -> Tensor:
    """Give the temperature at t = 0; see `RayleighTaylor`."""
    bent = y - 1 - AMPLITUDE * torch.cos(2 * torch.pi * x)
    below = torch.sigmoid(-2 * bent / THICKNESS)
    return below * torch.tanh(y / THICKNESS) * torch.tanh((2 - y) / THICKNESS)
