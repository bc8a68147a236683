"""Layers and networks at their start."""

from __future__ import annotations

import pytest
import torch

from dpinn.nn import MLP, FactorizedLinear, ModifiedMLP, PirateNet

NETWORKS = [MLP, ModifiedMLP, PirateNet]


def test_factorized_layer_computes_what_an_ordinary_glorot_layer_would():
    torch.manual_seed(3)
    layer = FactorizedLinear(5, 7)
    torch.manual_seed(3)
    weight = torch.nn.init.xavier_normal_(torch.empty(7, 5))
    x = torch.randn(4, 5)
    torch.testing.assert_close(layer(x), x @ weight.T)


def test_factorized_layer_has_factors_of_the_given_distribution():
    torch.manual_seed(0)
    layer = FactorizedLinear(2, 20_000, mean=0.5, std=0.2)
    logarithms = layer.scale.detach().log()
    assert abs(float(logarithms.mean()) - 0.5) < 0.01
    assert abs(float(logarithms.std()) - 0.2) < 0.01
    assert not layer.bias.any()


@pytest.mark.parametrize("factorized", [None, (1.0, 0.1)], ids=["plain", "factorized"])
def test_pirate_net_starts_linear_in_its_features(factorized):
    torch.manual_seed(0)
    network = PirateNet(3, 2, width=16, blocks=3, fourier_scale=2.0, factorized=factorized)
    x = torch.randn(6, 3)
    assert torch.equal(network.features(x), network.embedding(x))
    assert torch.equal(network(x), network.embedding(x) @ network.last.weight.T)


def test_pirate_block_is_the_papers_formula():
    torch.manual_seed(0)
    network = PirateNet(2, 1, width=8, blocks=1, alpha=0.3).double()
    (block,) = network.blocks
    x = torch.randn(5, 2, dtype=torch.float64)
    e = network.embedding(x)
    u, v = torch.tanh(network.gate_u(e)), torch.tanh(network.gate_v(e))
    f = torch.tanh(block.first(e))
    z = f * u + (1 - f) * v
    g = torch.tanh(block.second(z))
    z = g * u + (1 - g) * v
    expected = 0.3 * torch.tanh(block.third(z)) + 0.7 * e
    torch.testing.assert_close(network(x), network.last(expected), rtol=1e-6, atol=1e-6)


def test_modified_mlp_is_the_papers_formula():
    torch.manual_seed(0)
    network = ModifiedMLP(2, 1, width=8, depth=2, activation="sin").double()
    x = torch.randn(5, 2, dtype=torch.float64)
    u, v = torch.sin(network.gate_u(x)), torch.sin(network.gate_v(x))
    h = x
    for layer in network.layers:
        z = torch.sin(layer(h))
        h = z * u + (1 - z) * v
    torch.testing.assert_close(network(x), network.last(h))


@pytest.mark.parametrize("network", NETWORKS)
def test_output_is_the_last_layer_on_the_features(network):
    torch.manual_seed(0)
    model = network(3, 2, width=8)
    x = torch.randn(5, 3)
    assert torch.equal(model(x), model.last(model.features(x)))
    assert model(x).shape == (5, 2)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_row_is_its_own(network):
    torch.manual_seed(0)
    model = network(2, 1, width=8).double()
    x = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(model(x)[2:4], model(x[2:4]))


@pytest.mark.parametrize("depth", [1, 3])
def test_mlp_has_as_many_hidden_layers_as_asked(depth):
    assert len(MLP(2, 1, width=4, depth=depth).layers) == depth


def test_unknown_activation_is_a_key_error():
    with pytest.raises(KeyError, match="rellu"):
        MLP(2, 1, activation="rellu")
