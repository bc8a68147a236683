"""Networks of several windows answer as the one whose window a point is in."""

from __future__ import annotations

import pytest
import torch

from dpinn.nn import MLP, PINN, WindowedPINN
from dpinn.problems import Wave

SEAMS = (0.25, 0.5)


@pytest.fixture(scope="module")
def pinns() -> list[PINN]:
    torch.manual_seed(0)
    return [
        PINN(Wave(), lambda i, o: MLP(i, o, width=8, depth=2)).double().requires_grad_(False)
        for _ in range(3)
    ]


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    seams = torch.tensor([[0.25, 0.1], [0.5, 0.2], [0.0, 0.3], [1.0, 0.4], [-0.1, 0.5], [1.1, 0.6]])
    return torch.cat([random, seams.double()])


def window_of(t: float) -> int:
    """A seam belongs to the window that ends there."""
    return sum(t > seam for seam in SEAMS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_derivatives_are_those_of_the_window(pinns, points, dtype):
    whole = WindowedPINN(pinns, SEAMS).to(dtype)
    here = points.to(dtype)
    condition = Wave().conditions[0]
    values, fields = whole(here), whole.fields(here, condition.plan)["u"]
    for k, point in enumerate(here):
        own = pinns[window_of(float(point[0]))]
        expected = own.fields(point[None], condition.plan)["u"]
        torch.testing.assert_close(values[k, 0], own(point[None])[0, 0])
        torch.testing.assert_close(fields.value[k], expected.value[0])
        torch.testing.assert_close(fields.tt[k], expected.tt[0])
        torch.testing.assert_close(fields.xx[k], expected.xx[0])
    whole.to(torch.float64)


def test_points_of_one_window_or_none_at_all_are_answered(pinns):
    whole = WindowedPINN(pinns, SEAMS)
    late = torch.tensor([[0.9, 0.1], [0.8, 0.2]], dtype=torch.float64)
    assert whole(late).equal(pinns[2](late))
    assert whole(late[:0]).shape == (0, 1)
    assert len(whole.fields(late[:0], Wave().conditions[0].plan)["u"].tt) == 0


def test_windows_and_seams_must_fit():
    with pytest.raises(ValueError, match="2 windows have 1 seams, not 0"):
        WindowedPINN([torch.nn.Identity(), torch.nn.Identity()], ())
