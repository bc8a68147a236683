"""A solution is a function of named coordinates; a loaded one needs `tests/integration`."""

import numpy as np
import pytest
import torch

from dpinn import Box, DpinnError, Problem, Solution
from dpinn.nn import PINN
from dpinn.solution import RunFacts


class Heat(Problem):
    """Two fields, two dimensions of space."""

    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0), y=(0.0, 2.0))
    fields = ("u", "v")
    periodic = ("x",)

    def residual(self, u, v):
        return {"u": u.t - u.laplacian, "v": v.t - v.xy}


def network(inputs: int, outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs)
    )


def solution(dtype: torch.dtype = torch.float64) -> Solution:
    torch.manual_seed(0)
    pinn = PINN(Heat(), network).to(dtype)
    return Solution(Heat(), pinn, RunFacts(1, 1.0, "cpu", 0, None))


def test_numbers_arrays_and_tensors_give_the_same_values() -> None:
    s = solution()
    grid = np.linspace(-1, 1, 5)
    from_array = s(t=0.2, x=grid, y=1)["u"].value
    from_tensor = s(t=torch.tensor(0.2, dtype=torch.float64), x=torch.from_numpy(grid), y=1.0)[
        "u"
    ].value
    from_list = s(t=0.2, x=grid.tolist(), y=1.0)["u"].value
    one_by_one = torch.stack([s(t=0.2, x=x, y=1.0)["u"].value for x in grid])
    assert from_array.shape == (5,)
    assert one_by_one[0].shape == ()
    assert from_array.equal(from_tensor)
    assert from_array.equal(from_list)
    torch.testing.assert_close(from_array, one_by_one, rtol=1e-14, atol=1e-14)


def test_a_field_of_a_solution_is_an_array_of_numpy() -> None:
    """There is no gradient to lose, unlike in a training."""
    u = solution()(t=0.2, x=np.linspace(-1, 1, 5), y=1.0)["u"]
    value = u.value.numpy()
    np.testing.assert_array_equal(np.asarray(u), value)
    assert np.asarray(u, dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(np.hypot(u, 2 * u), np.hypot(value, 2 * value))
    np.testing.assert_array_equal(np.sqrt(2.0) * u, np.sqrt(2.0) * value)
    np.testing.assert_array_equal(np.ones(5) - u, 1 - value)


def test_numbers_are_not_rounded_to_single_precision_on_their_way() -> None:
    s = solution()
    double = torch.tensor(0.1, dtype=torch.float64)
    assert s(t=0.1, x=0.1, y=0.1)["u"].value.equal(s(t=double, x=double, y=double)["u"].value)


def test_coordinates_broadcast_and_their_order_does_not_matter() -> None:
    s = solution()
    t, x = np.linspace(0, 1, 3)[:, None], np.linspace(-1, 1, 4)[None]
    fields = s(y=0.5, x=x, t=t)
    assert set(fields) == {"u", "v"}
    for name in ("u", "v"):
        value = fields[name].value
        assert value.shape == fields[name].xy.shape == fields[name].laplacian.shape == (3, 4)
        alone = s(t=t[2, 0], x=x[0, 1], y=0.5)[name].value
        torch.testing.assert_close(value[2, 1], alone, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("key", ["t", "x", "xx", "xy", "tyy"])
def test_derivatives_by_name_equal_nested_autograd(key: str) -> None:
    s = solution()
    points = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    expected = s.pinn(points)[:, 1]
    for coordinate in key:
        (gradient,) = torch.autograd.grad(expected.sum(), points, create_graph=True)
        expected = gradient[:, "txy".index(coordinate)]
    t, x, y = points.detach().unbind(1)
    found = getattr(s(t=t, x=x, y=y)["v"], key)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


def test_the_laplacian_is_of_space_and_equals_finite_differences() -> None:
    s, h = solution(), 1e-4

    def u(x: float, y: float) -> float:
        return float(s(t=0.4, x=x, y=y)["u"].value)

    x, y = 0.3, 0.7
    around = u(x + h, y) + u(x - h, y) + u(x, y + h) + u(x, y - h) - 4 * u(x, y)
    found = float(s(t=0.4, x=x, y=y)["u"].laplacian)
    assert found == pytest.approx(around / h**2, abs=1e-6)


def test_a_solution_has_the_precision_of_its_weights() -> None:
    for dtype in (torch.float32, torch.float64):
        u = solution(dtype)(t=0.1, x=0.2, y=np.ones(3))["u"]
        assert u.value.dtype == u.xx.dtype == dtype
        assert not u.value.requires_grad


@pytest.mark.parametrize("given", [{"t": 0, "x": 0}, {"t": 0, "x": 0, "y": 0, "z": 0}, {}])
def test_missing_and_unknown_coordinates_are_named(given: dict[str, float]) -> None:
    with pytest.raises(DpinnError, match="Heat takes t, x, y; given were "):
        solution()(**given)


def test_a_derivative_by_an_unknown_coordinate_is_named() -> None:
    with pytest.raises((AttributeError, DpinnError), match="z"):
        _ = solution()(t=0, x=0, y=0)["u"].xz
