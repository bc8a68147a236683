"""Weights of the loss terms."""

from __future__ import annotations

import pytest
import torch

from dpinn import DpinnError
from dpinn.loss import FixedWeights, GradientNormWeights, TermWeights

NAMES = ("pde", "ic", "bc")


@pytest.mark.parametrize("strategy", [FixedWeights, GradientNormWeights])
def test_start_weights_stand_in_the_order_of_the_terms_and_are_one_by_default(strategy):
    start = strategy({"bc": 5, "ic": 100.0}).initial(NAMES)
    assert start.tolist() == [1, 100, 5]
    assert start.dtype == torch.float64
    assert strategy().initial(NAMES).tolist() == [1, 1, 1]


@pytest.mark.parametrize("strategy", [FixedWeights, GradientNormWeights])
def test_weight_of_an_unknown_term_is_refused(strategy):
    with pytest.raises(
        DpinnError, match=r"^weights: 'wall' is no loss term; use some of pde, ic, bc$"
    ):
        strategy({"ic": 1, "wall": 2}).initial(NAMES)


def test_fixed_weights_never_change():
    weights = torch.tensor([1.0, 2.0])
    assert not any(FixedWeights().due(step) for step in range(3))
    assert FixedWeights().update(weights, torch.rand(2)) is weights


def test_gradient_norm_weights_equal_the_hand_computation():
    """Norms 1, 2, 9 have the mean 4: targets 4, 2, 4/9, of which a quarter is taken."""
    strategy = GradientNormWeights(momentum=0.75)
    new = strategy.update(torch.tensor([1.0, 10.0, 4.0]).double(), torch.tensor([1.0, 2.0, 9.0]))
    expected = [0.75 + 1, 7.5 + 0.5, 3 + 1 / 9]
    torch.testing.assert_close(new, torch.tensor(expected).double())


def test_without_momentum_weighted_gradients_have_equal_norms():
    norms = torch.tensor([0.1, 30.0, 2.0]).double()
    weights = GradientNormWeights(momentum=0.0).update(torch.ones(3).double(), norms)
    torch.testing.assert_close(weights * norms, norms.mean().expand(3))


def test_term_without_a_gradient_keeps_its_weight():
    strategy = GradientNormWeights(momentum=0.5)
    new = strategy.update(torch.tensor([3.0, 7.0]).double(), torch.tensor([2.0, 0.0]))
    assert new.tolist() == [0.5 * 3 + 0.5 * 0.5, 7.0]


def test_updates_are_due_at_multiples_the_first_step_included():
    assert [step for step in range(25) if GradientNormWeights(every=10).due(step)] == [0, 10, 20]


@pytest.mark.parametrize("options", [{"every": 0}, {"momentum": 1.0}, {"momentum": -0.1}], ids=str)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(DpinnError, match="must be at least 1 and momentum"):
        GradientNormWeights(**options)


def test_users_own_strategy_needs_two_methods():
    class Halving(TermWeights):
        def due(self, step):
            return True

        def update(self, weights, gradient_norms):
            return weights / 2

    assert Halving({"ic": 4}).update(Halving({"ic": 4}).initial(NAMES), None).tolist() == [
        0.5,
        2,
        0.5,
    ]
