"""Weights of the loss terms."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from dpinn import DpinnError
from dpinn.loss import FixedWeights, GradientNormWeights, NTKWeights, TermWeights

NAMES = ("pde", "ic", "bc")


@dataclass
class Measured:
    """Measures that are given, and a note of which were asked for."""

    sizes: tuple[float, ...]
    asked: list[object] = field(default_factory=list)

    def gradient_norms(self) -> Tensor:
        self.asked.append("gradient_norms")
        return torch.tensor(self.sizes)

    def ntk_means(self, probes: int | None) -> Tensor:
        self.asked.append(("ntk_means", probes))
        return torch.tensor(self.sizes)


every_strategy = pytest.mark.parametrize(
    "strategy", [FixedWeights, GradientNormWeights, NTKWeights], ids=lambda s: s.__name__
)
balanced = pytest.mark.parametrize(
    "strategy", [GradientNormWeights, NTKWeights], ids=lambda s: s.__name__
)


@every_strategy
def test_start_weights_stand_in_the_order_of_the_terms_and_are_one_by_default(strategy):
    start = strategy({"bc": 5, "ic": 100.0}).initial(NAMES)
    assert start.tolist() == [1, 100, 5]
    assert start.dtype == torch.float64
    assert strategy().initial(NAMES).tolist() == [1, 1, 1]


@every_strategy
def test_weight_of_an_unknown_term_is_refused(strategy):
    with pytest.raises(
        DpinnError, match=r"^weights: 'wall' is no loss term; use some of pde, ic, bc$"
    ):
        strategy({"ic": 1, "wall": 2}).initial(NAMES)


def test_fixed_weights_never_change():
    weights = torch.tensor([1.0, 2.0])
    assert not any(FixedWeights().due(step) for step in range(3))
    assert FixedWeights().update(weights, Measured((3.0, 4.0))) is weights


@balanced
def test_balanced_weights_equal_the_hand_computation(strategy):
    """Sizes 1, 2, 9 have the mean 4: targets 4, 2, 4/9, of which a quarter is taken."""
    old = torch.tensor([1.0, 10.0, 4.0]).double()
    new = strategy(momentum=0.75).update(old, Measured((1.0, 2.0, 9.0)))
    floor = 4e-5
    targets = [4 / (1 + floor), 4 / (2 + floor), 4 / (9 + floor)]
    expected = [0.75 + targets[0] / 4, 7.5 + targets[1] / 4, 3 + targets[2] / 4]
    torch.testing.assert_close(new, torch.tensor(expected).double())


@balanced
def test_without_momentum_weighted_terms_have_equal_sizes(strategy):
    sizes = torch.tensor([0.1, 30.0, 2.0]).double()
    weights = strategy(momentum=0.0).update(torch.ones(3).double(), Measured(tuple(sizes.tolist())))
    # The floor takes 1e-5 of the mean, 10.7, over 0.1 off the smallest term's weight.
    torch.testing.assert_close(weights * sizes, sizes.mean().expand(3), rtol=1.1e-3, atol=0)


@balanced
def test_a_solved_term_gets_a_bounded_weight_whatever_its_roundoff(strategy):
    """A gradient that is exactly zero eagerly is roundoff when compiled, or on several ranks."""
    start = torch.ones(3).double()
    reached = [
        strategy(momentum=0.5).update(start, Measured((3.0, 1.0, size)))
        for size in (0.0, 1e-17, 1e-9)
    ]
    for weights in reached:
        torch.testing.assert_close(weights, reached[0], rtol=1e-4, atol=0)
        assert float(weights.max()) <= 0.5 + 0.5e5


@balanced
def test_the_floor_is_an_option(strategy):
    weights = strategy(momentum=0.0, floor=1e-7).update(torch.ones(2).double(), Measured((2.0, 0)))
    torch.testing.assert_close(weights, torch.tensor([0.5 / (1 + 5e-8), 1e7]).double())


@balanced
@pytest.mark.parametrize("floor", [0.0, -1e-5, 1.0, float("nan")])
def test_a_floor_that_bounds_nothing_is_refused(strategy, floor):
    with pytest.raises(DpinnError, match="must be between 0 and 1, such as 1e-5"):
        strategy(floor=floor)


@balanced
def test_weights_stay_where_every_term_is_solved(strategy):
    weights = torch.tensor([3.0, 7.0]).double()
    assert strategy().update(weights, Measured((0.0, 0.0))).tolist() == [3.0, 7.0]


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [
        (FixedWeights(), []),
        (GradientNormWeights(), ["gradient_norms"]),
        (NTKWeights(), [("ntk_means", 8)]),
        (NTKWeights(probes=None), [("ntk_means", None)]),
        (NTKWeights(probes=1), [("ntk_means", 1)]),
    ],
    ids=["fixed", "gradient_norm", "ntk", "ntk_exact", "ntk_one"],
)
def test_each_strategy_asks_once_for_its_own_measure(strategy, asked):
    measures = Measured((1.0, 2.0))
    strategy.update(torch.ones(2).double(), measures)
    assert measures.asked == asked


@balanced
def test_updates_are_due_at_multiples_but_not_at_a_stages_first_step(strategy):
    assert [step for step in range(25) if strategy(every=10).due(step)] == [10, 20]
    assert strategy.at_once  # ... unless it is the first stage and nothing is solved


def test_fixed_weights_ask_for_no_update_at_once():
    assert not FixedWeights.at_once


@balanced
@pytest.mark.parametrize("options", [{"every": 0}, {"momentum": 1.0}, {"momentum": -0.1}], ids=str)
def test_options_out_of_range_are_refused(strategy, options):
    with pytest.raises(DpinnError, match="must be at least 1 and momentum"):
        strategy(**options)


def test_no_probes_at_all_are_refused():
    with pytest.raises(
        DpinnError, match=r"^probes 0 must be at least 1; use null for the exact kernel$"
    ):
        NTKWeights(probes=0)


def test_users_own_strategy_needs_two_methods():
    class Halving(TermWeights):
        def due(self, step):
            return True

        def update(self, weights, measures):
            return weights / 2

    strategy = Halving({"ic": 4})
    assert strategy.update(strategy.initial(NAMES), Measured(())).tolist() == [0.5, 2, 0.5]
