"""Cole and Hopf's formula against quadrature in many digits, a spectral solver, and the PDE."""

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from dpinn.errors import DpinnError
from dpinn.reference import BurgersReference

PAPER = 0.01 / np.pi
NINTH_POINT = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""


def cole_hopf(t: float, x: float, viscosity: float) -> float:
    """Integrate by mpmath's adaptive Gauss-Legendre rule, in the unscaled variable."""
    with mpmath.workdps(30):
        t, x, nu = mpmath.mpf(t), mpmath.mpf(x), mpmath.mpf(viscosity)
        reach = mpmath.sqrt(4 * nu * t * (1 / (mpmath.pi * nu) + 60))

        def weight(eta):
            y = x - eta
            return mpmath.exp(
                -mpmath.cos(mpmath.pi * y) / (2 * mpmath.pi * nu) - eta**2 / (4 * nu * t)
            )

        # Pieces no longer than half the Gaussian's scale: 33 in all are 2e-9 off at 0.002/π.
        pieces = mpmath.linspace(-reach, reach, 1 + int(4 * reach / mpmath.sqrt(4 * nu * t)))
        above = mpmath.quad(lambda eta: mpmath.sin(mpmath.pi * (x - eta)) * weight(eta), pieces)
        return float(-above / mpmath.quad(weight, pieces))


@pytest.mark.parametrize(
    ("t", "x", "viscosity"),
    [
        (1e-4, 0.3, PAPER),
        (0.005, 0.5, PAPER),
        (0.3, 1e-3, PAPER),
        (0.5, 2e-3, PAPER),
        (0.5, -0.01, PAPER),
        (1.0, 5e-3, PAPER),
        (1.0, 0.9, PAPER),
        (1.0, 0.999, PAPER),
        (0.7, 1e-4, 0.002 / np.pi),
        (0.7, 0.4, 0.5),
    ],
)
def test_equals_adaptive_quadrature_in_thirty_digits(t, x, viscosity):
    computed = BurgersReference(viscosity).values(t, np.array([x]))[0]
    assert abs(computed - cole_hopf(t, x, viscosity)) < 1e-13


def test_steepest_slope_is_that_of_basdevant_and_others():
    """Comput. Fluids 14 (1986): 152.00516 at t = 1.6037 / π."""
    h = 1e-4
    u = BurgersReference(PAPER).values(1.6037 / np.pi, h * np.arange(-4, 5))
    assert abs(NINTH_POINT @ u / h + 152.00516) < 1e-4


@pytest.mark.parametrize("t", [0.1, 0.35, 0.8])
def test_pde_residual_vanishes_away_from_the_shock(t):
    reference, h = BurgersReference(PAPER), 2e-3
    x = np.linspace(0.15, 0.9, 16)
    around_x = np.array([reference.values(t, x + h * k) for k in range(-4, 5)])
    around_t = np.array([reference.values(t + h * k, x) for k in range(-4, 5)])
    u, u_x, u_t = around_x[4], NINTH_POINT @ around_x / h, NINTH_POINT @ around_t / h
    second = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72])
    u_xx = np.concatenate([second, second[3::-1]]) @ around_x / h**2
    assert np.abs(u_t + u * u_x - PAPER * u_xx).max() < 1e-9


def test_equals_an_independent_spectral_solver():
    viscosity, cells = 0.03, 256
    x = -1 + 2 * np.arange(cells) / cells
    k = np.pi * np.fft.rfftfreq(cells, 1 / cells)

    def rate(t, u):
        modes = np.fft.rfft(u)
        u_x, u_xx = np.fft.irfft(1j * k * modes), np.fft.irfft(-(k**2) * modes)
        return -u * u_x + viscosity * u_xx

    times = [0.25, 0.5, 1.0]
    run = solve_ivp(rate, (0, 1), -np.sin(np.pi * x), "DOP853", times, rtol=1e-11, atol=1e-13)
    for column, t in enumerate(times):
        difference = BurgersReference(viscosity).values(t, x) - run.y[:, column]
        assert np.abs(difference).max() < 1e-9


def test_conserves_momentum_but_for_the_flux_through_the_middle():
    """d/dt of the integral of u over [0, 1] is ν (u_x(1) - u_x(0)), as u vanishes at both."""
    reference, h, viscosity = BurgersReference(0.05), 1e-2, 0.05
    nodes, weights = np.polynomial.legendre.leggauss(60)
    momentum = [weights @ reference.values(0.6 + h * k, (nodes + 1) / 2) / 2 for k in range(-4, 5)]
    slope_at_0 = NINTH_POINT @ reference.values(0.6, h * np.arange(-4, 5)) / h
    slope_at_1 = NINTH_POINT @ reference.values(0.6, 1 + h * np.arange(-4, 5)) / h
    assert abs(NINTH_POINT @ momentum / h - viscosity * (slope_at_1 - slope_at_0)) < 1e-8


@pytest.mark.parametrize("t", [1e-300, 1e-12, 1e-7])
def test_is_stable_at_small_times(t):
    x = np.linspace(-1, 1, 65)
    u = BurgersReference().values(t, x)
    assert np.abs(u + np.sin(np.pi * x)).max() < 4 * t + 1e-15


@pytest.mark.parametrize("viscosity", [1e-5, 1e-3, 1.0, 100.0])
def test_is_finite_and_within_the_maximum_principle_at_any_viscosity(viscosity):
    u = BurgersReference(viscosity).values(0.9, np.linspace(-1, 1, 33))
    assert np.abs(u).max() < 1


def test_solution_is_odd_zero_at_the_ends_and_exact_at_the_start():
    seen = []
    solution = BurgersReference().solve(quick=True, progress=lambda *call: seen.append(call))
    u, x = solution.u.values, solution.x.values
    np.testing.assert_array_equal(u, -u[:, ::-1])
    assert not u[:, [0, 64, -1]].any()
    np.testing.assert_array_equal(u[0, 1:-1], np.where(x == 0, 0, -np.sin(np.pi * x))[1:-1])
    assert u.shape == (51, 129)
    assert seen[-1] == (51, 51)


def test_stated_error_covers_the_difference_to_thirty_digits():
    solution = BurgersReference().solve(quick=True, progress=False)
    part = solution.u[15::20, 66::24]
    truth = [[cole_hopf(t, x, PAPER) for x in part.x.values] for t in part.t.values]
    relative = np.linalg.norm(part - truth) / np.linalg.norm(truth)
    assert relative < solution.error_estimate < 1e-13


def test_viscosity_that_is_not_positive_is_refused():
    with pytest.raises(DpinnError, match="viscosity of the reference burgers is 0"):
        BurgersReference(0)
