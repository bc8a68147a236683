"""The oracle of this folder: nested `torch.autograd.grad`, one derivative after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from dpinn.jet import Jet

Function = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class NestedAutograd:
    """Every partial derivative of a function ``N x coordinates -> N x fields``, by name."""

    def __init__(self, function: Function, points: Tensor):
        self.inputs = points.detach().requires_grad_(True)
        value = function(self.inputs)
        self.fields = value.shape[1]
        self.known = {((0,) * points.shape[1], k): value[:, k] for k in range(self.fields)}

    def __call__(self, index: tuple[int, ...]) -> Tensor:
        return torch.stack([self._column(index, k) for k in range(self.fields)], dim=1)

    def laplacian(self, axes: Iterable[int]) -> Tensor:
        count = self.inputs.shape[1]
        return sum(self(tuple(2 * (a == axis) for a in range(count))) for axis in axes)

    def _column(self, index: tuple[int, ...], field: int) -> Tensor:
        if (index, field) not in self.known:
            # Differentiate last along the coordinate that stands last.
            axis = max(a for a, k in enumerate(index) if k)
            lower = tuple(k - (a == axis) for a, k in enumerate(index))
            below = self._column(lower, field)
            slope = torch.zeros_like(self.inputs)
            if below.requires_grad:
                (slope,) = torch.autograd.grad(
                    below.sum(),
                    self.inputs,
                    create_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            self.known[index, field] = slope[:, axis]
        return self.known[index, field]


def assert_close(actual: Tensor, expected: Tensor, scale: Tensor, what: object) -> None:
    error = (actual - expected).abs().max()
    assert error <= 1e-12 * scale, f"{what} is off by {error / scale:.1e} of the largest entry"


@pytest.fixture
def nested_autograd():
    return NestedAutograd


@pytest.fixture
def assert_equals_nested_autograd():
    """Check a jet against the oracle: to 1e-12 of the largest entry of each derivative.

    A derivative that vanishes is measured against the largest value of the function.
    """

    def check(jet: Jet, function: Function, points: Tensor) -> None:
        oracle, plan = NestedAutograd(function, points), jet.plan
        value = oracle(plan.partials[0])
        assert tuple(jet.shape) == tuple(value.shape)
        size = value.abs().max()
        for index, factorial, channel in zip(
            plan.partials, plan.factorials, jet.channels, strict=False
        ):
            expected = oracle(index)
            scale = torch.maximum(expected.abs().max(), size)
            assert_close(factorial * channel, expected, scale, index)
        if plan.laplacian:
            expected = oracle.laplacian(plan.laplacian)
            scale = torch.maximum(expected.abs().max(), size)
            assert_close(jet.channels[-1], expected, scale, "the Laplacian")

    return check
