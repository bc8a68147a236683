"""Invariant 1 for whole networks: every architecture, periodic embedding included."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from dpinn import Box
from dpinn.jet import DerivativePlan, Jet, autograd_jet
from dpinn.nn import MLP, FourierFeatures, ModifiedMLP, PeriodicEmbedding, PirateNet

SMALL = {"width": 6, "factorized": (1.0, 0.1)}
NETWORKS = {
    "MLP": partial(MLP, depth=2, **SMALL),
    "MLP without factorization": partial(MLP, width=6, depth=2, factorized=None),
    "MLP with Fourier features": partial(MLP, depth=1, fourier_features=6, **SMALL),
    "MLP, sin": partial(MLP, depth=2, activation="sin", **SMALL),
    "MLP, gelu": partial(MLP, depth=1, activation="gelu", **SMALL),
    "MLP, softplus": partial(MLP, depth=1, activation="softplus", **SMALL),
    "ModifiedMLP": partial(ModifiedMLP, depth=2, **SMALL),
    "ModifiedMLP with Fourier features": partial(ModifiedMLP, depth=1, fourier_features=4, **SMALL),
    "PirateNet": partial(PirateNet, blocks=1, alpha=0.4, **SMALL),
    "PirateNet, swish": partial(PirateNet, blocks=1, alpha=0.4, activation="swish", **SMALL),
    "PirateNet at its start": partial(PirateNet, blocks=2, alpha=0.0, **SMALL),
}
every_network = pytest.mark.parametrize("factory", NETWORKS.values(), ids=NETWORKS)
every_periodic = pytest.mark.parametrize("periodic", [(), ("x",)], ids=["bounded", "periodic"])

PLANS = {
    "every partial of order 4": DerivativePlan.build(
        ("t", "x"), [i for i in itertools.product(range(5), repeat=2) if sum(i) <= 4]
    ),
    "laplacian in 2-D": DerivativePlan.build(("t", "x", "y"), [(1, 0, 0)], laplacian=True),
    "laplacian in 3-D, mixed": DerivativePlan.build(
        ("t", "x", "y", "z"), [(1, 1, 0, 0), (0, 1, 1, 1)], laplacian=True
    ),
}


def build(factory, coordinates, periodic=(), dtype=torch.float64):
    torch.manual_seed(0)
    embedding = PeriodicEmbedding(Box(**{c: (-1.0, 1.0) for c in coordinates}), periodic)
    network = nn.Sequential(embedding, factory(embedding.outputs, 2))
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases are zero at the start
    return network.to(dtype)


def points(count, coordinates, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (2 * torch.rand((count, coordinates), generator=generator) - 1).to(dtype)


@every_network
@every_periodic
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_network_on_jets_equals_nested_autograd(
    factory, periodic, plan, assert_equals_nested_autograd
):
    network, x = build(factory, plan.coordinates, periodic), points(3, len(plan.coordinates))
    assert_equals_nested_autograd(network(Jet.seed(x, plan)), network, x)


@every_network
def test_gradient_of_a_networks_jet_equals_that_of_nested_autograd(factory):
    """The fallback is held against the oracle elsewhere, so it is one here."""
    plan = DerivativePlan.build(("t", "x", "y"), [(1, 1, 0)], laplacian=True)
    network, x = build(factory, plan.coordinates, ("x",)), points(5, 3)

    def gradient(jet):
        cotangents = torch.sin(torch.arange(jet.channels.numel())).reshape(jet.channels.shape)
        return torch.autograd.grad((cotangents * jet.channels).sum(), list(network.parameters()))

    ours, theirs = gradient(network(Jet.seed(x, plan))), gradient(autograd_jet(network, x, plan))
    for name, a, b in zip(dict(network.named_parameters()), ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max().clamp_min(1.0), name


@every_network
def test_network_works_in_float32(factory):
    plan = DerivativePlan.build(("t", "x"), [(1, 0), (0, 2)])
    network = build(factory, plan.coordinates, dtype=torch.float32)
    x = points(8, 2, torch.float32)
    jet = network(Jet.seed(x, plan))
    assert jet.dtype == torch.float32
    precise = build(factory, plan.coordinates)(Jet.seed(x.double(), plan)).channels
    assert (jet.channels - precise).abs().max() <= 2e-5 * precise.abs().max()


@pytest.mark.parametrize("name", ["MLP", "ModifiedMLP", "PirateNet"])
def test_network_traces_as_one_graph(name):
    torch._dynamo.reset()
    factory = NETWORKS[name]
    plan = DerivativePlan.build(("t", "x"), [(1, 0), (0, 2)])
    network, x = build(factory, plan.coordinates, ("x",)), points(4, 2)

    def channels(x):
        return network(Jet.seed(x, plan)).channels

    compiled = torch.compile(channels, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), channels(x), rtol=1e-13, atol=1e-13)


def test_fourier_features_are_the_formula():
    torch.manual_seed(0)
    features = FourierFeatures(2, 4, scale=3.0).double()
    x = points(5, 2)
    phase = x @ features.frequencies
    expected = torch.cat([phase.cos(), phase.sin()], dim=1)
    torch.testing.assert_close(features(x), expected)
