"""Each benchmark problem vanishes on its exact solution, and only on it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from dpinn import DpinnError, Problem
from dpinn.jet import Field, Jet, fields_of
from dpinn.problems import AllenCahn, Burgers, Reaction, Wave, problem_by_name
from dpinn.reference import (
    BurgersReference,
    ReactionReference,
    WaveReference,
)

FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""
SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])
"""Central second difference of eighth order."""


def terms_of(problem: Problem, name: str, t, x, u, **derivatives) -> dict[str, np.ndarray]:
    """The terms of a condition where field and derivatives are given as numbers."""
    condition = next(c for c in problem.conditions if c.name == name)
    known = {"u_t": (1, 0), "u_x": (0, 1), "u_xx": (0, 2)}
    t, x, u = (torch.tensor(np.broadcast_arrays(t, x, u)[k].ravel()) for k in range(3))
    values = {known[k]: torch.tensor(np.ravel(v)) for k, v in derivatives.items()}
    terms = problem.evaluate(
        condition, {"u": Field("u", u, ("t", "x"), values)}, torch.stack([t, x], dim=1)
    )
    return {k: v.numpy() for k, v in terms.items()}


# --- wave -----------------------------------------------------------------------------------


def standing_waves(points):
    t, x = points[..., :1], points[..., 1:]
    slow = torch.sin(torch.pi * x) * torch.cos(2 * torch.pi * t)
    return slow + 0.5 * torch.sin(4 * torch.pi * x) * torch.cos(8 * torch.pi * t)


def wave_terms(problem, name, points):
    condition = next(c for c in problem.conditions if c.name == name)
    fields = fields_of(standing_waves(Jet.seed(points, condition.plan)), ("u",))
    return problem.evaluate(condition, fields, points)


@pytest.mark.parametrize(
    ("name", "held"),
    [("residual", {}), ("initial", {0: 0.0}), ("ends", {1: 0.0}), ("ends", {1: 1.0})],
    ids=["residual", "initial", "left end", "right end"],
)
def test_wave_vanishes_on_its_standing_waves(name, held):
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for axis, value in held.items():
        points[:, axis] = value
    for term, values in wave_terms(Wave(), name, points).items():
        assert values.abs().max() < 1e-11, term


def test_waves_of_another_speed_do_not_solve_it():
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert wave_terms(Wave(speed=2.1), "residual", points)["pde"].abs().max() > 1


def test_wave_reference_is_the_same_solution():
    solution = WaveReference().solve(quick=True, progress=False)
    t, x = np.meshgrid(solution.t, solution.x, indexing="ij")
    points = torch.tensor(np.stack([t.ravel(), x.ravel()], axis=1))
    np.testing.assert_allclose(
        solution.u.values.ravel(), standing_waves(points)[:, 0], rtol=0, atol=1e-13
    )


# --- Burgers --------------------------------------------------------------------------------


def burgers_terms(problem, viscosity, t, x, h):
    values = functools.partial(BurgersReference(viscosity).values)
    offsets = h * np.arange(-4, 5)
    in_time = np.array([values(t + o, x) for o in offsets])
    in_space = np.array([values(t, x + o) for o in offsets])
    return terms_of(
        problem, "residual", t, x, in_space[4],
        u_t=FIRST @ in_time / h, u_x=FIRST @ in_space / h, u_xx=SECOND @ in_space / h**2,
    )["pde"]  # fmt: skip


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("viscosity", "x"),
    [(0.05, np.linspace(-0.9, 0.9, 13)), (0.01 / np.pi, np.array([-0.9, -0.5, -0.2, 0.3, 0.8]))],
    ids=["smooth", "away from the shock"],
)
def test_burgers_vanishes_on_cole_and_hopfs_solution(viscosity, x, t):
    assert np.abs(burgers_terms(Burgers(viscosity), viscosity, t, x, 5e-3)).max() < 1e-5


def test_burgers_residual_falls_at_the_order_of_the_differences_through_the_shock():
    viscosity, x = 0.01 / np.pi, np.linspace(-0.02, 0.02, 21)
    values = functools.partial(BurgersReference(viscosity).values, 0.5)
    largest = np.abs(values(x) * (values(x + 1e-5) - values(x - 1e-5)) / 2e-5).max()
    coarse, fine = (
        np.abs(burgers_terms(Burgers(viscosity), viscosity, 0.5, x, h)).max() / largest
        for h in (1e-3, 5e-4)
    )
    assert fine < 1e-7
    assert 2**6.5 < coarse / fine < 2**9  # of eighth order


def test_solution_of_another_viscosity_does_not_solve_burgers():
    x = np.linspace(-0.9, 0.9, 13)
    assert np.abs(burgers_terms(Burgers(0.06), 0.05, 0.5, x, 5e-3)).max() > 1e-2


# --- starts and ends ------------------------------------------------------------------------


def solution_of(problem):
    solution = problem.reference().solve(quick=True, progress=False)
    return solution.t.values, solution.x.values, solution.u.values


PROBLEMS = [Wave(), Burgers()]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_reference_starts_from_the_initial_condition(problem):
    _, x, u = solution_of(problem)
    terms = terms_of(problem, "initial", 0.0, x, u[0], u_t=np.zeros_like(x))
    for term, values in terms.items():
        assert np.abs(values).max() < 1e-14, term


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_reference_vanishes_at_the_ends(problem):
    t, x, u = solution_of(problem)
    for end in (0, -1):
        assert x[end] in problem.domain["x"]
        terms = terms_of(problem, "ends", t, x[end], u[:, end])
        assert set(terms) == {"bc"}
        assert not terms["bc"].any()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_reference_covers_the_domain_with_the_problems_parameters(problem):
    t, x, _ = solution_of(problem)
    assert (t[0], t[-1]) == problem.domain["t"]
    assert (x[0], x[-1]) == problem.domain["x"]
    for name, value in problem.reference().parameters().items():
        assert value == getattr(problem, name)


# --- by name --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wave", Wave),
        ("burgers", Burgers),
        ("allen_cahn", AllenCahn),
        ("dpinn.problems.Wave", Wave),
    ],
)
def test_problem_is_found_by_name_or_class_path(name, expected):
    assert type(problem_by_name(name)) is expected


@pytest.mark.parametrize(
    "name", ["waves", "dpinn.problems.Waves", "no.such.module.Wave", "dpinn.problems.KNOWN", "a."]
)
def test_unknown_problem_is_refused_with_those_that_exist(name):
    with pytest.raises(
        DpinnError, match=f"there is no problem {name}; use one of wave, burgers, allen_cahn"
    ):
        problem_by_name(name)


def test_what_is_wrong_in_a_users_file_is_said(tmp_path, monkeypatch):
    (tmp_path / "lacks.py").write_text("import no_such_package")
    (tmp_path / "breaks.py").write_text("import torch\ntorch.no_such_function")
    (tmp_path / "asks.py").write_text(
        "from dpinn.problems import Wave\n"
        "class Fast(Wave):\n    def __init__(self, times):\n        super().__init__(2 * times)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        problem_by_name("lacks.Wave")
    with pytest.raises(AttributeError, match="no_such_function"):
        problem_by_name("breaks.Wave")
    with pytest.raises(DpinnError, match=r"asks\.Fast cannot be made without arguments.*times"):
        problem_by_name("asks.Fast")


# --- reaction -------------------------------------------------------------------------------


def test_reaction_vanishes_on_its_closed_form():
    problem, values = Reaction(), ReactionReference().values
    rng = np.random.default_rng(0)
    t, x = rng.uniform(0.05, 0.95, 200), rng.uniform(0.1, 6.1, 200)
    h = 2e-3
    u_t = sum(w * values(t + k * h, x) for w, k in zip(FIRST, range(-4, 5), strict=True)) / h
    residual = terms_of(problem, "residual", t, x, values(t, x), u_t=u_t)["pde"]
    assert np.abs(residual).max() < 1e-7 * np.abs(u_t).max()
    start = terms_of(problem, "initial", 0 * t, x, values(0 * t, x))["ic"]
    assert np.abs(start).max() < 1e-14
    # It vanishes at the unstable state as well, which is what it is for.
    assert not terms_of(problem, "residual", t, x, 0 * t, u_t=0 * t)["pde"].any()
