"""The steady lid-driven cavity: Newton's method on the streamfunction, the corners in closed form.

With ``u = ψ_y``, ``v = -ψ_x`` the equation is ``Re (ψ_y Δψ_x - ψ_x Δψ_y) = Δ²ψ``. The part of ψ
that has the boundary values and the jumps at the corners is in closed form (``corner_flow``);
the rest vanishes with its normal derivative on the walls and is found by Galerkin's method with
splines: for every such ``φ``

    ∫ Δψ Δφ / Re + ∫ Δψ (ψ_y φ_x - ψ_x φ_y) = 0 .
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import scipy.linalg
import xarray as xr

from dpinn.errors import DpinnError
from dpinn.reference.base import Array, Reference, Trial, require_positive
from dpinn.reference.corner_flow import Derivatives, corner_pressure, lift
from dpinn.reference.progress import Progress, track
from dpinn.reference.refine import relative_l2
from dpinn.reference.splines import Splines, graded_mesh, solve_galerkin

FIELDS = ("u", "v", "p", "speed")

ELEMENTS = (64, 96, 128, 160)
"""Along each side, of the meshes of the full solution."""
QUICK_ELEMENTS = (32, 48)

SAFETY = 2.0
"""The error estimate over the last change. p, in the cells next to the corners, is the slowest: at
Re 400 its change falls from 3.9e-7 (128 to 160 elements) by 2.1e-7 to 2.4e-8 (192 to 256), so that
2.3e-7 is left at 160, a third of what is stated."""

FIRST_ELEMENTS = 32
"""Of the mesh on which the Reynolds number is raised."""
FIRST_REYNOLDS = 100.0
REYNOLDS_FACTOR = 2.0
"""From one Reynolds number to the next; Newton's method converges from Stokes to 100, and over
steps of this factor to 10⁴."""

DEGREE = 8
GRADING = 3.0
"""See ``graded_mesh``. Measured at Re 5000 with 128 elements: 2.5 leaves ten times the error in p,
3.5 seven times that in u."""
CLAMPED = 2
"""B-splines left out at each end: the streamfunction vanishes there with its slope."""

NEWTON_STEPS = 12
"""Most of one Newton's method; from a good start it takes four."""

NEWTON_TOLERANCE = 1e-9
"""Largest last step of the velocity anywhere; being quadratic, the error left is its square."""
LADDER_TOLERANCE = 1e-2
"""The same, of flows that only start the next one."""


@dataclass(frozen=True)
class LidDrivenCavityReference(Reference):
    """``u·∇u + ∇p = Δu / Re``, ``∇·u = 0`` on [0,1]², the wall y = 1 sliding with u = 1.

    The velocity jumps at both upper corners, where the pressure grows without bound as 1/r. So
    the grid are the midpoints ``(i + ½) / n`` of n x n cells: it holds neither the corners nor the
    walls. Close to a corner every such flow is Taylor's, which is in closed form here, and splines
    on a mesh that is finest at the walls carry the rest. The pressure has zero mean over the grid.

    The estimate is twice the change by the last refinement, in whichever of u, v, p and speed it
    is largest. In the end that is p, in the cells next to the corners: even less its 1/r part it
    depends on the direction from which a corner is approached. The attribute ``solver`` has the
    change of each. Checked against O. Botella and R. Peyret, Comput. Fluids 27 (1998).
    """

    name: ClassVar[str] = "lid_driven_cavity"
    version: ClassVar[int] = 1

    reynolds: float = 5000.0
    """Of the lid's velocity and the side of the square."""

    def __post_init__(self) -> None:
        require_positive(self, "reynolds")

    def solve(self, quick: bool = False, progress: Progress = True) -> xr.Dataset:
        """Solve on finer and finer meshes; the first trial's seconds include raising Re."""
        started = time.perf_counter()
        n = 64 if quick else 256
        midpoints = (np.arange(n) + 0.5) / n
        trials: list[Trial] = []
        coarse = values = None
        begun = started
        for flow in self._flows(QUICK_ELEMENTS if quick else ELEMENTS, progress):
            coarse, values = values, fields_of(flow, midpoints, midpoints)
            change = None if coarse is None else relative_l2(coarse, values)
            kind = "start" if coarse is None else "space"
            trials.append(Trial(kind, flow.resolution, change, time.perf_counter() - begun))
            begun = time.perf_counter()
        assert coarse is not None
        assert values is not None
        changes = [relative_l2(coarse[[k]], values[[k]]) for k in range(len(FIELDS))]
        told = ", ".join(f"{f} by {c:.1e}" for f, c in zip(FIELDS, changes, strict=True))
        return self.dataset(
            {"x": midpoints, "y": midpoints},
            dict(zip(FIELDS, values, strict=True)),
            error_estimate=SAFETY * max(changes),
            solver="Newton's method on the streamfunction, Galerkin with splines, the corner "
            f"singularities in closed form, float64; the last refinement changed {told}",
            resolution=trials[-1].resolution,
            study=trials,
            started=started,
        )

    def solve_at(self, elements: int, x: Array, y: Array, progress: Progress = False) -> Array:
        """Solve on one mesh.

        Args:
            elements: along each side; as few as 16 do at Re 100.
            x: points in [0, 1], in any order.
            y: points in [0, 1]; no pair of both may be an upper corner.
            progress: see ``Reference.solve``.

        Returns:
            ``4 x len(x) x len(y)`` values of u, v, p and speed; p has zero mean over them.

        Raises:
            DpinnError: if Newton's method does not converge: a coarse mesh, a high ``reynolds``.
        """
        (flow,) = self._flows((elements,), progress)
        return fields_of(flow, x, y)

    def _flows(self, meshes: Sequence[int], progress: Progress) -> Iterator[CavityFlow]:
        """Raise the Reynolds number on a coarse mesh, then solve on each of ``meshes``."""
        ladder = reynolds_ladder(self.reynolds)
        total = len(ladder) * FIRST_ELEMENTS**2 + sum(elements**2 for elements in meshes)
        with track(total, f"{self.name}, Re {self.reynolds:g}", progress) as done:
            flow = CavityFlow.start(FIRST_ELEMENTS, ladder[0])
            for reynolds in ladder:
                flow = replace(flow, reynolds=reynolds).solved(LADDER_TOLERANCE)
                done(FIRST_ELEMENTS**2)
            for elements in meshes:
                flow = flow.on(elements).solved()
                done(elements**2)
                yield flow


