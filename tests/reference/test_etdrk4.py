"""ETDRK4 against solutions that are known: its order, its coefficients, its limits."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest

from dpinn.errors import DpinnError
from dpinn.reference.etdrk4 import ETDRK4, contour_means, integrate
from dpinn.reference.fourier import FourierGrid


def last(history):
    for modes in history:
        final = modes
    return final


def soliton_error(cells: int, steps: int) -> float:
    """The largest error for a KdV soliton, u_t + u u_x + u_xxx = 0, after one unit of time."""
    grid = FourierGrid((-30.0,), (60.0,), (cells,))
    symbol = grid.derivative(0)

    def soliton(t):
        x = (grid.points[0] - 4 * t + 30) % 60 - 30
        return 12 / np.cosh(x) ** 2

    final = last(
        integrate(
            grid.to_modes(soliton(0)),
            -grid.derivative(0, 3),
            lambda modes: -0.5 * symbol * grid.to_modes(grid.to_values(modes) ** 2),
            np.linspace(0, 1, 2),
            steps,
        )
    )
    return float(np.abs(grid.to_values(final) - soliton(1)).max())


@pytest.mark.parametrize(
    "z", [0, 1e-9, -1e-4, -0.3, -1, 2.5, -40, -1e6, 1e-5j, 3j, 250j, -5 + 100j]
)
def test_contour_means_equal_the_formulas_in_ninety_digits(z):
    computed = [mean[0] for mean in contour_means(np.array([z]))]
    with mpmath.workdps(90):
        w = mpmath.mpmathify(z) if z else mpmath.mpf(10) ** -20
        e = mpmath.exp(w)
        exact = [
            (mpmath.exp(w / 2) - 1) / w,
            (-4 - w + e * (4 - 3 * w + w**2)) / w**3,
            (2 + w + e * (w - 2)) / w**3,
            (-4 - 3 * w - w**2 + e * (4 - w)) / w**3,
        ]
        exact = [complex(value) for value in exact]
    np.testing.assert_allclose(computed, exact, rtol=1e-13, atol=3e-15)


def test_weights_of_a_real_symbol_are_real():
    assert all(np.isrealobj(mean) for mean in contour_means(np.array([-1.0, 0.0])))


@pytest.mark.parametrize("steps", [1, 7])
def test_linear_part_is_exact_at_any_step(steps):
    grid = FourierGrid((0.0, 0.0), (2 * np.pi, 2 * np.pi), (8, 8))
    x, y = grid.points
    start = np.stack([np.sin(2 * x + y), np.cos(3 * y) + 0 * x])
    final = last(
        integrate(grid.to_modes(start), grid.laplacian, np.zeros_like, np.linspace(0, 1, 3), steps)
    )
    truth = start * np.exp([-5.0, -9.0])[:, None, None]
    np.testing.assert_allclose(grid.to_values(final), truth, atol=1e-15)


def test_error_of_a_stiff_scalar_falls_at_fourth_order_until_roundoff():
    """u' = -50 u + 50 (1 + u²)/2 with u(0) = 0 has the solution 1 - 1 / (1 + 25 t)."""
    errors = []
    for steps in 2 ** np.arange(4, 14):
        stepper = ETDRK4(np.array([-50.0]), lambda u: 25.0 * (1 + u**2) + 0j, step=1 / int(steps))
        u = np.zeros(1, complex)
        for _ in range(steps):
            u = stepper.advance(u)
        errors.append(abs(u[0] - (1 - 1 / 26)))
    assert errors[-1] < 1e-13
    orders = [np.log2(a / b) for a, b in pairwise(errors) if b > 1e-12]
    assert len(orders) >= 3
    assert all(3.7 < order < 5 for order in orders[2:])


def test_error_of_a_soliton_falls_at_fourth_order():
    errors = [soliton_error(512, steps) for steps in (400, 800, 1600)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert ((orders > 3.8) & (orders < 4.3)).all(), (errors, orders)


def test_error_of_a_soliton_falls_exponentially_in_space():
    errors = [soliton_error(cells, 3200) for cells in (96, 128, 160, 192)]
    digits = -np.diff(np.log10(errors))
    assert (digits > 0.7).all(), errors
    assert errors[-1] < 1e-4


def test_two_coupled_fields_in_two_dimensions():
    """Diffusion of a pair of fields that turns into each other at rate 3."""
    grid = FourierGrid((0.0, 0.0), (2 * np.pi, 2 * np.pi), (8, 8))
    x, y = grid.points
    shape = np.cos(x + 2 * y)
    final = last(
        integrate(
            grid.to_modes(np.stack([shape, 0 * shape])),
            0.1 * grid.laplacian,
            lambda modes: 3 * np.stack([-modes[1], modes[0]]),
            np.linspace(0, 1, 2),
            400,
        )
    )
    truth = np.exp(-0.5) * np.stack([np.cos(3) * shape, np.sin(3) * shape])
    np.testing.assert_allclose(grid.to_values(final), truth, atol=1e-9)


def test_start_and_every_time_are_yielded_and_progress_told():
    seen = []
    history = list(
        integrate(
            np.ones(1, complex),
            np.array([-1.0]),
            np.zeros_like,
            np.linspace(0, 2, 5),
            3,
            lambda *call: seen.append(call),
        )
    )
    np.testing.assert_allclose(np.ravel(history), np.exp(-np.linspace(0, 2, 5)), rtol=1e-14)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_blow_up_is_an_error_that_names_the_time():
    with pytest.raises(DpinnError, match=r"growth is no longer finite at t = 0\.5 with time steps"):
        last(
            integrate(
                np.full(1, 10 + 0j),
                np.array([1.0]),
                lambda u: u**5,
                np.linspace(0, 1, 3),
                4,
                description="growth",
            )
        )


def test_unequal_times_are_refused():
    with pytest.raises(ValueError, match="equispaced"):
        next(integrate(np.ones(1, complex), np.zeros(1), np.zeros_like, np.array([0, 1, 3.0]), 1))
