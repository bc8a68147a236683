"""Rayleigh–Taylor: walls, budgets, orders of convergence, an honest estimate."""

import numpy as np
import pytest
from numpy.polynomial import Chebyshev
from scipy.optimize import brentq

from dpinn.errors import DpinnError
from dpinn.reference.base import study_of
from dpinn.reference.boussinesq import Channel
from dpinn.reference.rayleigh_taylor import FIELDS, RayleighTaylorReference, start
from dpinn.reference.refine import Resolution, relative_l2

FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""

PLUME = RayleighTaylorReference(rayleigh=1e5, horizon=3.0)
T = np.linspace(0, 3, 61)
X = np.linspace(0, 1, 65)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(120)
Y = np.concatenate([[0.0], NODES + 1, [2.0]])
"""The walls, and nodes that integrate over y exactly."""


@pytest.fixture(scope="module")
def plume() -> dict[str, np.ndarray]:
    """A mushroom at a tenth of the benchmark's Rayleigh number, ``len(T) x len(X) x len(Y)``."""
    return dict(zip(FIELDS, PLUME.solve_at(Resolution(64, 6), T, X, Y), strict=True))


def over_space(values: np.ndarray) -> np.ndarray:
    """Integrate over x (exactly, on a periodic grid) and y (Gauss)."""
    return values[..., :-1, 1:-1].mean(axis=-2) @ WEIGHTS


def along_x(values: np.ndarray) -> np.ndarray:
    waves = 2j * np.pi * np.arange(33)
    waves[-1] = 0
    derivative = np.fft.irfft(waves[:, None] * np.fft.rfft(values[:-1], axis=0), axis=0)
    return np.concatenate([derivative, derivative[:1]])


def along_y(values: np.ndarray) -> np.ndarray:
    """By Chebyshev polynomials, which the solver knows nothing of."""
    fits = (Chebyshev.fit(Y, row, 105, domain=[0, 2]) for row in values)
    return np.array([fit.deriv()(Y) for fit in fits])


def in_time(values: np.ndarray) -> np.ndarray:
    return sum(c * values[k : len(values) - 8 + k] for k, c in enumerate(FIRST)) / T[1]


# --- the flow -------------------------------------------------------------------------------


def test_plume_has_risen_and_turned_over(plume):
    assert plume["v"][-1].max() > 0.4
    assert abs(plume["vorticity"][-1]).max() > 3
    assert plume["T"].min() > -1e-4
    assert plume["T"].max() < 1 + 1e-4


def test_velocity_and_temperature_vanish_at_the_walls(plume):
    for name in ("u", "v", "T"):
        assert not plume[name][..., [0, -1]].any(), name


def test_fields_are_periodic(plume):
    for name, values in plume.items():
        np.testing.assert_array_equal(values[:, 0], values[:, -1], err_msg=name)


def test_start_is_at_rest_with_the_bent_interface(plume):
    np.testing.assert_array_equal(plume["T"][0], start(X[:, None], Y))
    assert not plume["u"][0].any()
    assert not plume["v"][0].any()


def test_velocity_is_free_of_divergence_and_has_the_vorticity(plume):
    u, v = plume["u"][-1], plume["v"][-1]
    assert abs(along_x(u) + along_y(v)).max() < 1e-7 * abs(along_y(v)).max()
    vorticity = along_x(v) - along_y(u)
    assert abs(vorticity - plume["vorticity"][-1]).max() < 1e-7 * abs(vorticity).max()


def test_pressure_has_zero_mean_at_each_time(plume):
    assert abs(over_space(plume["p"])).max() < 1e-12 < abs(plume["p"]).max()


def test_flow_stays_even_about_the_middle_of_the_plume(plume):
    for name, sign in {"u": -1, "v": 1, "T": 1, "p": 1, "vorticity": -1}.items():
        values = plume[name]
        mirrored = sign * values[:, ::-1]
        assert abs(values - mirrored).max() < 1e-10 * abs(values).max(), name


# --- budgets --------------------------------------------------------------------------------


def test_kinetic_energy_grows_by_the_buoyancys_work_less_dissipation(plume):
    energy = over_space(plume["u"] ** 2 + plume["v"] ** 2) / 2
    work = over_space(plume["v"] * plume["T"])
    dissipation = np.sqrt(0.71 / 1e5) * over_space(plume["vorticity"] ** 2)
    balance = in_time(energy) - (work - dissipation)[4:-4]
    assert abs(balance).max() < 1e-7 * work.max()
    assert dissipation.max() > 0.1 * work.max()


def test_temperature_variance_falls_by_conduction(plume):
    temperature = plume["T"]
    falling = -in_time(over_space(temperature**2) / 2)
    late = len(T) - 5
    gradient = along_x(temperature[late]) ** 2 + along_y(temperature[late]) ** 2
    conduction = over_space(gradient) / np.sqrt(0.71 * 1e5)
    assert falling[-1] == pytest.approx(conduction, rel=1e-6)


def test_advection_does_no_work_whatever_the_flow():
    """Of a random state without symmetry: to roundoff, as no product is aliased."""
    channel = Channel(cells=18, modes=16, viscosity=1.0, diffusivity=1.0)
    rng = np.random.default_rng(0)
    state = channel.start(rng.standard_normal((len(channel.y), 18)))
    state[0] = rng.standard_normal((16, 6)) + 1j * rng.standard_normal((16, 6))
    state[0, :, 0] = state[0, :, 0].real
    twice = np.array([1, 2, 2, 2, 2, 2])
    velocity, heat = (twice * (np.conj(state) * channel.nonlinear(state)).real).sum(axis=(1, 2))
    x = np.arange(18) / 18
    _, v, temperature, _, _ = channel.sample(state, x, channel.profiles_at(channel.y))
    work = (v * temperature).mean(axis=0) @ channel.weights
    assert velocity == pytest.approx(work, rel=1e-10)
    assert abs(heat) < 1e-10 * abs(channel.nonlinear(state)).max()


