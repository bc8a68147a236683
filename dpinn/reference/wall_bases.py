"""Polynomials between two walls at -1 and 1: repeated integrals of the Legendre polynomials.

With ``l_n`` the orthonormal Legendre polynomials, the integral of ``l_1, l_2, ...`` vanishes at
both walls, and the second integral of ``l_2, l_3, ...`` vanishes there with its slope. Such bases
(Shen, SIAM J. Sci. Comput. 15 (1994)) hold the walls' conditions by construction, and their
highest derivatives are orthonormal, so that the matrices of a Galerkin method stay well
conditioned.

Each basis is returned as one array per derivative, the function itself first, of
``points x count``, the even functions before the odd ones.
"""

import numpy as np
from numpy.polynomial.legendre import legvander

from dpinn.reference.base import Array


def free(count: int, points: Array) -> tuple[Array, Array]:
    """The constant and the integrals of ``l_0, l_1, ...``: no condition at the walls."""
    slopes = _orthonormal(count - 1, points)
    values = np.column_stack(
        [np.full(len(points), np.sqrt(0.5)), points * np.sqrt(0.5), _integrals(count - 1, points)]
    )
    return _even_first(values), _even_first(np.pad(slopes, ((0, 0), (1, 0))))


def dirichlet(count: int, points: Array) -> tuple[Array, Array]:
    """The integrals of ``l_1, l_2, ...``: zero at the walls."""
    values, slopes = _integrals(count + 1, points), _orthonormal(count + 1, points)[:, 1:]
    return _even_first(_vanish(values, points)), _even_first(slopes)


def clamped(count: int, points: Array) -> tuple[Array, Array, Array]:
    """The second integrals of ``l_2, l_3, ...``: zero at the walls, and so are their slopes."""
    n = np.arange(2, count + 2.0)
    # The integral of l_n is a difference of two Legendre polynomials; integrate both once more.
    once = _integrals(count + 3, points) / np.sqrt(np.arange(1, count + 3) + 0.5)
    values = np.sqrt(n + 0.5) * (once[:, 2:] - once[:, :-2]) / (2 * n + 1)
    slopes, curvatures = _integrals(count + 2, points)[:, 1:], _orthonormal(count + 2, points)
    return (
        _even_first(_vanish(values, points)),
        _even_first(_vanish(slopes, points)),
        _even_first(curvatures[:, 2:]),
    )


def _orthonormal(count: int, points: Array) -> Array:
    """``l_0, l_1, ...``."""
    return legvander(points, count - 1) * np.sqrt(np.arange(count) + 0.5)


def _integrals(count: int, points: Array) -> Array:
    """The integrals of ``l_1, ..., l_{count-1}`` from the wall at -1."""
    n = np.arange(1, count)
    legendre = legvander(points, count)
    return (legendre[:, 2:] - legendre[:, :-2]) / (2 * n + 1) * np.sqrt(n + 0.5)


def _vanish(values: Array, points: Array) -> Array:
    """Zero at the walls exactly, not to roundoff."""
    return np.where(np.abs(points)[:, None] == 1, 0.0, values)


def _even_first(values: Array) -> Array:
    """Columns of alternating parity, the even ones first."""
    return np.ascontiguousarray(np.concatenate([values[:, ::2], values[:, 1::2]], axis=1))
