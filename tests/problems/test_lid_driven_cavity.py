"""The cavity's own equations vanish on its reference, and only at its Reynolds number."""

import functools

import numpy as np
import pytest
import torch

from dpinn.jet import Field
from dpinn.jet.plan import LAPLACIAN
from dpinn.problem import Condition
from dpinn.problems.lid_driven_cavity import LidDrivenCavity
from dpinn.reference.lid_driven_cavity import LidDrivenCavityReference

FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""
SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])
"""Central second difference of eighth order."""

REYNOLDS = 400.0
STEP = 4e-3
X, Y = 0.3 + STEP * np.arange(88), 0.6 + STEP * np.arange(88)


@functools.cache
def patch(elements: int) -> np.ndarray:
    """u, v and p on a patch between the primary vortex and the lid."""
    return LidDrivenCavityReference(REYNOLDS).solve_at(elements, X, Y)[:3]


def difference(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """On the points that have four neighbours on every side."""
    inner = values[(slice(4, -4), slice(None))[:: 1 if axis else -1]]
    return np.apply_along_axis(np.convolve, axis, inner, weights[::-1], "valid")


def fields_with_derivatives(elements: int) -> tuple[dict[str, Field], torch.Tensor]:
    fields = {}
    for name, values in zip("uvp", patch(elements), strict=True):
        second = [difference(values, SECOND, axis) / STEP**2 for axis in (0, 1)]
        known = {
            (1, 0): difference(values, FIRST, 0) / STEP,
            (0, 1): difference(values, FIRST, 1) / STEP,
            LAPLACIAN: second[0] + second[1],
        }
        derivatives = {key: torch.tensor(array.ravel()) for key, array in known.items()}
        value = torch.tensor(values[4:-4, 4:-4].ravel())
        fields[name] = Field(name, value, ("x", "y"), derivatives)
    x, y = np.meshgrid(X[4:-4], Y[4:-4], indexing="ij")
    return fields, torch.tensor(np.stack([x.ravel(), y.ravel()], axis=1))


def condition_of(problem: LidDrivenCavity, name: str) -> Condition:
    return next(c for c in problem.conditions if c.name == name)


def relative_residuals(problem: LidDrivenCavity, elements: int) -> dict[str, float]:
    """The largest of each residual over the largest single part of it."""
    fields, points = fields_with_derivatives(elements)
    terms = problem.evaluate(condition_of(problem, "residual"), fields, points)
    u, v, p = fields.values()
    parts = {
        "momentum_x": (u * u.x, v * u.y, p.x, u.laplacian / REYNOLDS),
        "momentum_y": (u * v.x, v * v.y, p.y, v.laplacian / REYNOLDS),
        "continuity": (u.x, v.y),
    }
    return {
        name: float(term.abs().max() / max(part.abs().max() for part in parts[name]))
        for name, term in terms.items()
    }


def test_residual_vanishes_on_the_reference():
    residuals = relative_residuals(LidDrivenCavity(REYNOLDS), elements=48)
    assert residuals.keys() == {"momentum_x", "momentum_y", "continuity"}
    assert max(residuals.values()) < 2e-4, residuals


def test_residual_falls_with_the_resolution():
    rows = [relative_residuals(LidDrivenCavity(REYNOLDS), elements) for elements in (20, 32, 48)]
    for name in ("momentum_x", "momentum_y"):
        coarse, middle, fine = (row[name] for row in rows)
        assert coarse > 5 * middle > 25 * fine, (name, rows)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_flow_of_another_reynolds_number_does_not_solve_it(factor):
    residuals = relative_residuals(LidDrivenCavity(factor * REYNOLDS), elements=48)
    assert min(residuals["momentum_x"], residuals["momentum_y"]) > 5e-3, residuals
    assert residuals["continuity"] < 1e-8


def test_reynolds_number_is_read_at_the_call():
    """A curriculum sets it, to a tensor as well; the recorded conditions stay."""
    problem = LidDrivenCavity(100.0)
    assert problem.terms == ("momentum_x", "momentum_y", "continuity", *BOUNDARY_TERMS)
    assert relative_residuals(problem, 48)["momentum_x"] > 1e-2
    problem.reynolds = torch.tensor(REYNOLDS, dtype=torch.float64)
    assert relative_residuals(problem, 48)["momentum_x"] < 2e-4
    assert problem.reference() == LidDrivenCavityReference(REYNOLDS)


BOUNDARY_TERMS = ("lid_u", "lid_v", "wall_u", "wall_v")


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("lid", np.linspace(0.01, 0.99, 30), np.array([1.0])),
        ("walls", np.linspace(0, 1, 30), np.array([0.0])),
        ("walls", np.array([0.0, 1.0]), np.linspace(0, 0.99, 30)),
    ],
    ids=["lid", "bottom", "sides"],
)
def test_boundary_conditions_vanish_on_the_reference(name, x, y):
    problem = LidDrivenCavity(100.0)
    values = problem.reference().solve_at(24, x, y)
    fields = {
        f: Field(f, torch.tensor(array.ravel()), ("x", "y"), {})
        for f, array in zip("uvp", values[:3], strict=True)
    }
    points = torch.tensor(np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2))
    condition = condition_of(problem, name)
    terms = problem.evaluate(condition, fields, points)
    assert set(terms) == {f"{name.rstrip('s')}_u", f"{name.rstrip('s')}_v"}
    for term, array in terms.items():
        assert array.abs().max() < 1e-11, term
    for axis, column in enumerate(points.unbind(1)):
        faces = [place["xy"[axis]] for place in condition.places if "xy"[axis] in place]
        if len(column.unique()) <= 2:
            assert set(column.tolist()) <= set(faces)


def test_speed_is_a_quantity_of_the_reference():
    problem = LidDrivenCavity()
    (speed,) = problem.quantities
    fields = {
        name: Field(name, torch.tensor(values, dtype=torch.float64), ("x", "y"), {})
        for name, values in {"u": [3.0, 0.0], "v": [-4.0, 1.0]}.items()
    }
    values = problem.evaluate(speed, fields, torch.zeros(2, 2, dtype=torch.float64))
    assert values["speed"].tolist() == [5.0, 1.0]
    solution = LidDrivenCavity(100.0).reference().solve(quick=True, progress=False)
    assert list(solution.data_vars) == [*problem.fields, "speed"]
    assert tuple(solution.sizes) == problem.domain.coordinates
