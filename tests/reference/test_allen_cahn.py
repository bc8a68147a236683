"""Allen–Cahn: orders of convergence, an honest estimate, and an independent solver."""

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from dpinn.errors import DpinnError
from dpinn.reference import AllenCahnReference
from dpinn.reference.fourier import FourierGrid
from dpinn.reference.refine import Resolution, relative_l2

T = np.linspace(0, 1, 51)
X = np.linspace(-1, 1, 129)


@pytest.fixture(scope="module")
def converged() -> np.ndarray:
    return AllenCahnReference().solve_at(Resolution(4096, 16), T, len(X))[0]


def error(values: np.ndarray, truth: np.ndarray) -> float:
    return relative_l2(values[None], truth[None])


@pytest.mark.parametrize("k", [0, 1, 2, 7, 31, 32])
def test_initial_modes_are_the_fourier_integrals(k):
    exact = quad(
        lambda x: x**2 * np.cos(np.pi * x) * np.cos(np.pi * k * x), 0, 1, epsabs=1e-14, limit=200
    )[0]
    modes = AllenCahnReference().start_modes(FourierGrid((-1.0,), (2.0,), (64,)))
    assert modes[0, k] / 64 == pytest.approx((-1) ** k * exact, abs=1e-13)


def test_space_error_falls_faster_than_any_power(converged):
    solve = AllenCahnReference().solve_at
    errors = [error(solve(Resolution(n, 16), T, len(X))[0], converged) for n in (256, 512, 1024)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders[1] > orders[0] + 2 > 5, (errors, orders)


def test_quick_estimate_covers_the_difference_to_a_much_finer_run(converged):
    solution = AllenCahnReference().solve(quick=True, progress=False)
    assert error(solution.u.values, converged) < solution.error_estimate < 1e-4


@pytest.mark.parametrize(("diffusivity", "reaction"), [(1e-2, 5.0), (1.0, 1.0), (1e-4, 20.0)])
def test_quick_estimate_is_honest_for_other_parameters(diffusivity, reaction):
    reference = AllenCahnReference(diffusivity, reaction)
    solution = reference.solve(quick=True, progress=False)
    finer = reference.solve_at(Resolution(4096, 16), T, len(X))[0]
    assert error(solution.u.values, finer) < solution.error_estimate < 1e-4


def test_equals_an_independent_finite_difference_solver():
    """On [0, 1] with mirrored ends (u is even and periodic), two meshes and Richardson."""
    diffusivity, reaction = 1e-2, 5.0

    def finite_differences(cells: int) -> np.ndarray:
        x = np.linspace(0, 1, cells + 1)

        def rate(t, u):
            mirrored = np.pad(u, 1, mode="reflect")
            u_xx = (mirrored[2:] - 2 * u + mirrored[:-2]) * cells**2
            return diffusivity * u_xx + reaction * (u - u**3)

        start = x**2 * np.cos(np.pi * x)
        run = solve_ivp(
            rate, (0, 1), start, "LSODA", [1.0], rtol=1e-9, atol=1e-11, lband=1, uband=1
        )
        return run.y[:: cells // 64, -1]

    coarse, fine = finite_differences(256), finite_differences(512)
    independent = fine + (fine - coarse) / 3
    spectral = AllenCahnReference(diffusivity, reaction).solve_at(Resolution(1024, 8), T, len(X))[0]
    assert np.abs(spectral[-1, 64:] - independent).max() < 1e-6
    assert np.abs(fine - coarse).max() > 1e-6


def test_solution_is_even_periodic_and_exact_at_the_start(converged):
    np.testing.assert_allclose(converged, converged[:, ::-1], atol=1e-12)
    np.testing.assert_array_equal(converged[1:, 0], converged[1:, -1])
    np.testing.assert_array_equal(converged[0], X**2 * np.cos(np.pi * X))
    assert np.abs(converged).max() <= 1 + 1e-12


def test_parameters_that_are_not_positive_are_refused():
    with pytest.raises(DpinnError, match="diffusivity of the reference allen_cahn is -1"):
        AllenCahnReference(diffusivity=-1)
    with pytest.raises(DpinnError, match="reaction of the reference allen_cahn is 0"):
        AllenCahnReference(reaction=0)
