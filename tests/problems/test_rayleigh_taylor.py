"""Rayleigh–Taylor vanishes on its spectral solution, and only on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpinn.errors import DpinnError
from dpinn.jet import Field
from dpinn.problem import Condition, Problem
from dpinn.problems.rayleigh_taylor import RayleighTaylor
from dpinn.problems.rayleigh_taylor import start as start_of_problem
from dpinn.reference.boussinesq import Channel
from dpinn.reference.etdrk4 import integrate
from dpinn.reference.rayleigh_taylor import FIELDS, RayleighTaylorReference
from dpinn.reference.rayleigh_taylor import start as start_of_reference
from dpinn.reference.refine import Resolution

FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""
SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])
"""Central second difference of eighth order."""

RAYLEIGH, PRANDTL, HORIZON = 3e4, 0.71, 2.4
T = np.linspace(0, HORIZON, 49)
X = np.arange(64) / 64
Y = np.linspace(0, 2, 129)
LATEST = slice(-17, None)
"""Enough times for the difference at twice the spacing."""

Solution = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def plume() -> Solution:
    """The benchmark at a low Rayleigh number, ``times x X x Y`` each."""
    solver = RayleighTaylorReference(RAYLEIGH, PRANDTL, HORIZON)
    values = solver.solve_at(Resolution(64, 3), T, X, Y)
    return dict(zip(FIELDS, values[:, LATEST], strict=True))


@pytest.fixture(scope="module")
def leaning() -> Solution:
    """A plume without symmetry, which drives a mean flow along the walls."""
    channel = Channel(64, 96, np.sqrt(PRANDTL / RAYLEIGH), 1 / np.sqrt(PRANDTL * RAYLEIGH))
    y = channel.y[:, None]
    shift = 0.1 * np.cos(2 * np.pi * X) + 0.1 * np.sin(4 * np.pi * X) * np.sin(np.pi * y)
    warm = channel.start(start_of_reference(np.full_like(X, 0.25), y - shift * y * (2 - y)))
    history = integrate(warm, channel.linear, channel.nonlinear, T, 3)
    at = channel.profiles_at(Y)
    values = np.array([channel.sample(state, X, at) for state in list(history)[LATEST]])
    return dict(zip(FIELDS, values.swapaxes(0, 1), strict=True))


def differences(weights: np.ndarray, values: np.ndarray, axis: int, stride: int) -> np.ndarray:
    """Apply a central difference over neighbours ``stride`` apart; meaningless near the ends."""
    return sum(w * np.roll(values, stride * (4 - k), axis) for k, w in enumerate(weights))


def terms_of(
    problem: Problem, condition: Condition, solution: Solution, stride: int = 1,
    interval: float = T[1],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Put a solution with differences for derivatives through a condition of the problem.

    At the middle of 17 times, away from the walls.
    """
    wave = 2j * np.pi * np.fft.rfftfreq(len(X), 1 / len(X))[:, None]
    wave[-1] = 0
    inside, middle = slice(8, -8), 8

    def interior(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values[:, inside].ravel())

    fields = {}
    for name in problem.fields:
        history = solution[name]
        now, waves = history[middle], np.fft.rfft(history[middle], axis=0)
        in_time = differences(FIRST, history, 0, stride)[middle] / (stride * interval)
        once = differences(FIRST, now, 1, stride) / (stride * Y[1])
        twice = differences(SECOND, now, 1, stride) / (stride * Y[1]) ** 2
        along = np.fft.irfft(wave * waves, len(X), axis=0)
        along_twice = np.fft.irfft(wave**2 * waves, len(X), axis=0)
        known = {
            (1, 0, 0): interior(in_time),
            (0, 1, 0): interior(along),
            (0, 0, 1): interior(once),
            "laplacian": interior(along_twice + twice),
        }
        fields[name] = Field(name, interior(now), ("t", "x", "y"), known)
    t, x, y = np.broadcast_arrays(T[LATEST][middle], X[:, None], Y[inside])
    points = torch.tensor(np.stack([t.ravel(), x.ravel(), y.ravel()], axis=1))
    return {k: v.numpy() for k, v in problem.evaluate(condition, fields, points).items()}


def residuals(problem: Problem, solution: Solution, stride: int = 1) -> dict[str, float]:
    """The largest residual of each equation; the largest terms in them are of order 1."""
    terms = terms_of(problem, problem.conditions[0], solution, stride)
    return {name: float(abs(values).max()) for name, values in terms.items()}


PROBLEM = RayleighTaylor(RAYLEIGH, PRANDTL, HORIZON)
EQUATIONS = {"momentum_x", "momentum_y", "continuity", "energy"}
TIMED = ("momentum_x", "momentum_y", "energy")
"""Those that hold a derivative in time."""


