"""Taylor's viscous flow in a corner of which one wall slides, at both ends of a cavity's lid.

G. I. Taylor, "On scraping viscous fluid from a plane surface" (1962): the velocity jumps at the
corner, so that the vorticity and the pressure grow as 1/r there, in any flow at any Reynolds
number. In polynomials this part cannot be told; here it is in closed form.
"""

from dataclasses import dataclass

import numpy as np

from dpinn.reference.base import Array

SLOPE = 4 / (np.pi**2 - 4)


@dataclass(frozen=True)
class Derivatives:
    """A function of x and y with its derivatives to second order, arrays of one shape."""

    value: Array
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @property
    def laplacian(self) -> Array:
        """``f_xx + f_yy``."""
        return self.xx + self.yy

    def __add__(self, other: "Derivatives") -> "Derivatives":
        mine, theirs = vars(self), vars(other)
        return Derivatives(**{name: mine[name] + theirs[name] for name in mine})

    def __mul__(self, other: "Derivatives") -> "Derivatives":
        f, g = self, other
        return Derivatives(
            f.value * g.value,
            f.x * g.value + f.value * g.x,
            f.y * g.value + f.value * g.y,
            f.xx * g.value + 2 * f.x * g.x + f.value * g.xx,
            f.xy * g.value + f.x * g.y + f.y * g.x + f.value * g.xy,
            f.yy * g.value + 2 * f.y * g.y + f.value * g.yy,
        )


def left_corner(x: Array, y: Array) -> Derivatives:
    """Give Taylor's streamfunction at the corner (0, 1), biharmonic in the quadrant.

    With ``X = x``, ``Y = 1 - y`` and the angle ``θ`` from the lid it is
    ``c (θ X + (π/2) (θ - π/2) Y)``, ``c = 4 / (π² - 4)``: u = 1 on y = 1, u = v = 0 on x = 0.
    The corner itself is excluded.
    """
    X, Y = x, 1 - y
    square = X**2 + Y**2
    angle = np.arctan2(Y, X)
    angle_x, angle_y = -Y / square, -X / square
    angle_xx, angle_xy = 2 * X * Y / square**2, (X**2 - Y**2) / square**2
    lever = X + np.pi / 2 * Y
    return Derivatives(
        SLOPE * (angle * lever - np.pi**2 / 4 * Y),
        SLOPE * (angle_x * lever + angle),
        SLOPE * (angle_y * lever - np.pi / 2 * angle + np.pi**2 / 4),
        SLOPE * (angle_xx * lever + 2 * angle_x),
        SLOPE * (angle_xy * lever - np.pi / 2 * angle_x + angle_y),
        SLOPE * (-angle_xx * lever - np.pi * angle_y),
    )


def right_corner(x: Array, y: Array) -> Derivatives:
    """Give the mirror image at the corner (1, 1)."""
    left = left_corner(1 - x, y)
    return Derivatives(left.value, -left.x, left.y, left.xx, -left.xy, left.yy)


def corner_pressure(x: Array, y: Array) -> Array:
    """Give Re times the pressure of both corner flows, ``∇(Re p) = Δ(u, v)`` of their sum."""
    Y = 1 - y

    def one(X: Array) -> Array:
        return 2 * SLOPE * (X + np.pi / 2 * Y) / (X**2 + Y**2)

    return one(1 - x) - one(x)


def _step(s: Array) -> tuple[Array, Array, Array]:
    """Rise from 0 to 1 with two vanishing derivatives at both; also give its derivatives."""
    return (
        s**3 * (10 - 15 * s + 6 * s**2),
        30 * s**2 * (1 - s) ** 2,
        60 * s * (1 - s) * (1 - 2 * s),
    )


def lift(x: Array, y: Array) -> tuple[Derivatives, Array]:
    """Give a streamfunction with the cavity's boundary values and both its corner singularities.

    It is ``step(y) (step(1-x) left_corner + step(x) right_corner)``; since the two steps in x
    add up to one, the lid's velocity is one, and what is left to be found vanishes with its
    normal derivative on all four walls.

    Returns:
        The streamfunction, and its Laplacian without that of the two corner flows, which are
        biharmonic: it is bounded.
    """
    zero = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    rise, rise_x, rise_xx = (zero + part for part in _step(x))
    up, up_y, up_yy = (zero + part for part in _step(y))
    in_y = Derivatives(up, zero, up_y, zero, zero, up_yy)
    to_right = Derivatives(rise, rise_x, zero, rise_xx, zero, zero)
    to_left = Derivatives(1 - rise, -rise_x, zero, -rise_xx, zero, zero)
    left, right = left_corner(x, y), right_corner(x, y)
    whole = in_y * (to_left * left + to_right * right)
    return whole, whole.laplacian - left.laplacian - right.laplacian
