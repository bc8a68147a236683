"""Causal weights: a chunk waits for the EARLIER ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpinn.loss import causal_weights

LOSSES = np.array([[0.3, 0.1, 0.7, 0.02, 1.1], [0.05, 0.9, 0.1, 0.3, 0.0]])


def oracle(losses: np.ndarray, tolerance: float) -> np.ndarray:
    """Equation 3.12 of arXiv 2203.07404, chunk by chunk, and the smallest over the terms."""
    weights = np.empty_like(losses)
    for term, row in enumerate(losses):
        for chunk in range(len(row)):
            weights[term, chunk] = np.exp(-tolerance * sum(row[k] for k in range(chunk)))
    return weights.min(axis=0)


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("terms", [1, 2])
def test_weights_are_the_papers(tolerance, terms):
    losses = LOSSES[:terms]
    weights = causal_weights([torch.tensor(row) for row in losses], tolerance)
    np.testing.assert_allclose(weights.numpy(), oracle(losses, tolerance), rtol=1e-13)


def test_first_chunk_has_weight_one_and_a_chunk_does_not_weigh_itself():
    before = causal_weights([torch.tensor([1.0, 2.0, 3.0])], 1.0)
    after = causal_weights([torch.tensor([1.0, 2.0, 300.0])], 1.0)
    assert float(before[0]) == 1.0
    assert torch.equal(before, after)


def test_unsolved_chunk_holds_back_later_ones_only():
    weights = causal_weights([torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0])], 1.0)
    np.testing.assert_allclose(weights, [1, 1, 1, np.exp(-50), np.exp(-50)], rtol=1e-6)


def test_chunk_waits_for_every_term():
    first, second = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    weights = causal_weights([first, second], 1.0)
    np.testing.assert_allclose(weights, [1, np.exp(-2), np.exp(-3)], rtol=1e-6)


def test_weights_carry_no_gradient():
    losses = torch.rand(4, requires_grad=True)
    assert not causal_weights([losses * 2], 1.0).requires_grad


def test_small_early_losses_count_beside_a_large_late_one():
    """Subtracting a chunk's own loss from the running sum would leave 0.0625 of 0.03."""
    weights = causal_weights([torch.tensor([0.03, 1e6, 0.0])], 1.0)
    np.testing.assert_allclose(weights, [1, np.exp(-0.03), 0], rtol=1e-6)


def test_infinite_last_loss_leaves_the_weights_finite():
    weights = causal_weights([torch.tensor([0.5, float("inf")])], 1.0)
    np.testing.assert_allclose(weights, [1, np.exp(-0.5)], rtol=1e-6)
