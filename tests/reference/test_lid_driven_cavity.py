"""The cavity: published values, symmetries, an honest estimate, and what is in closed form."""

import functools
import itertools

import numpy as np
import pytest

from dpinn.errors import DpinnError
from dpinn.reference.base import study_of
from dpinn.reference.corner_flow import corner_pressure, left_corner, lift, right_corner
from dpinn.reference.lid_driven_cavity import (
    FIRST_ELEMENTS,
    CavityFlow,
    LidDrivenCavityReference,
    reynolds_ladder,
)
from dpinn.reference.refine import relative_l2
from dpinn.reference.splines import Splines, graded_mesh

FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""
MIDPOINTS = (np.arange(64) + 0.5) / 64
STEP = 5e-3


@functools.cache
def quick(reynolds: float):
    return LidDrivenCavityReference(reynolds).solve(quick=True, progress=False)


@functools.cache
def solve(elements: int, reynolds: float = 100.0) -> np.ndarray:
    return LidDrivenCavityReference(reynolds).solve_at(elements, MIDPOINTS, MIDPOINTS)


@functools.cache
def at_reynolds_1000() -> CavityFlow:
    (flow,) = LidDrivenCavityReference(1000.0)._flows((64,), False)
    return flow


# --- published values -----------------------------------------------------------------------


@pytest.mark.slow
def test_reynolds_1000_has_the_extremes_of_botella_and_peyret():
    """Their tables 1 and 9 (Computers & Fluids 27, 1998), with the lid to the right."""
    along, half = np.linspace(0.01, 0.99, 4001), np.array([0.5])
    u, _ = at_reynolds_1000().velocity(half, along)
    _, v = at_reynolds_1000().velocity(along, half)
    assert u.min() == pytest.approx(-0.3885698, abs=2e-6)
    assert v.max() == pytest.approx(0.3769447, abs=2e-6)
    assert v.min() == pytest.approx(-0.5270771, abs=2e-6)
    assert along[u.argmin()] == pytest.approx(0.1717, abs=3e-4)
    assert along[v.argmax()] == pytest.approx(0.1578, abs=3e-4)
    assert along[v.argmin()] == pytest.approx(0.9092, abs=3e-4)


@pytest.mark.slow
def test_reynolds_1000_has_the_primary_vortex_of_botella_and_peyret():
    along = np.linspace(0.5, 0.6, 801)
    psi = at_reynolds_1000().streamfunction(along, along)
    centre = np.unravel_index(psi.value.argmin(), psi.value.shape)
    assert psi.value[centre] == pytest.approx(-0.1189366, abs=2e-7)
    assert -psi.laplacian[centre] == pytest.approx(-2.067753, abs=2e-4)
    assert along[list(centre)] == pytest.approx([0.5308, 0.5652], abs=2e-4)


# --- the equation's properties --------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "u_wall"),
    [
        (np.linspace(0.001, 0.999, 50), np.array([1.0]), 1.0),
        (np.linspace(0, 1, 50), np.array([0.0]), 0.0),
        (np.array([0.0, 1.0]), np.linspace(0, 0.999, 50), 0.0),
    ],
    ids=["lid", "bottom", "sides"],
)
def test_boundary_values_are_met(x, y, u_wall):
    u, v, p, speed = LidDrivenCavityReference(100.0).solve_at(32, x, y)
    np.testing.assert_allclose(u, u_wall, rtol=0, atol=1e-11)
    np.testing.assert_allclose(v, 0, rtol=0, atol=1e-11)
    np.testing.assert_allclose(speed, u_wall, rtol=0, atol=1e-11)
    assert np.isfinite(p).all()


def test_divergence_vanishes_by_an_independent_difference():
    patch = 0.3 + STEP * np.arange(80)
    u, v, _, _ = LidDrivenCavityReference(100.0).solve_at(32, patch, patch + 0.2)
    u_x = np.apply_along_axis(np.convolve, 0, u, -FIRST, "valid")[:, 4:-4] / STEP
    v_y = np.apply_along_axis(np.convolve, 1, v, -FIRST, "valid")[4:-4] / STEP
    assert np.abs(u_x).max() > 0.1
    assert np.abs(u_x + v_y).max() < 1e-8


