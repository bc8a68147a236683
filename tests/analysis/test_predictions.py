"""What a network says on a grid, its own derivatives included, in batches of bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dpinn import Box, Problem, batches, quantity
from dpinn.analysis import grid_points, observe, predict, predict_share
from dpinn.nn import PINN
from dpinn.nn.windowed import WindowedPINN

AXES = {"t": np.linspace(0, 1, 7), "x": np.linspace(-1, 1, 11), "y": np.linspace(2, 3, 5)}
CPU = torch.device("cpu")


def polynomial(points):
    t, x, y = points.unbind(1)
    return {"u": t + 10 * x + 100 * y, "v": t * x}


def grid(*axes):
    return np.meshgrid(*axes, indexing="ij")


class Flow(Problem):
    """Only what a flow shows is looked at here, not what it obeys."""

    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0), y=(2.0, 3.0))
    fields = ("u", "v")

    def residual(self, u, v):
        return {"pde": u.t - u.xx, "continuity": u.x + v.y}

    @quantity
    def vorticity(self, u, v):
        return v.x - u.y

    @quantity
    def diffusion(self, u):
        return u.laplacian

    @quantity
    def speed_squared(self, u, v):
        return u**2 + v**2


class Vortices(nn.Module):
    """u = a sin x cos y, v = t cos x sin y: all that follows from them is known."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(3.0))
        self.calls = 0

    def forward(self, points):
        self.calls += 1
        t, x, y = points[:, 0:1], points[:, 1:2], points[:, 2:3]
        u = self.amplitude * torch.sin(x) * torch.cos(y)
        return torch.cat([u, t * torch.cos(x) * torch.sin(y)], dim=1)


def vortices(dtype=torch.float64):
    return PINN(Flow(), Vortices).to(dtype)


@pytest.mark.parametrize("taylor", [True, False], ids=["jets", "autograd"])
def test_quantities_follow_from_the_networks_own_derivatives(taylor):
    pinn = vortices()
    pinn.taylor = taylor
    values = predict(observe(pinn, Flow()), AXES, CPU, torch.float64)
    t, x, y = grid(*AXES.values())
    u, v = 3 * np.sin(x) * np.cos(y), t * np.cos(x) * np.sin(y)
    expected = {
        "u": u,
        "v": v,
        "vorticity": (3 - t) * np.sin(x) * np.sin(y),
        "diffusion": -2 * u,
        "speed_squared": u**2 + v**2,
    }
    assert list(values) == list(expected)
    for name in expected:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-13, atol=1e-14)


def test_the_network_runs_once_a_batch_however_many_quantities_there_are():
    pinn = vortices()
    pinn.network.calls = 0
    observe(pinn, Flow())(grid_points(AXES, 0, 385))
    assert pinn.network.calls == 1


def test_networks_of_several_windows_are_observed_as_one():
    late = vortices()
    late.network.amplitude.data.fill_(5.0)
    pinn = WindowedPINN([vortices(), late], [0.5])
    values = predict(observe(pinn, Flow()), AXES, CPU, torch.float64)
    t, x, y = grid(*AXES.values())
    amplitude = np.where(t > 0.5, 5.0, 3.0)
    expected = (amplitude - t) * np.sin(x) * np.sin(y)
    np.testing.assert_allclose(values["vorticity"], expected, atol=1e-13)


def test_prediction_has_the_axes_in_their_order():
    t, x, y = grid(*AXES.values())
    values = predict(polynomial, AXES, CPU, torch.float64)
    np.testing.assert_allclose(values["u"], t + 10 * x + 100 * y)
    np.testing.assert_allclose(values["v"], t * x)


def test_points_of_a_grid_are_made_for_a_share_alone():
    whole = np.stack([g.ravel() for g in grid(*AXES.values())], axis=1)
    for start, stop in ((0, 385), (7, 8), (100, 303), (384, 385), (5, 5)):
        np.testing.assert_array_equal(grid_points(AXES, start, stop), whole[start:stop])


def test_shares_of_several_ranks_make_up_the_grid():
    whole = predict(polynomial, AXES, CPU, torch.float64)
    parts = [
        predict_share(polynomial, AXES, CPU, torch.float64, start, stop)
        for start, stop in ((0, 129), (129, 257), (257, 385))
    ]
    for name, values in whole.items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, values.ravel())


def test_an_empty_share_has_the_names_of_all():
    values = predict_share(observe(vortices(), Flow()), AXES, CPU, torch.float64, 385, 385)
    assert {name: column.shape for name, column in values.items()} == dict.fromkeys(
        ("u", "v", "vorticity", "diffusion", "speed_squared"), (0,)
    )


@pytest.mark.parametrize("batch", [1, 100, 384, 385, 10_000])
def test_prediction_in_batches_equals_the_unbatched_one(batch, monkeypatch):
    sizes = []

    def network(points):
        sizes.append(len(points))
        return polynomial(points)

    whole = predict(polynomial, AXES, CPU, torch.float64)
    monkeypatch.setattr(batches, "BATCH", batch)
    batched = predict(network, AXES, CPU, torch.float64)
    assert max(sizes) <= batch
    assert sum(sizes) == 7 * 11 * 5
    for name in whole:
        np.testing.assert_array_equal(batched[name], whole[name])


SHORTAGES = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "numpy": MemoryError(),
}


@pytest.mark.parametrize("shortage", SHORTAGES.values(), ids=SHORTAGES)
def test_a_batch_that_does_not_fit_into_memory_is_halved(shortage):
    sizes = []

    def network(points):
        sizes.append(len(points))
        if len(points) > 100:
            raise shortage
        return polynomial(points)

    values = predict(network, AXES, CPU, torch.float64)
    assert sizes == [385, 192, 96, 96, 96, 96, 1]
    for name, expected in predict(polynomial, AXES, CPU, torch.float64).items():
        np.testing.assert_array_equal(values[name], expected)


@pytest.mark.parametrize("shortage", SHORTAGES.values(), ids=SHORTAGES)
def test_one_point_that_does_not_fit_into_memory_ends_it(shortage):
    def network(points):
        raise shortage

    with pytest.raises(type(shortage)):
        predict(network, AXES, CPU, torch.float64)


def test_another_error_is_not_taken_for_a_shortage_of_memory():
    calls = []

    def network(points):
        calls.append(len(points))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        predict(network, AXES, CPU, torch.float64)
    assert calls == [385]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_network_is_called_in_its_own_precision_without_gradients(dtype):
    torch.manual_seed(0)
    network = nn.Linear(3, 1).to(dtype)
    seen = []

    def look(points):
        value = network(points)
        seen.append((points.dtype, value.requires_grad))
        return {"u": value[:, 0]}

    values = predict(look, AXES, CPU, dtype)["u"]
    assert seen == [(dtype, False)]
    assert values.dtype == np.float64
    t, x, y = grid(*AXES.values())
    a, b, c = network.weight.detach().double().numpy()[0]
    expected = a * t + b * x + c * y + float(network.bias.detach())
    np.testing.assert_allclose(values, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12)
