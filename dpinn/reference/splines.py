"""B-splines on a graded mesh of [0, 1], and banded Galerkin systems in their products."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

from dpinn.errors import DpinnError
from dpinn.reference.base import Array


def graded_mesh(elements: int, grading: float) -> Array:
    """Give ``elements + 1`` points from 0 to 1, closer to each other towards both ends.

    The elements at the ends are smaller than the one in the middle by ``cosh²(grading)``; a mesh
    of twice the elements has all the points of this one.
    """
    s = np.linspace(-1, 1, elements + 1)
    return (1 + np.tanh(grading * s) / np.tanh(grading)) / 2


@dataclass(frozen=True, eq=False)
class Splines:
    """The piecewise polynomials of one degree on a mesh that are as smooth as that degree allows.

    They are spanned by ``size`` B-splines, of which those left by ``clamped`` at each end vanish
    there with their first ``clamped - 1`` derivatives. A function of two coordinates is its
    coefficients, ``size x size``.
    """

    mesh: Array
    """Points from 0 to 1."""
    degree: int
    clamped: int = 0
    """B-splines left out at each end."""

    @property
    def size(self) -> int:
        """How many B-splines there are."""
        return len(self.mesh) - 1 + self.degree - 2 * self.clamped

    def basis(self, points: Array, derivative: int = 0) -> Array:
        """Evaluate a derivative of every B-spline.

        Args:
            points: ``n`` points in [0, 1].
            derivative: its order, at most the degree.

        Returns:
            ``n x size`` values.
        """
        knots = np.pad(self.mesh, self.degree, mode="edge")
        # A derivative of a spline is one of lower degree, its coefficients are differences.
        differences = np.eye(len(knots) - self.degree - 1)
        degree = self.degree
        for _ in range(derivative):
            width = knots[degree + 1 : -1] - knots[1 : -degree - 1]
            differences = degree * np.diff(differences, axis=0) / width[:, None]
            knots, degree = knots[1:-1], degree - 1
        values = BSpline.design_matrix(points, knots, degree) @ differences
        return values[:, self.clamped : self.clamped + self.size]

    @cached_property
    def quadrature(self) -> tuple[Array, Array]:
        """Gauss points on every element, ``degree + 2`` each, and their weights."""
        nodes, weights = np.polynomial.legendre.leggauss(self.degree + 2)
        lengths = np.diff(self.mesh)[:, None]
        return (self.mesh[:-1, None] + lengths * (nodes + 1) / 2).ravel(), (
            lengths * weights / 2
        ).ravel()

    @cached_property
    def tables(self) -> tuple[Array, Array, Array]:
        """The B-splines with two derivatives at the points of the quadrature."""
        points, _ = self.quadrature
        return self.basis(points), self.basis(points, 1), self.basis(points, 2)

    @cached_property
    def pairs(self) -> list[list[csr_array]]:
        """Products of the derivatives of any two overlapping B-splines, with the weights.

        ``pairs[a][b]`` is sparse, ``(size * (2 degree + 1)) x quadrature points``; its row
        ``i (2 degree + 1) + degree + k - i`` is the a-th derivative of the i-th B-spline times
        the b-th derivative of the k-th.
        """
        points, weights = self.quadrature
        element = np.repeat(np.arange(len(self.mesh) - 1), self.degree + 2)
        local = np.arange(self.degree + 1)
        member = element[:, None] + local - self.clamped
        inside = (member >= 0) & (member < self.size)
        member = np.where(inside, member, 0)
        values = [np.take_along_axis(table, member, 1) * inside for table in self.tables]
        offsets = self.degree + local[None, :] - local[:, None]
        rows = member[:, :, None] * (2 * self.degree + 1) + offsets
        columns = np.broadcast_to(np.arange(len(points))[:, None, None], rows.shape)
        shape = (self.size * (2 * self.degree + 1), len(points))

        def product(a: int, b: int) -> csr_array:
            data = weights[:, None, None] * values[a][:, :, None] * values[b][:, None, :]
            return csr_array((data.ravel(), (rows.ravel(), columns.ravel())), shape=shape)

        return [[product(a, b) for b in range(3)] for a in range(3)]

    def project(self, other: "Splines", coefficients: Array) -> Array:
        """Give the coefficients of the function of ``other`` that is nearest in L2."""
        points, weights = self.quadrature
        weighted = self.tables[0].T * weights
        onto = scipy.linalg.solve(weighted @ self.tables[0], weighted @ other.basis(points))
        return np.asarray(onto @ coefficients @ onto.T)


def solve_galerkin(splines: Splines, blocks: Array, right: Array) -> Array:
    """Solve a Galerkin system by a banded LU factorization with pivots.

    Args:
        splines: of both coordinates.
        blocks: ``(size * (2 degree + 1)) x (size * (2 degree + 1))``, a sum over
            ``pairs[a][b] @ values @ pairs[c][d].T``.
        right: ``size x size``.

    Returns:
        ``size x size`` coefficients.

    Raises:
        DpinnError: if the matrix is singular.
    """
    size, degree = splines.size, splines.degree
    half = degree * (size + 1)
    # As LAPACK has it: below each column's diagonals half a band, for what the pivots fill in.
    diagonals = np.zeros((size, size, 3 * half + 1))
    entries = blocks.reshape(size, 2 * degree + 1, size, 2 * degree + 1)
    for p in range(-degree, degree + 1):
        rows_x, columns_x = _overlap(size, p)
        for q in range(-degree, degree + 1):
            rows_y, columns_y = _overlap(size, q)
            place = 2 * half - p * size - q
            values = entries[rows_x, degree + p, rows_y, degree + q]
            diagonals[columns_x, columns_y, place] = values
    _, _, solution, status = scipy.linalg.lapack.dgbsv(
        half, half, diagonals.reshape(size**2, -1).T, right.ravel(), overwrite_ab=True
    )
    if status != 0:
        raise DpinnError(f"a Galerkin system of {size} x {size} B-splines is singular")
    return np.asarray(solution.reshape(size, size))


def _overlap(size: int, offset: int) -> tuple[slice, slice]:
    """Rows and columns of a matrix in the diagonal where column - row is ``offset``."""
    return (
        slice(max(0, -offset), min(size, size - offset)),
        slice(max(0, offset), min(size, size + offset)),
    )