def reynolds_ladder(reynolds: float) -> list[float]:
    """Give the Reynolds numbers that lead up to one, itself the last.

    Example:
        >>> reynolds_ladder(1000.0)
        [100.0, 200.0, 400.0, 800.0, 1000.0]
    """
    ladder, rung = [], FIRST_REYNOLDS
    while rung < reynolds:
        ladder.append(rung)
        rung *= REYNOLDS_FACTOR
    return [*ladder, reynolds]


def fields_of(flow: CavityFlow, x: Array, y: Array) -> Array:
    """Evaluate u, v, p and speed, ``4 x len(x) x len(y)``; p has zero mean over these points."""
    u, v = flow.velocity(x, y)
    p = flow.pressure(x, y)
    return np.stack([u, v, p - p.mean(), np.hypot(u, v)])


@dataclass(frozen=True, eq=False)
class CavityFlow:
    """A flow that meets the boundary values, and solves the equation once `solved`."""

    splines: Splines
    coefficients: Array
    """``size x size``, of the streamfunction without the lift."""
    reynolds: float

    @classmethod
    def start(cls, elements: int, reynolds: float) -> CavityFlow:
        """Give the lift alone, on a mesh of ``elements x elements``."""
        splines = Splines(graded_mesh(elements, GRADING), DEGREE, CLAMPED)
        return cls(splines, np.zeros((splines.size, splines.size)), reynolds)

    def on(self, elements: int) -> CavityFlow:
        """Give the same flow on another mesh."""
        other = CavityFlow.start(elements, self.reynolds)
        onto = other.splines.project(self.splines, self.coefficients)
        return replace(other, coefficients=onto)

    @property
    def resolution(self) -> str:
        """Readable."""
        elements = len(self.splines.mesh) - 1
        kind = f"elements of degree {self.splines.degree}"
        return f"{elements} x {elements} {kind}, the smallest {self.splines.mesh[1]:.1e} wide"

    def streamfunction(self, x: Array, y: Array) -> Derivatives:
        """Evaluate ψ with its derivatives on ``len(x) x len(y)`` points, without the corners."""
        return lift(x[:, None], y)[0] + self._found(x, y)

    def velocity(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Evaluate u and v on ``len(x) x len(y)`` points."""
        psi = self.streamfunction(x, y)
        return psi.y, -psi.x

    def _found(self, x: Array, y: Array) -> Derivatives:
        """Evaluate the streamfunction without the lift."""
        in_x = [self.splines.basis(x, order) for order in range(3)]
        in_y = [self.splines.basis(y, order) for order in range(3)]
        orders = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
        return Derivatives(*(in_x[a] @ self.coefficients @ in_y[b].T for a, b in orders))

    # --- Newton's method ------------------------------------------------------------------

    def solved(self, tolerance: float = NEWTON_TOLERANCE) -> CavityFlow:
        """Solve the equation from here, until a step changes the velocity by less.

        Raises:
            DpinnError: if Newton's method does not converge.
        """
        flow = self
        for _ in range(NEWTON_STEPS):
            step = flow.newton_step()
            flow = replace(flow, coefficients=flow.coefficients + step)
            tables = self.splines.tables
            change = np.abs(tables[0] @ step @ tables[1].T).max()
            if change < tolerance:
                return flow
        raise DpinnError(
            f"Newton's method for the cavity at Re {self.reynolds:g} does not converge on "
            f"{len(self.splines.mesh) - 1} elements a side (last step {change:.1e})"
        )

    def newton_step(self) -> Array:
        """Give the change of the coefficients by one linearization."""
        points, weights = self.splines.quadrature
        psi, regular = self.streamfunction(points, points), self._regular_laplacian(points, points)
        weighted = np.outer(weights, weights)
        v0, v1, v2 = self.splines.tables

        def tested(values: Array, in_x: Array, in_y: Array) -> Array:
            return np.asarray(in_x.T @ (weighted * values) @ in_y)

        residual = (
            (tested(regular, v2, v0) + tested(regular, v0, v2)) / self.reynolds
            + tested(psi.laplacian * psi.y, v1, v0)
            - tested(psi.laplacian * psi.x, v0, v1)
        )
        return solve_galerkin(self.splines, self._jacobian(psi), -residual)

    def _jacobian(self, psi: Derivatives) -> Array:
        """The derivative of the residual, as ``solve_galerkin`` takes it."""
        pairs = self.splines.pairs
        one = np.full_like(psi.x, 1 / self.reynolds)
        # Orders in x and y of the test function, the same of the unknown, and the factor.
        terms = [((1, 0), (0, 1), psi.laplacian), ((0, 1), (1, 0), -psi.laplacian)]
        for unknown in ((2, 0), (0, 2)):
            terms += [((2, 0), unknown, one), ((0, 2), unknown, one)]
            terms += [((1, 0), unknown, psi.y), ((0, 1), unknown, -psi.x)]
        size = pairs[0][0].shape[0]
        blocks = np.zeros((size, size))
        for (a, c), (b, d), factor in terms:
            blocks += (pairs[c][d] @ (pairs[a][b] @ factor).T).T
        return blocks

    def _regular_laplacian(self, x: Array, y: Array) -> Array:
        """Δψ without that of the two corner flows, which no clamped φ sees."""
        return lift(x[:, None], y)[1] + self._found(x, y).laplacian

    # --- pressure -------------------------------------------------------------------------

    def pressure(self, x: Array, y: Array) -> Array:
        """Evaluate p, up to a constant, on ``len(x) x len(y)`` points.

        The corner flows' pressure is in closed form. The rest solves ``∫ ∇p·∇q`` =
        ``∮ Δψ dq/Re - ∫ (u·∇u)·∇q`` for every spline q, clockwise along the walls, Δψ being
        without the corner flows: the gradient of p nearest in L2 to what the momentum asks.
        """
        splines = Splines(self.splines.mesh, DEGREE)
        points, weights = splines.quadrature
        psi = self.streamfunction(points, points)
        weighted = np.outer(weights, weights)
        force_x = weighted * (psi.x * psi.yy - psi.y * psi.xy)
        force_y = weighted * (psi.y * psi.xx - psi.x * psi.xy)
        v0, v1, _ = splines.tables
        right = v1.T @ force_x @ v0 + v0.T @ force_y @ v1
        ends = np.array([0.0, 1.0])
        along = weights[:, None] * v1
        in_y = self._regular_laplacian(ends, points) @ along / self.reynolds
        in_x = self._regular_laplacian(points, ends).T @ along / self.reynolds
        right[0] += in_y[0]
        right[-1] -= in_y[1]
        right[:, 0] -= in_x[0]
        right[:, -1] += in_x[1]
        mass, stiffness = v0.T @ (weights[:, None] * v0), v1.T @ along
        values, modes = scipy.linalg.eigh(stiffness, mass)
        stiffnesses = np.add.outer(values, values)
        stiffnesses[0, 0] = np.inf  # The constant.
        found = (modes.T @ right @ modes) / stiffnesses
        found = splines.basis(x) @ modes @ found @ modes.T @ splines.basis(y).T
        return np.asarray(found + corner_pressure(x[:, None], y) / self.reynolds)