@pytest.mark.parametrize("flow", ["plume", "leaning"])
def test_residuals_vanish_on_the_spectral_solution(flow, request):
    solution = request.getfixturevalue(flow)
    sizes = residuals(PROBLEM, solution)
    assert set(sizes) == EQUATIONS
    assert max(sizes.values()) < 1e-6, sizes


def test_residuals_fall_at_the_order_of_the_differences(plume):
    coarse, fine = residuals(PROBLEM, plume, stride=2), residuals(PROBLEM, plume)
    for name in EQUATIONS:  # Eighth order gives 2**8 in the limit.
        assert coarse[name] > 2**6 * fine[name], (name, coarse[name], fine[name])


def test_leaning_plume_drives_a_mean_flow(leaning, plume):
    assert abs(leaning["u"].mean(axis=1)).max() > 1e-2
    assert abs(plume["u"].mean(axis=1)).max() < 1e-12


class Upside(RayleighTaylor):
    """Buoyancy of the wrong sign."""

    def residual(self, u, v, T, p):
        terms = super().residual(u, v, T, p)
        return {**terms, "momentum_y": terms["momentum_y"] + 2 * T}


@pytest.mark.parametrize(
    ("other", "equation", "size"),
    [
        (Upside(RAYLEIGH, PRANDTL, HORIZON), "momentum_y", 1.0),
        (RayleighTaylor(1.1 * RAYLEIGH, PRANDTL, HORIZON), "momentum_x", 1e-3),
        (RayleighTaylor(1.1 * RAYLEIGH, PRANDTL, HORIZON), "energy", 1e-3),
        (RayleighTaylor(RAYLEIGH, 1.1 * PRANDTL, HORIZON), "momentum_y", 1e-3),
    ],
    ids=["buoyancy of the wrong sign", "Ra + 10%, momentum", "Ra + 10%, heat", "Pr + 10%"],
)
def test_solution_of_another_problem_does_not_vanish(other, equation, size, plume):
    assert residuals(other, plume)[equation] > size


def test_vorticity_is_that_of_the_reference(plume):
    (quantity,) = PROBLEM.quantities
    vorticity = terms_of(PROBLEM, quantity, plume)["vorticity"]
    expected = plume["vorticity"][8, :, 8:-8].ravel()
    assert abs(vorticity - expected).max() < 1e-7 * abs(expected).max()


def test_start_is_the_same_in_problem_and_reference():
    x, y = np.meshgrid(np.linspace(0, 1, 33), np.linspace(0, 2, 65), indexing="ij")
    start = start_of_problem(torch.tensor(x), torch.tensor(y)).numpy()
    np.testing.assert_allclose(start, start_of_reference(x, y), rtol=0, atol=1e-15)


def test_walls_are_both_walls_with_no_slip_and_no_warmth():
    (walls,) = (c for c in PROBLEM.conditions if c.name == "walls")
    assert walls.places == ({"y": 0.0}, {"y": 2.0})
    assert walls.terms == ("wall_u", "wall_v", "wall_T")


def test_parameters_reach_domain_and_reference():
    assert PROBLEM.domain["t"] == (0, HORIZON)
    assert RayleighTaylor().domain["t"] == RayleighTaylor.domain["t"]
    assert PROBLEM.reference() == RayleighTaylorReference(RAYLEIGH, PRANDTL, HORIZON)


@pytest.mark.parametrize("bad", [{"rayleigh": -1.0}, {"prandtl": 0.0}, {"horizon": 0.0}], ids=str)
def test_parameters_that_are_not_positive_are_named(bad):
    (name,) = bad
    with pytest.raises(DpinnError, match=f"{name} of the reference rayleigh_taylor"):
        RayleighTaylor(**bad)


def test_residuals_fall_at_the_order_of_the_time_steps():
    """One step between stored times: what is left is the solver's own error, of fourth order."""
    solver = RayleighTaylorReference(RAYLEIGH, PRANDTL, HORIZON)
    sizes = []
    for intervals in (30, 60):
        t = np.linspace(0, HORIZON, intervals + 1)
        values = solver.solve_at(Resolution(64, 1), t, X, Y)
        middle = 2 * intervals // 3
        solution = dict(zip(FIELDS, values[:, middle - 8 : middle + 9], strict=True))
        terms = terms_of(PROBLEM, PROBLEM.conditions[0], solution, interval=t[1])
        sizes.append({name: float(abs(terms[name]).max()) for name in TIMED})
    coarse, fine = sizes
    for name in TIMED:
        assert 10 < coarse[name] / fine[name] < 24, (name, coarse, fine)
