"""Embeddings of the coordinates."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dpinn import Box, Problem
from dpinn.jet import DerivativePlan, Jet
from dpinn.nn import (
    MLP,
    PINN,
    CoordinateScaling,
    FourierFeatures,
    ModifiedMLP,
    PeriodicEmbedding,
    PirateNet,
)
from dpinn.problems import Wave

TORUS = Box(t=(0.0, 1.0), x=(-1.0, 2.0), y=(0.5, 0.5 + 2 * torch.pi))


@pytest.mark.parametrize("network", [MLP, ModifiedMLP, PirateNet])
@pytest.mark.parametrize("coordinate", ["x", "y"])
def test_value_and_derivatives_agree_at_both_ends(network, coordinate):
    torch.manual_seed(0)
    embedding = PeriodicEmbedding(TORUS, ("x", "y"))
    model = nn.Sequential(embedding, network(embedding.outputs, 2, width=16)).double()
    orders = [i for i in itertools.product(range(4), repeat=3) if sum(i) <= 3]
    plan = DerivativePlan.build(TORUS.coordinates, orders)
    low = torch.rand(20, 3, dtype=torch.float64)
    axis = TORUS.coordinates.index(coordinate)
    high = low.clone()
    low[:, axis], high[:, axis] = TORUS[coordinate]
    at_low, at_high = (model(Jet.seed(p, plan)).channels for p in (low, high))
    for index, a, b in zip(plan.partials, at_low, at_high, strict=True):
        # A phase of 2π is rounded; the error grows with each derivative's size.
        assert (a - b).abs().max() <= 5e-14 * a.abs().max().clamp_min(1.0), index


def test_coordinates_that_are_not_periodic_pass_unchanged():
    points = torch.rand(5, 3, dtype=torch.float64)
    embedded = PeriodicEmbedding(TORUS, ("x",))(points)
    assert embedded.shape == (5, 4)
    assert torch.equal(embedded[:, 0], points[:, 0])
    assert torch.equal(embedded[:, 3], points[:, 2])
    torch.testing.assert_close(embedded[:, 1] ** 2 + embedded[:, 2] ** 2, torch.ones(5).double())


def test_without_periodic_coordinates_nothing_happens():
    points = torch.rand(5, 3)
    embedding = PeriodicEmbedding(TORUS, ())
    assert embedding.outputs == 3
    assert embedding(points) is points


@pytest.mark.parametrize("periodic", [(), ("t",), ("x", "y"), ("t", "x", "y")])
def test_number_of_outputs_is_told(periodic):
    embedding = PeriodicEmbedding(TORUS, periodic)
    assert embedding(torch.rand(2, 3)).shape == (2, embedding.outputs)


def test_fourier_frequencies_have_the_given_scale():
    torch.manual_seed(0)
    features = FourierFeatures(4, 2000, scale=2.0)
    assert abs(features.frequencies.std().item() - 2.0) < 0.1
    assert abs(features.frequencies.mean().item()) < 0.1


def test_odd_number_of_fourier_features_is_refused():
    with pytest.raises(ValueError, match="come in pairs, 5 is odd; use 6"):
        FourierFeatures(2, 5, 1.0)


def test_scaled_coordinates_run_from_zero_to_one_and_periodic_ones_stay():
    corners = torch.tensor([TORUS.lower(), TORUS.upper()], dtype=torch.float64)
    scaled = CoordinateScaling(TORUS, ("y",)).double()(corners)
    torch.testing.assert_close(scaled[:, :2], torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double())
    assert torch.equal(scaled[:, 2], corners[:, 2])


@pytest.mark.parametrize("taylor", [True, False], ids=["jets", "autograd"])
def test_derivatives_are_those_by_the_coordinates_themselves(taylor):
    """With u = x' t'^2 of the scaled coordinates, u_tt = 2 x' / T^2 and u_tx = 2 t' / (T L)."""

    class Product(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.one * x[:, 1:2] * x[:, 0:1] ** 2

    class Metres(Problem):
        domain = Box(t=(10.0, 510.0), x=(-1e-3, 3e-3))
        fields = ("u",)

        def residual(self, u):
            return {"pde": u.tt - u.tx}

    problem = Metres()
    pinn = PINN(problem, Product, "domain").double()
    pinn.taylor = taylor
    points = torch.tensor([[10.0 + 125, -1e-3 + 1e-3]], dtype=torch.float64)
    u = pinn.fields(points, problem.conditions[0].plan)["u"]
    for found, expected in (
        (u.value, 0.25 * 0.25**2),
        (u.tt, 2 * 0.25 / 500**2),
        (u.tx, 2 * 0.25 / (500 * 4e-3)),
    ):
        torch.testing.assert_close(found.detach(), torch.tensor([expected]).double())


def test_a_window_scales_time_to_itself_and_the_checkpoint_remembers_it():
    def made():
        return PINN(Wave(), lambda i, o: MLP(i, o, width=4, depth=1), "window")

    torch.manual_seed(0)
    first = made()
    points = torch.rand(5, 2)
    late = points.clone()
    late[:, 0] = 0.5 + 0.25 * points[:, 0]
    expected = first(points)
    first.enter_window((0.5, 0.75))
    torch.testing.assert_close(first(late), expected, rtol=1e-5, atol=1e-6)
    other = made()
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(late), first(late))
