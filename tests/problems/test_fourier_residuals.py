"""Each reference on a periodic box solves the equation that dpinn trains, and only that one.

The solver's values, differentiated by Fourier's series in space and by an eighth-order difference
in time, are put through the problem's own residual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from dpinn import Problem
from dpinn.jet import Field
from dpinn.jet.plan import LAPLACIAN
from dpinn.problems import AllenCahn, GinzburgLandau, GrayScott, KdV, KuramotoSivashinsky
from dpinn.reference.refine import Resolution

FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
"""Central first difference of eighth order."""


@dataclass(frozen=True)
class Case:
    """A problem, and how finely its reference is solved to see the order of the method."""

    problem: Problem
    cells: int
    horizon: float
    intervals: int
    """Stored times of the coarser of two solves, one time step each."""
    others: dict[str, Any] = field(default_factory=dict)
    """Attributes with which the solution must not solve the problem."""


CASES = [
    Case(AllenCahn(diffusivity=0.01), 512, 1.0, 100, {"diffusivity": 0.011, "reaction": 5.2}),
    Case(KdV(), 512, 1.0, 4000, {"dispersion": 0.0223}),
    Case(
        KuramotoSivashinsky(), 512, 0.5, 8000,
        {"steepening": 6.3, "production": 0.395, "damping": 0.00154},
    ),
    Case(
        GinzburgLandau(), 192, 0.2, 20,
        {"diffusivity": 0.0042, "growth": 10.2, "saturation": 10.2, "rotation": 1.53},
    ),
    Case(
        GrayScott(), 192, 0.1, 40,
        {"diffusivity_u": 0.21, "diffusivity_v": 0.105, "feed": 41.0, "removal": 102.0,
         "reaction": 1020.0},
    ),
]  # fmt: skip


def derivative(values: np.ndarray, axis: int, order: int, length: float) -> np.ndarray:
    """Along one axis of ``times x n_1 x ...`` periodic values."""
    n = values.shape[axis]
    k = 2 * np.pi * np.fft.fftfreq(n, length / n)
    shape = [1] * values.ndim
    shape[axis] = n
    symbol = ((1j * k) ** order * (np.abs(k) < k.max())).reshape(shape)
    return np.fft.ifft(symbol * np.fft.fft(values, axis=axis), axis=axis).real


def in_time(values: np.ndarray, interval: float) -> np.ndarray:
    """The first derivative at all stored times but four at either end."""
    last = len(values) - 8
    return sum(c * values[k : k + last] for k, c in enumerate(FIRST)) / interval


def solution(case: Case, intervals: int) -> tuple[np.ndarray, np.ndarray]:
    """Times, and ``fields x times x cells x ...`` values from the second half on."""
    t = np.linspace(0, case.horizon, intervals + 1)
    values = case.problem.reference().solve_at(Resolution(case.cells, 1), t, case.cells + 1)
    inner = (slice(None), slice(intervals // 2, None)) + (slice(0, -1),) * (values.ndim - 2)
    return t[intervals // 2 :], values[inner]


def relative_residual(problem: Problem, t: np.ndarray, values: np.ndarray) -> float:
    """Root mean square of the residual over that of the time derivative, the largest of terms."""
    box, names = problem.domain, problem.domain.coordinates
    condition = next(c for c in problem.conditions if not c.places)
    lengths = [box.length(name) for name in names[1:]]
    fields, rates = {}, []
    for name, u in zip(problem.fields, values, strict=True):
        middle = u[4:-4]
        known = {}
        for partial in condition.plan.partials[1:]:
            if partial[0]:
                assert sum(partial) == 1
                known[partial] = in_time(u, t[1] - t[0])
            else:
                (axis,) = np.flatnonzero(partial)
                known[partial] = derivative(middle, axis, partial[axis], lengths[axis - 1])
        if condition.plan.laplacian:
            axes = range(1, middle.ndim)
            known[LAPLACIAN] = sum(derivative(middle, a, 2, lengths[a - 1]) for a in axes)
        rates.append(np.sqrt(np.mean(in_time(u, t[1] - t[0]) ** 2)))
        flat = {key: torch.from_numpy(v.reshape(-1).copy()) for key, v in known.items()}
        fields[name] = Field(name, torch.from_numpy(middle.reshape(-1).copy()), names, flat)
    points = torch.zeros(len(next(iter(fields.values())).value), len(names), dtype=torch.float64)
    terms = problem.evaluate(condition, fields, points)
    return max(
        float(v.square().mean().sqrt()) / rate
        for v, rate in zip(terms.values(), rates, strict=True)
    )


@pytest.fixture(params=CASES, ids=lambda case: case.problem.name, scope="module")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def solved(case):
    return solution(case, case.intervals), solution(case, 2 * case.intervals)


def test_residual_is_small_and_falls_at_fourth_order(case, solved):
    coarse, fine = (relative_residual(case.problem, *s) for s in solved)
    assert fine < 3e-5
    # Between third order and fourth, of which 16 would be the limit of small steps.
    assert 10 < coarse / fine < 24, (coarse, fine)


def test_solution_of_other_parameters_does_not_solve_it(case, solved, monkeypatch):
    own = relative_residual(case.problem, *solved[1])
    for name, value in case.others.items():
        with monkeypatch.context() as patch:
            patch.setattr(case.problem, name, value)
            assert relative_residual(case.problem, *solved[1]) > 20 * own, name


def test_reference_covers_the_domain_and_starts_from_the_initial_condition(case):
    problem, box = case.problem, case.problem.domain
    found = problem.reference().solve(quick=True, progress=False)
    names = box.coordinates
    assert tuple(found.dims) == names
    for name in names:
        assert (float(found[name][0]), float(found[name][-1])) == pytest.approx(box[name])
    start = found.isel(t=0)
    grids = np.meshgrid(*(found[n].values for n in names[1:]), indexing="ij")
    points = np.stack([0 * grids[0].ravel(), *(g.ravel() for g in grids)], axis=1)
    fields = {
        f: Field(f, torch.from_numpy(start[f].values.ravel()), names, {}) for f in problem.fields
    }
    condition = next(c for c in problem.conditions if c.name == "initial")
    for term, values in problem.evaluate(condition, fields, torch.from_numpy(points)).items():
        assert values.abs().max() < 1e-13, term
    for axis, name in enumerate(names):
        if name in problem.periodic:
            for values in found.values():
                later = values.values[1:]
                np.testing.assert_array_equal(later.take(0, axis), later.take(-1, axis))