# --- the linear limit -----------------------------------------------------------------------


@pytest.mark.parametrize("wave", [1, 3])
def test_slow_flow_decays_at_the_rates_of_stokes_modes(wave):
    """``k tanh k + q tan q = 0`` for even stream functions, ``k coth k = q cot q`` for odd ones."""
    k = 2 * np.pi * wave
    rates = np.sort(-Channel(12, 32, 1.0, 1.0).linear[0, :, wave])
    gap = 1e-9
    even = [
        brentq(lambda q: k * np.tanh(k) + q * np.tan(q), (n - 0.5) * np.pi + gap, n * np.pi)
        for n in (1, 2, 3)
    ]
    odd = [
        brentq(lambda q: k / np.tanh(k) - q / np.tan(q), n * np.pi + gap, (n + 1) * np.pi - gap)
        for n in (1, 2, 3)
    ]
    exact = np.sort(k**2 + np.square(even + odd))
    np.testing.assert_allclose(rates[:6], exact, rtol=1e-9)


def test_mean_flow_and_heat_decay_at_the_rates_of_the_laplacian():
    linear = Channel(12, 32, 1.0, 1.0).linear
    exact = np.square(np.pi / 2 * np.arange(1, 9))
    np.testing.assert_allclose(np.sort(-linear[0, :, 0])[:8], exact, rtol=1e-9)
    np.testing.assert_allclose(np.sort(-linear[1, :, 2])[:8], exact + (4 * np.pi) ** 2, rtol=1e-9)


# --- convergence ----------------------------------------------------------------------------

SMALL = RayleighTaylorReference(rayleigh=1e4, horizon=2.0)
FEW = (np.linspace(0, 2, 5), np.linspace(0, 1, 17), np.linspace(0, 2, 33))


def errors_of(values: np.ndarray, truth: np.ndarray) -> list[float]:
    """Of each field."""
    return [relative_l2(values[[f]], truth[[f]]) for f in range(len(FIELDS))]


def test_time_error_falls_at_fourth_order_in_all_fields():
    truth = SMALL.solve_at(Resolution(24, 64), *FEW)
    errors = [errors_of(SMALL.solve_at(Resolution(24, n), *FEW), truth) for n in (4, 8, 16)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert ((orders > 3.8) & (orders < 4.2)).all(), (errors, orders)


def test_space_error_falls_faster_than_any_power():
    truth = SMALL.solve_at(Resolution(64, 32), *FEW)
    cells = np.array([16, 24, 32])
    errors = np.array([errors_of(SMALL.solve_at(Resolution(n, 32), *FEW), truth) for n in cells])
    orders = -np.diff(np.log(errors), axis=0) / np.diff(np.log(cells))[:, None]
    velocity = [FIELDS.index(name) for name in ("u", "v", "vorticity")]
    assert (orders[:, velocity] > 10).all(), (errors, orders)
    assert (orders[1] > orders[0] + 1).all(), (errors, orders)


@pytest.mark.parametrize(
    ("reference", "cells"),
    [
        pytest.param(PLUME, 72, id="Ra 1e5"),
        pytest.param(RayleighTaylorReference(1e4, 7.0, 1.0), 72, id="Pr 7"),
        pytest.param(RayleighTaylorReference(), 96, id="benchmark", marks=pytest.mark.slow),
    ],
)
def test_quick_estimate_covers_the_difference_to_a_finer_run(reference, cells):
    solution = reference.solve(quick=True, progress=False)
    t, x, y = solution.t.values, solution.x.values, solution.y.values
    finer = reference.solve_at(Resolution(cells, int(np.ceil(cells * t[1]))), t, x, y)
    solved = np.array([solution[name].values for name in FIELDS])
    assert relative_l2(solved, finer) < solution.error_estimate < 5e-2


def test_solution_is_in_the_problems_order_with_its_study():
    solution = RayleighTaylorReference(1e4, horizon=0.5).solve(quick=True, progress=False)
    assert solution["T"].dims == ("t", "x", "y")
    assert set(solution.data_vars) == set(FIELDS)
    assert [trial.refined for trial in study_of(solution)][:2] == ["start", "space"]
    assert (solution.t[-1], solution.x[-1], solution.y[-1]) == (0.5, 1, 2)


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rayleigh", "prandtl", "horizon"])
def test_parameters_that_are_not_positive_are_refused(name):
    with pytest.raises(DpinnError, match=f"{name} of the reference rayleigh_taylor is 0"):
        RayleighTaylorReference(**{name: 0})


def test_odd_numbers_of_modes_are_refused():
    with pytest.raises(ValueError, match="15 modes"):
        Channel(12, 15, 1.0, 1.0)


def test_the_start_that_is_integrated_is_the_one_that_is_stated():
    channel = Channel(96, 144, 1e-3, 1e-3)
    x, y = np.arange(96) / 96, np.linspace(0, 2, 81)
    state = channel.start(start(x, channel.y[:, None]))
    values = channel.sample(state, x, channel.profiles_at(y))
    found = dict(zip(FIELDS, values, strict=True))
    assert abs(found["T"] - start(x[:, None], y)).max() < 1e-4
    assert not found["u"].any()
    assert not found["v"].any()