def test_slow_flow_is_symmetric():
    u, v, p, _ = solve(32, reynolds=1e-3)
    np.testing.assert_allclose(u, u[::-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(v, -v[::-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(p, -p[::-1], rtol=0, atol=1e-5 * np.abs(p).max())
    assert np.abs(solve(32)[0] - solve(32)[0][::-1]).max() > 1e-2


# --- convergence ----------------------------------------------------------------------------


def test_error_falls_with_the_mesh():
    errors = [relative_l2(solve(elements), solve(48)) for elements in (12, 18, 27, 38)]
    assert all(fine < coarse / 3 for coarse, fine in itertools.pairwise(errors)), errors
    assert errors[-1] < 1e-4, errors


@pytest.mark.parametrize(("reynolds", "most"), [(1.0, 1e-5), (200.0, 1e-2)])
def test_quick_estimate_covers_the_difference_to_a_finer_solve(reynolds, most):
    solution = quick(reynolds)
    values = np.stack([solution[name] for name in ("u", "v", "p", "speed")])
    assert relative_l2(values, solve(60, reynolds)) < solution.error_estimate < most


@pytest.mark.slow
def test_estimate_covers_the_difference_to_a_finer_solve(monkeypatch):
    monkeypatch.setattr("dpinn.reference.lid_driven_cavity.ELEMENTS", (48, 64, 80))
    reference = LidDrivenCavityReference(1000.0)
    solution = reference.solve(progress=False)
    x = solution.x.values
    values = np.stack([solution[name] for name in ("u", "v", "p", "speed")])
    assert relative_l2(values, reference.solve_at(112, x, x)) < solution.error_estimate < 1e-4


def test_solution_states_how_it_was_made():
    solution = quick(100.0)
    assert list(solution.data_vars) == ["u", "v", "p", "speed"]
    assert solution.u.dims == ("x", "y")
    np.testing.assert_array_equal(solution.x, MIDPOINTS)
    np.testing.assert_allclose(solution.speed, np.hypot(solution.u, solution.v))
    assert abs(solution.p.mean()) < 1e-15
    first, last = study_of(solution)
    assert (first.refined, first.change, last.refined) == ("start", None, "space")
    assert last.change == pytest.approx(solution.error_estimate / 2)
    assert solution.resolution == last.resolution
    assert solution.resolution.startswith("48 x 48 elements of degree 8")


def test_progress_ends_at_its_total():
    calls = []
    LidDrivenCavityReference(150.0).solve_at(
        16, MIDPOINTS, MIDPOINTS, lambda *done: calls.append(done)
    )
    rungs = FIRST_ELEMENTS**2
    total = 2 * rungs + 16**2
    assert calls == [(rungs, total), (2 * rungs, total), (total, total)]


def test_reynolds_number_is_raised_to_the_wanted_one():
    assert reynolds_ladder(1000.0) == [100.0, 200.0, 400.0, 800.0, 1000.0]
    assert reynolds_ladder(200.0) == [100.0, 200.0]
    assert reynolds_ladder(7.0) == [7.0]


@pytest.mark.parametrize("reynolds", [0.0, -1.0, float("nan"), float("inf")])
def test_reynolds_numbers_that_are_not_positive_are_refused(reynolds):
    with pytest.raises(DpinnError, match="reynolds of the reference lid_driven_cavity is"):
        LidDrivenCavityReference(reynolds)


def test_mesh_that_does_not_resolve_the_flow_is_told():
    with pytest.raises(DpinnError, match="Re 100000 does not converge on 16 elements a side"):
        CavityFlow.start(16, 1e5).solved()


# --- the corners ----------------------------------------------------------------------------


@pytest.mark.parametrize("corner", [left_corner, right_corner])
def test_derivatives_of_the_corner_flow_are_differences_of_its_values(corner):
    x, y, h = np.linspace(0.2, 0.8, 7)[:, None], np.linspace(0.1, 0.8, 8), 1e-3
    psi = corner(x, y)
    in_x = [corner(x + h * k, y) for k in range(-4, 5)]
    in_y = [corner(x, y + h * k) for k in range(-4, 5)]
    for name, of in {"x": "value", "xx": "x", "xy": "y"}.items():
        difference = sum(w * vars(f)[of] for w, f in zip(FIRST, in_x, strict=True)) / h
        np.testing.assert_allclose(vars(psi)[name], difference, rtol=0, atol=1e-10)
    for name, of in {"y": "value", "yy": "y", "xy": "x"}.items():
        difference = sum(w * vars(f)[of] for w, f in zip(FIRST, in_y, strict=True)) / h
        np.testing.assert_allclose(vars(psi)[name], difference, rtol=0, atol=1e-10)


def test_corner_flow_is_stokes_flow_with_its_pressure():
    """``Δu = ∂_y Δψ`` and ``Δv = -∂_x Δψ`` are the pressure's gradient."""
    x, y, h = np.linspace(0.2, 0.8, 7)[:, None], np.linspace(0.1, 0.8, 8), 1e-3

    def gradient(function):
        steps = list(zip(FIRST / h, h * np.arange(-4, 5), strict=True))
        in_x = sum(w * function(x + step, y) for w, step in steps)
        return in_x, sum(w * function(x, y + step) for w, step in steps)

    p_x, p_y = gradient(corner_pressure)
    of_x, of_y = gradient(lambda x, y: left_corner(x, y).laplacian + right_corner(x, y).laplacian)
    np.testing.assert_allclose(p_x, of_y, rtol=0, atol=1e-9)
    np.testing.assert_allclose(p_y, -of_x, rtol=0, atol=1e-9)


def test_lift_has_the_boundary_values_and_both_singularities():
    inner, ends = np.linspace(1e-4, 1 - 1e-4, 60), np.array([0.0, 1.0])
    across, _ = lift(inner[:, None], ends)
    np.testing.assert_allclose(across.value, 0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(across.y, np.broadcast_to([0.0, 1.0], (60, 2)), rtol=0, atol=1e-14)
    along, _ = lift(ends[:, None], inner)
    np.testing.assert_allclose(along.value, 0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(along.x, 0, rtol=0, atol=1e-14)
    near, regular = lift(inner[:1, None], inner[-1:])
    assert abs(near.laplacian.item()) > 1e3 > 100 * abs(regular.item())


# --- splines --------------------------------------------------------------------------------


def test_splines_hold_polynomials_with_their_derivatives():
    splines = Splines(graded_mesh(9, 2.0), degree=4)
    points, weights = splines.quadrature
    mass = (splines.tables[0].T * weights) @ splines.tables[0]
    coefficients = np.linalg.solve(mass, splines.tables[0].T @ (weights * points**4))
    x = np.linspace(0, 1, 33)
    for order, values in enumerate((x**4, 4 * x**3, 12 * x**2, 24 * x)):
        np.testing.assert_allclose(
            splines.basis(x, order) @ coefficients, values, rtol=0, atol=1e-7
        )


def test_clamped_splines_vanish_at_the_ends_with_their_slope():
    splines = Splines(graded_mesh(9, 2.0), degree=4, clamped=2)
    ends = np.array([0.0, 1.0])
    assert splines.basis(ends).shape == (2, splines.size) == (2, 9)
    np.testing.assert_allclose(splines.basis(ends), 0, atol=1e-14)
    np.testing.assert_allclose(splines.basis(ends, 1), 0, atol=1e-12)
    assert np.abs(splines.basis(ends, 2)).max() > 1


def test_refined_mesh_holds_the_same_spline():
    coarse, fine = (Splines(graded_mesh(n, 2.0), degree=4, clamped=2) for n in (6, 12))
    coefficients = np.random.default_rng(0).normal(size=(coarse.size, coarse.size))
    onto = fine.project(coarse, coefficients)
    values = coarse.basis(MIDPOINTS) @ coefficients @ coarse.basis(MIDPOINTS).T
    again = fine.basis(MIDPOINTS) @ onto @ fine.basis(MIDPOINTS).T
    np.testing.assert_allclose(again, values, rtol=0, atol=1e-10)
