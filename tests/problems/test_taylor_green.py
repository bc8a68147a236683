"""The Taylor–Green problem vanishes on the Taylor–Green vortices, and only on them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dpinn.jet.autograd import autograd_jet
from dpinn.jet.field import fields_of
from dpinn.problems.taylor_green import TaylorGreen
from dpinn.reference.taylor_green import TaylorGreenReference


def vortices(points: Tensor, pressure: float = 1.0) -> Tensor:
    t, x, y = points.unbind(1)
    decay = torch.exp(-2 * 0.05 * t)
    u = -torch.cos(x) * torch.sin(y) * decay
    v = torch.sin(x) * torch.cos(y) * decay
    p = -(torch.cos(2 * x) + torch.cos(2 * y)) / 4 * decay**2 * pressure
    return torch.stack([u, v, p], dim=1)


def some_points(**held: float) -> Tensor:
    points = torch.rand(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points * torch.tensor(TaylorGreen.domain.upper(), dtype=torch.float64)
    for name, value in held.items():
        points[:, TaylorGreen.domain.coordinates.index(name)] = value
    return points


def terms(problem, name, points, flow=vortices):
    known = {c.name: c for c in (*problem.conditions, *problem.quantities)}
    fields = fields_of(autograd_jet(flow, points, known[name].plan), problem.fields)
    return {k: v.detach() for k, v in problem.evaluate(known[name], fields, points).items()}


def test_residual_vanishes_on_the_vortices():
    residuals = terms(TaylorGreen(), "residual", some_points())
    assert set(residuals) == {"momentum_x", "momentum_y", "continuity"}
    for name, values in residuals.items():
        assert values.abs().max() < 1e-14, name


@pytest.mark.parametrize(
    ("problem", "flow"),
    [
        (TaylorGreen(viscosity=0.055), vortices),
        (TaylorGreen(), lambda points: vortices(points, pressure=-1.0)),
        (TaylorGreen(), lambda points: vortices(points) * torch.tensor([1.0, -1.0, 1.0])),
    ],
    ids=["viscosity", "sign of the pressure", "sign of v"],
)
def test_residual_does_not_vanish_on_another_flow(problem, flow):
    residuals = terms(problem, "residual", some_points(), flow)
    assert max(values.abs().max() for values in residuals.values()) > 5e-3


def test_vortices_are_the_start():
    starts = terms(TaylorGreen(), "initial", some_points(t=0.0))
    assert set(starts) == {"ic_u", "ic_v"}
    assert max(values.abs().max() for values in starts.values()) < 1e-15


def test_reference_is_the_same_flow_over_the_whole_domain():
    problem = TaylorGreen()
    reference = problem.reference()
    assert reference == TaylorGreenReference(viscosity=problem.viscosity)
    solution = reference.solve(quick=True, progress=False)
    for name in problem.domain.coordinates:
        assert tuple(solution[name].values[[0, -1]]) == problem.domain[name]
    grids = np.meshgrid(solution.t, solution.x, solution.y, indexing="ij")
    points = torch.from_numpy(np.stack([grid.ravel() for grid in grids], axis=1))
    for k, name in enumerate(problem.fields):
        np.testing.assert_allclose(
            solution[name].values.ravel(), vortices(points)[:, k], atol=1e-14
        )
    vorticity = terms(problem, "vorticity", points)["vorticity"]
    np.testing.assert_allclose(solution.vorticity.values.ravel(), vorticity, atol=1e-14)
