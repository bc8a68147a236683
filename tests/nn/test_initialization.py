"""Physics-informed initialization: training starts from the initial condition where that helps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dpinn import Box, Problem
from dpinn.nn import MLP, PINN, ModifiedMLP, PirateNet, physics_informed_initialization
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


def pinn(problem, dtype=torch.float64, network=PirateNet, seed=0, **options):
    torch.manual_seed(seed)
    options = {"width": 64} | ({"fourier_scale": 2.0} if network is PirateNet else {}) | options
    return PINN(problem, lambda i, o: network(i, o, **options)).to(dtype)


def predictions(model, low=-1.0):
    t, x = torch.meshgrid(torch.linspace(0, 1, 11), torch.linspace(low, 1, 41), indexing="ij")
    points = torch.stack([t.flatten(), x.flatten()], dim=1).to(next(model.parameters()))
    with torch.no_grad():
        return points[:, 1], model(points)


def at_start(model, start, low=-1.0, high=1.0):
    """Root mean square of u(0, x) - start(x) on a grid."""
    x = torch.linspace(low, high, 1001).to(next(model.parameters()))
    with torch.no_grad():
        values = model(torch.stack([torch.zeros_like(x), x], dim=1))[:, 0]
    return float((values - start(x)).square().mean().sqrt())


def same_state(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


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
    before = at_start(model, start)
    fit = physics_informed_initialization(model, problem)
    x, values = predictions(model)
    error = (values[:, 0] - start(x)).norm() / start(x).norm()
    assert error < tolerance
    assert fit.kept
    assert fit.before == pytest.approx(before, rel=0.1)
    assert fit.after == pytest.approx(at_start(model, start), rel=0.1)


def test_fields_that_the_terms_mix_are_solved_for_together():
    model = pinn(Pair())
    assert physics_informed_initialization(model, Pair()).kept
    x, values = predictions(model, low=0.0)
    b = torch.sin(2 * torch.pi * x) - 1 / 6
    expected = torch.stack([b + 0.5, b], dim=1)
    assert (values - expected).abs().max() < 2e-2


def test_bias_of_the_last_layer_is_made_up_for():
    class Biased(PirateNet):
        def __init__(self, inputs, outputs, width):
            super().__init__(inputs, outputs, width, fourier_scale=2.0)
            self.last = nn.Linear(width, outputs)
            nn.init.ones_(self.last.bias)

    model = pinn(Burgers(), network=Biased)
    assert physics_informed_initialization(model, Burgers()).kept
    assert at_start(model, lambda x: -torch.sin(torch.pi * x)) < 1e-3


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


class Heat(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u):
        return {"pde": u.t - 0.1 * u.xx}

    def initial(self, u, x):
        return {"ic": u - torch.sin(torch.pi * x)}


class Kelvin(Heat):
    def initial(self, u, x):
        return {"ic": u - 300.0 - 10.0 * torch.sin(torch.pi * x)}


class HardMLP(MLP):
    def forward(self, x):
        return x[:, 1:2] * (1 - x[:, 1:2]) * super().forward(x)


def unbounded_norm(model, start):
    """Norm of the plain least-squares weight on the features of a grid."""
    t, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 50), indexing="ij")
    points = torch.stack([t.flatten(), x.flatten()], dim=1).to(next(model.parameters()))
    with torch.no_grad():
        features = model.network.features(model.embedding(points)).double()
    target = start(points[:, 1:]).double()
    return float(torch.linalg.lstsq(features, target, rcond=1e-6, driver="gelsd").solution.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("network", [MLP, ModifiedMLP, HardMLP])
def test_a_fit_that_does_not_improve_the_start_is_taken_back(network, seed, dtype):
    model = pinn(Heat(), dtype, network, seed, width=32, depth=3)
    before = state_of(model)
    assert unbounded_norm(model, lambda x: torch.sin(torch.pi * x)) > 100
    fit = physics_informed_initialization(model, Heat())
    assert not fit.kept
    assert same_state(model, before)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_last_layer_stays_bounded(seed):
    model = pinn(Heat(), torch.float32, seed=seed, width=32, blocks=2, fourier_scale=1.0)
    assert unbounded_norm(model, lambda x: torch.sin(torch.pi * x)) > 5
    assert physics_informed_initialization(model, Heat()).kept
    # Twice the root mean square of a Glorot start with 32 features and one output.
    assert model.network.last.weight.norm() <= 2 * math.sqrt(2 * 32 / 33) * (1 + 1e-6)
    assert at_start(model, lambda x: torch.sin(torch.pi * x), low=0.0) < 0.05


def test_the_bound_grows_with_the_data():
    model = pinn(Kelvin())
    assert physics_informed_initialization(model, Kelvin()).kept
    assert at_start(model, lambda x: 300 + 10 * torch.sin(torch.pi * x), low=0.0) < 0.05


class Vanishing(PirateNet):
    def forward(self, x):
        return (1 - x[:, 1:2] ** 2) * super().forward(x)


class InKelvin(PirateNet):
    def forward(self, x):
        return 300.0 + 10.0 * super().forward(x)


class ShiftedInput(PirateNet):
    def forward(self, x):
        return super().forward(2 * x - 1)


class OneOfTwo(PirateNet):
    def __init__(self, inputs, outputs, **options):
        super().__init__(inputs, 2 * outputs, **options)

    def forward(self, x):
        a, b = super().forward(x).split(1, dim=1)
        return a - x[:, :1] * b


@pytest.mark.parametrize("network", [Vanishing, InKelvin, ShiftedInput, OneOfTwo])
def test_an_output_transform_is_seen(network):
    model = pinn(Burgers(), network=network, fourier_scale=2.0)
    before = state_of(model)
    fit = physics_informed_initialization(model, Burgers())
    assert fit.kept
    assert not same_state(model, before)
    assert at_start(model, lambda x: -torch.sin(torch.pi * x)) < 0.01
    assert fit.after < 0.01


class Squared(PirateNet):
    def forward(self, x):
        return 5.0 + super().forward(x) ** 2


class AlreadyThere(PirateNet):
    def forward(self, x):
        return -torch.sin(torch.pi * x[:, 1:2]) + x[:, :1] * super().forward(x)


@pytest.mark.parametrize("network", [Squared, AlreadyThere])
def test_a_transform_that_leaves_nothing_to_gain_keeps_its_weights(network):
    model = pinn(Burgers(), network=network, fourier_scale=2.0)
    before = state_of(model)
    assert not physics_informed_initialization(model, Burgers()).kept
    assert same_state(model, before)


class PassedBy(PirateNet):
    def forward(self, x):
        return self.features(x)[:, :1] * self.last.weight.sum()


def frozen(inputs, outputs, **options):
    network = PirateNet(inputs, outputs, **options)
    network.last.requires_grad_(False)
    return network


@pytest.mark.parametrize("network", [PassedBy, frozen])
def test_a_layer_that_is_frozen_or_passed_by_is_left_alone(network):
    model = pinn(Burgers(), network=network, fourier_scale=2.0)
    before = state_of(model)
    assert physics_informed_initialization(model, Burgers()) is None
    assert same_state(model, before)


def test_the_fit_is_the_same_each_time_and_draws_no_random_numbers():
    first, second = pinn(AllenCahn()), pinn(AllenCahn())
    state = torch.get_rng_state()
    physics_informed_initialization(first, AllenCahn())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    physics_informed_initialization(second, AllenCahn())
    assert same_state(first, second.state_dict())
