"""Burgers' equation: Cole and Hopf's formula, its integrals to roundoff."""

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from dpinn.errors import DpinnError
from dpinn.reference.base import Array, Reference, Trial, require_positive
from dpinn.reference.progress import Progress, track
from dpinn.reference.refine import relative_l2

TOLERANCE = 1e-13
"""Largest change of u anywhere, by doubling the nodes, at which the quadrature has converged."""

FIRST_NODES = 128
MOST_NODES = 2**16

STUDIED_TIMES = 8
"""At which the convergence of the quadrature is shown."""

UNDERFLOW = 40.0
"""exp(-40) = 4e-18: what lies further below the largest value of an integrand is nothing."""


@dataclass(frozen=True)
class BurgersReference(Reference):
    """``u_t + u u_x = ν u_xx`` on [0,1]x[-1,1], ``u(0,x) = -sin πx``, u = 0 at both ends.

    With ``f(y) = exp(-cos(πy) / 2πν)`` (Basdevant et al., Comput. Fluids 14 (1986)),

        u(t,x) = -∫ sin π(x-η) f(x-η) exp(-η²/4νt) dη / ∫ f(x-η) exp(-η²/4νt) dη .

    In ``s = η / sqrt(4νt)`` the integrand's logarithm has a curvature between -2-2πt and 2πt-2 for
    every ν: the trapezoidal rule over the whole line converges exponentially with a spacing that
    is independent of ν, t and the shock. Only the range of s grows, as ``1/sqrt(πν)``.
    """

    name: ClassVar[str] = "burgers"
    version: ClassVar[int] = 1

    viscosity: float = 0.01 / np.pi
    """``ν``."""

    def __post_init__(self) -> None:
        require_positive(self, "viscosity")

    def values(self, t: float, x: Array) -> Array:
        """Give u at one time.

        Args:
            t: at least 0.
            x: points in [-1, 1], ``n``-dim array.

        Returns:
            ``n``-dim array, odd in x to the last bit.

        Raises:
            DpinnError: if the quadrature does not converge, which takes a viscosity below 1e-8.
        """
        return self._converged(t, x)[0]

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Evaluate the formula on the grid, at every time with as many nodes as it needs."""
        started = time.perf_counter()
        t = np.linspace(0, 1, 51 if quick else 201)
        x = np.linspace(-1, 1, 129 if quick else 1025)
        u = np.empty((len(t), len(x)))
        most_nodes, change = 0, 0.0
        study = self._study(t[1:], x)
        with track(len(t), self.name, progress) as done:
            for row, moment in enumerate(t):
                u[row], row_nodes, row_change = self._converged(float(moment), x)
                most_nodes, change = max(most_nodes, row_nodes), max(change, row_change)
                done(1)
        root_mean_square = float(np.sqrt(np.mean(u**2)))
        return self.dataset(
            {"t": t, "x": x},
            {"u": u},
            error_estimate=(change + self._roundoff()) / root_mean_square,
            solver="Cole-Hopf formula, trapezoidal rule doubled until it changes by less than "
            f"{TOLERANCE:.0e}",
            resolution=f"up to {most_nodes} quadrature nodes a point",
            started=started,
            study=study,
        )

    def _study(self, t: Array, x: Array) -> list[Trial]:
        """Double the nodes of all quadratures, at a few times, until nothing changes."""
        tolerance = max(TOLERANCE, self._roundoff())
        some = t[:: max(1, len(t) // STUDIED_TIMES)]
        trials: list[Trial] = []
        coarse, nodes = None, FIRST_NODES // 4
        while coarse is None or trials[-1].change is None or trials[-1].change > tolerance:
            started = time.perf_counter()
            u = np.array([self._quadrature(float(moment), np.abs(x), nodes) for moment in some])
            change = None if coarse is None else relative_l2(coarse[None], u[None])
            seconds = time.perf_counter() - started
            trials.append(Trial("quadrature", f"{nodes} nodes a point", change, seconds))
            coarse, nodes = u, 2 * nodes
            if nodes > MOST_NODES:
                break
        return trials

    def _roundoff(self) -> float:
        """Bound the effect on u of rounding the exponents, whose size is ``1/πν``."""
        return float(np.finfo(float).eps * (1 + 1 / (np.pi * self.viscosity)))

    def _converged(self, t: float, x: Array) -> tuple[Array, int, float]:
        """Return u, the number of nodes, and the change by the last doubling of them."""
        if t == 0:
            return _exact_ends(x, -np.sin(np.pi * x)), 0, 0.0
        tolerance = max(TOLERANCE, self._roundoff())
        distance = np.abs(x)
        nodes = FIRST_NODES
        u = self._quadrature(t, distance, nodes)
        while nodes < MOST_NODES:
            nodes *= 2
            coarse, u = u, self._quadrature(t, distance, nodes)
            change = float(np.max(np.abs(u - coarse), initial=0.0))
            if change <= tolerance:
                return _exact_ends(x, np.copysign(1.0, x) * u), nodes, change
        raise DpinnError(
            f"the Cole-Hopf quadrature does not converge with {nodes} nodes at viscosity "
            f"{self.viscosity:g} and t = {t:g}; use a larger viscosity"
        )

    def _quadrature(self, t: float, x: Array, nodes: int) -> Array:
        """Evaluate the quotient of the integrals, with ``nodes`` intervals of the same length."""
        viscosity = self.viscosity
        scale = np.sqrt(4 * viscosity * t)
        # Beyond it the Gaussian is nothing even against f's largest possible growth, exp(1/πν).
        reach = np.sqrt(1 / (np.pi * viscosity) + UNDERFLOW)
        s = np.linspace(-reach, reach, nodes + 1)
        u = np.empty(len(x))
        block = max(1, 2**18 // nodes)
        for first in range(0, len(x), block):
            y = x[first : first + block, None] - scale * s
            # -cos πy = 1 - 2 cos²(πy/2): the constant cancels in the quotient and with it the
            # overflow of f; what is left is shifted by its maximum against underflow.
            exponent = -(np.cos(np.pi * y / 2) ** 2 / (np.pi * viscosity) + s**2)
            weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
            weighted = np.sum(np.sin(np.pi * y) * weight, axis=1)
            u[first : first + block] = -weighted / np.sum(weight, axis=1)
        return u


def _exact_ends(x: Array, u: Array) -> Array:
    """Set u to zero where it is zero by symmetry."""
    return np.where((np.abs(x) == 1) | (x == 0), 0.0, u)
