"""Physics-informed initialization: training starts from the initial condition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpinn import Box, Problem
from dpinn.nn import MLP, PINN, PirateNet, physics_informed_initialization
from dpinn.problems import AllenCahn, Burgers


class Pair(Problem):
    """Two fields whose start is given by two equations that mix them."""

    domain = Box(t=(0.0, 2.0), x=(0.0, 1.0))
    fields = ("a", "b")
    periodic = ("x",)

    def residual(self, a, b):
        return {"one": a.t - b.x, "two": b.t - a.x}

    def initial(self, a, b, x):
        wave = torch.sin(2 * torch.pi * x)
        return {"sum": a + 2 * b - 3 * wave, "difference": 2 * (a - b) - 1.0}


class Plain(Problem):
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.t - u.x}


class Quadratic(Plain):
    def initial(self, u, x):
        return {"ic": u**2 - x}


class WithSpeed(Plain):
    def initial(self, u, x):
        return {"ic": u - x, "speed": u.t}


class OnlySpeed(Plain):
    def initial(self, u, x):
        return {"speed": u.t - x}


def pinn(problem, dtype=torch.float64, network=PirateNet, **options):
    torch.manual_seed(0)
    options = {"width": 64} | ({"fourier_scale": 2.0} if network is PirateNet else {}) | options
    return PINN(problem, lambda i, o: network(i, o, **options)).to(dtype)


def predictions(model, low=-1.0):
    t, x = torch.meshgrid(torch.linspace(0, 1, 11), torch.linspace(low, 1, 41), indexing="ij")
    points = torch.stack([t.flatten(), x.flatten()], dim=1).to(next(model.parameters()))
    with torch.no_grad():
        return points[:, 1], model(points)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("problem", "start", "tolerance"),
    [
        (Burgers(), lambda x: -torch.sin(torch.pi * x), 1e-3),
        # The speed that it prescribes as well does not hinder the fit of the value.
        (WithSpeed(), lambda x: x, 1e-3),
        # The slope jumps at the seam, which 64 smooth features follow to a percent.
        (AllenCahn(), lambda x: x**2 * torch.cos(torch.pi * x), 0.05),
    ],
    ids=["burgers", "with_speed", "allen_cahn"],
)
def test_network_starts_from_the_initial_condition_at_all_times(problem, start, tolerance, dtype):
    model = pinn(problem, dtype)
    misfit = physics_informed_initialization(model, problem)
    x, values = predictions(model)
    error = (values[:, 0] - start(x)).norm() / start(x).norm()
    assert error < tolerance
    assert misfit == pytest.approx(float(error), abs=tolerance)


def test_fields_that_the_terms_mix_are_solved_for_together():
    model = pinn(Pair())
    assert physics_informed_initialization(model, Pair()) < 5e-3
    x, values = predictions(model, low=0.0)
    b = torch.sin(2 * torch.pi * x) - 1 / 6
    expected = torch.stack([b + 0.5, b], dim=1)
    assert (values - expected).abs().max() < 2e-2


def test_bias_of_the_last_layer_gives_way():
    class Biased(MLP):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs, width=64, depth=2)
            self.last = nn.Linear(64, outputs)
            nn.init.ones_(self.last.bias)

    torch.manual_seed(0)
    model = PINN(Burgers(), Biased).double()
    assert physics_informed_initialization(model, Burgers()) < 0.05
    x, values = predictions(model)
    assert (values[:, 0] + torch.sin(torch.pi * x)).norm() / x.norm() < 0.1


def test_all_but_the_last_layer_is_left_alone():
    model = pinn(Burgers())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    physics_informed_initialization(model, Burgers())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"network.last.weight"}


NOTHING_TO_FIT = {
    "not affine": (Quadratic(), PirateNet),
    "reads a derivative alone": (OnlySpeed(), PirateNet),
    "no initial condition": (Plain(), PirateNet),
}


@pytest.mark.parametrize(("problem", "network"), NOTHING_TO_FIT.values(), ids=NOTHING_TO_FIT)
def test_network_is_left_alone_where_there_is_nothing_to_fit(problem, network):
    model = pinn(problem, network=network)
    before = model.network.last.weight.clone()
    assert physics_informed_initialization(model, problem) is None
    assert torch.equal(model.network.last.weight, before)


def test_network_without_features_is_left_alone():
    torch.manual_seed(0)
    model = PINN(Burgers(), nn.Linear)
    assert physics_informed_initialization(model, Burgers()) is None
