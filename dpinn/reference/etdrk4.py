"""Exponential time differencing of fourth order for stiff problems in Fourier space.

Cox and Matthews, J. Comput. Phys. 176 (2002), equations 26 to 29; the coefficients by contour
integrals after Kassam and Trefethen, SIAM J. Sci. Comput. 26 (2005).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpinn.errors import DpinnError
from dpinn.reference.fourier import Modes
from dpinn.reference.progress import Progress, track

CONTOUR_POINTS = 32
"""Points on the unit circle around each ``h L``: the mean of an entire function over them is its
value at the centre but for terms of order 1/32!, below float64."""


class ETDRK4:
    """Steps of ``modes_t = linear * modes + nonlinear(modes)``, the linear part solved exactly.

    Args:
        linear: real or complex symbol, ``... x n_1 x ... x n_d/2+1``, broadcastable against modes.
        nonlinear: from modes to modes, without explicit time; the returned array must be new.
        step: the time step ``h``.
    """

    def __init__(
        self,
        linear: NDArray[Any],
        nonlinear: Callable[[Modes], Modes],
        step: float,
    ) -> None:
        self.nonlinear = nonlinear
        self.step = step
        scaled = step * linear
        self.exponential = np.exp(scaled)
        self.half_exponential = np.exp(scaled / 2)
        half, first, middle, last = contour_means(scaled)
        self.half_weight = step * half
        self.first_weight = step * first
        self.middle_weight = 2 * step * middle
        self.last_weight = step * last

    def advance(self, modes: Modes) -> Modes:
        """Take one step."""
        half = self.half_exponential * modes
        start = self.nonlinear(modes)
        a = half + self.half_weight * start
        at_a = self.nonlinear(a)
        b = half + self.half_weight * at_a
        at_b = self.nonlinear(b)
        c = self.half_exponential * a + self.half_weight * (2 * at_b - start)
        at_c = self.nonlinear(c)
        return (
            self.exponential * modes
            + self.first_weight * start
            + self.middle_weight * (at_a + at_b)
            + self.last_weight * at_c
        )


def contour_means(scaled: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Evaluate the four weights of ETDRK4, divided by the step, at ``z = h L``.

    They are ``(exp(z/2) - 1) / z``, ``(-4 - z + exp(z) (4 - 3z + z²)) / z³``,
    ``(2 + z + exp(z) (z - 2)) / z³`` and ``(-4 - 3z - z² + exp(z) (4 - z)) / z³``; all lose every
    digit near ``z = 0`` if computed there, and none if averaged over a circle around it.

    Returns:
        Four arrays shaped like ``scaled``, real if it is real.
    """
    means = [np.zeros(np.shape(scaled), complex) for _ in range(4)]
    # Points off the real axis in conjugate pairs: no imaginary part is left over for a real z.
    angles = 2 * np.pi * (np.arange(CONTOUR_POINTS) + 0.5) / CONTOUR_POINTS
    for point in np.exp(1j * angles):
        z = scaled + point
        exp = np.exp(z)
        means[0] += (np.exp(z / 2) - 1) / z
        means[1] += (-4 - z + exp * (4 - 3 * z + z**2)) / z**3
        means[2] += (2 + z + exp * (z - 2)) / z**3
        means[3] += (-4 - 3 * z - z**2 + exp * (4 - z)) / z**3
    real = np.isrealobj(scaled)
    return tuple((mean.real if real else mean) / CONTOUR_POINTS for mean in means)


def integrate(
    modes: Modes,
    linear: NDArray[Any],
    nonlinear: Callable[[Modes], Modes],
    times: NDArray[np.float64],
    steps: int,
    progress: Progress = False,
    description: str = "ETDRK4",
) -> Iterator[Modes]:
    """Yield the modes at each of ``times``, the start included.

    Args:
        modes: at ``times[0]``, ``fields x n_1 x ... x n_d/2+1``.
        linear: see ``ETDRK4``.
        nonlinear: see ``ETDRK4``.
        times: equispaced.
        steps: time steps between two of them.
        progress: a bar on stderr, nothing, or a function of the steps done and their total.
        description: what the bar is called.

    Raises:
        DpinnError: if the modes are no longer finite, with the time of it.
    """
    intervals = np.diff(times)
    if not np.allclose(intervals, intervals[0], rtol=1e-9, atol=0):
        raise ValueError("times must be equispaced")
    stepper = ETDRK4(linear, nonlinear, (times[-1] - times[0]) / (len(intervals) * steps))
    with track(len(intervals), description, progress) as done:
        yield modes
        for time in times[1:]:
            # A blow-up is told once, below, not by a warning from each of its operations.
            with np.errstate(over="ignore", invalid="ignore"):
                for _ in range(steps):
                    modes = stepper.advance(modes)
            if not np.isfinite(modes).all():
                raise DpinnError(
                    f"{description} is no longer finite at t = {time:.6g} with time steps of "
                    f"{stepper.step:.3g}; it needs smaller ones"
                )
            done(1)
            yield modes
