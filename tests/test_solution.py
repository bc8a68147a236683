"""A solution is a function of named coordinates; a loaded one needs `tests/integration`."""

import gc
import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dpinn import Box, DpinnError, Problem, Solution, batches
from dpinn.jet import Jet
from dpinn.nn import PINN, WindowedPINN
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


def solution(dtype: torch.dtype = torch.float64, extrapolate: bool = False) -> Solution:
    torch.manual_seed(0)
    pinn = PINN(Heat(), network).to(dtype)
    return Solution(Heat(), pinn, RunFacts(1, 1.0, "cpu", 0, None), extrapolate=extrapolate)


def windowed(ends: tuple[float, ...]) -> Solution:
    """Of a run whose windows end at these times."""
    torch.manual_seed(0)
    pinns = [PINN(Heat(), network).double() for _ in ends]
    windows = list(zip((0.0, *ends), ends, strict=False))
    whole = WindowedPINN(pinns, ends[:-1])
    return Solution(Heat(), whole, RunFacts(1, 1.0, "cpu", 0, None), windows)


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


MAKERS = {"one": solution, "windows": lambda: windowed((0.4, 1.0))}


@pytest.mark.parametrize("taylor", [True, False], ids=["jets", "autograd"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("key", ["value", "t", "xx", "xyy", "laplacian"])
def test_any_number_of_points_is_evaluated_in_batches(
    key: str, make: Callable[[], Solution], taylor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = make()
    for pinn in s.pinn.modules():
        if isinstance(pinn, PINN):
            pinn.taylor = taylor
    t, x = np.linspace(0, 1, 11)[:, None], np.linspace(-1, 1, 9)
    whole = getattr(s(t=t, x=x, y=0.3)["v"], key)
    sizes = []
    monkeypatch.setattr(batches, "BATCH", 10)
    s.pinn.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    forward = type(s.pinn).fields

    def counted(self: PINN, points: torch.Tensor, plan: object) -> object:
        if self is s.pinn:
            sizes.append(len(points))
        return forward(self, points, plan)

    monkeypatch.setattr(type(s.pinn), "fields", counted)
    found = getattr(s(t=t, x=x, y=0.3)["v"], key)
    assert max(sizes) <= 10
    assert not found.requires_grad
    torch.testing.assert_close(found, whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("taylor", [True, False], ids=["jets", "autograd"])
def test_what_batches_leave_behind_is_the_result_alone(
    taylor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = solution()
    s.pinn.taylor = taylor
    monkeypatch.setattr(batches, "BATCH", 10)
    hidden: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def watch(module: object, args: object, output: torch.Tensor | Jet) -> None:
        alive.append(sum(ref() is not None for ref in hidden))
        hidden.append(weakref.ref(output.channels if isinstance(output, Jet) else output))

    s.pinn.network[0].register_forward_hook(watch)
    gc.disable()
    try:
        _ = s(t=np.linspace(0, 1, 95), x=0.1, y=0.2)["u"].xx
    finally:
        gc.enable()
    assert len(alive) == 20  # 10 batches of values and of derivatives
    assert max(alive) <= 1


@pytest.mark.parametrize("taylor", [True, False], ids=["jets", "autograd"])
def test_values_and_derivatives_can_be_differentiated_through_the_coordinates(
    taylor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = solution()
    s.pinn.taylor = taylor
    monkeypatch.setattr(batches, "BATCH", 3)
    x = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    u = s(t=0.2, x=x, y=0.4)["u"]
    for value, expected in ((u.value, u.x), (u.x, u.xx)):
        (gradient,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    tangent = torch.func.jvp(lambda x: s(t=0.2, x=x, y=0.4)["u"].value, (x.detach(),), (x * 0 + 1,))
    torch.testing.assert_close(tangent[1], u.x, rtol=1e-12, atol=1e-12)


def test_a_single_value_is_used_as_a_number() -> None:
    u = solution()(t=0.1, x=0.2, y=0.3)["u"]
    value = u.value.item()
    assert float(u) == u.item() == value
    assert int(u) == int(value)
    assert bool(u) is True
    assert f"{u:.3f}" == f"{value:.3f}"
    assert math.exp(u) == math.exp(value)
    assert (u.shape, u.numel()) == ((), 1)
    with pytest.raises(TypeError, match="0-d"):
        list(u)


def test_several_values_are_iterated_over_and_are_no_number() -> None:
    u = solution()(t=0.1, x=[0.2, 0.3], y=0.3)["u"]
    assert [float(v) for v in u] == u.value.tolist() == u.numpy().tolist()
    for convert in (float, int, bool):
        with pytest.raises((RuntimeError, ValueError), match="one"):
            convert(u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"t": 2.0}, "t = 2 is outside of 0 to 1"),
        ({"t": torch.tensor([0.5, -0.25])}, "t = -0.25 is outside of 0 to 1"),
        ({"y": np.array([1, 3])}, "y = 3 is outside of 0 to 2"),
        ({"y": [0.5, 2.001]}, "y = 2.001 is outside of 0 to 2"),
        ({"t": math.nan}, "coordinate t is nan"),
        ({"x": [0.0, math.nan]}, "coordinate x is nan"),
        ({"x": math.inf}, "coordinate x is inf"),
    ],
)
def test_a_coordinate_outside_of_the_trained_domain_is_refused(
    given: dict[str, object], words: str, dtype: torch.dtype
) -> None:
    with pytest.raises(DpinnError, match=words):
        solution(dtype)(**{"t": 0.5, "x": 0.0, "y": 1.0} | given)


def test_a_solution_answers_outside_of_its_domain_where_it_is_told_to() -> None:
    s = solution(extrapolate=True)
    u = s(t=2.0, x=0.0, y=-1.0)["u"]
    point = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    assert u.value.equal(s.pinn(point)[0, 0])


def test_a_periodic_coordinate_has_no_outside() -> None:
    s = solution()
    near, far = s(t=0.5, x=0.25, y=1.0)["u"], s(t=0.5, x=8.25, y=1.0)["u"]
    torch.testing.assert_close(far.value, near.value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_leave_the_domain(dtype: torch.dtype) -> None:
    s = solution(dtype)
    for end in (
        1 + 1e-12,
        np.float32(1),
        torch.arange(11, dtype=torch.float32) * 0.1,
        sum([0.1] * 10),
    ):
        s(t=end, x=0.0, y=0.0)


def test_a_run_that_ended_in_an_early_window_is_trained_up_to_its_end() -> None:
    s = windowed((0.2, 0.4))
    s(t=0.4, x=0.0, y=0.0)
    with pytest.raises(DpinnError, match=r"t = 0\.9 is outside of 0 to 0\.4"):
        s(t=0.9, x=0.0, y=0.0)
