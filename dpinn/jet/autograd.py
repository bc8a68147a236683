"""Derivatives by nested automatic differentiation: the oracle, and the fallback.

Works for any module, at the price of one backward pass a partial derivative, nested as deep
as its order; it cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpinn.jet.jet import Jet
from dpinn.jet.plan import DerivativePlan, MultiIndex


def autograd_jet(network: Callable[[Tensor], Tensor], points: Tensor, plan: DerivativePlan) -> Jet:
    """Expand `network` at `points` by nested `torch.autograd.grad`.

    Args:
        network: maps ``N x coordinates`` to ``N x fields``, each row on its own.
        points: ``N x coordinates``.
        plan: which derivatives.

    Returns:
        The jet that `network(Jet.seed(points, plan))` would be, ``N x fields``.
    """
    with torch.enable_grad():
        inputs = points.detach().requires_grad_(True)
        value = network(inputs)
        fields = [_field_channels(value[:, k], inputs, plan) for k in range(value.shape[1])]
    return Jet(torch.stack(fields, dim=-1), plan)


def _field_channels(value: Tensor, inputs: Tensor, plan: DerivativePlan) -> Tensor:
    known: dict[MultiIndex, Tensor] = {plan.partials[0]: value}

    def derivative(index: MultiIndex) -> Tensor:
        if index not in known:
            axis = next(a for a, k in enumerate(index) if k)
            below = derivative(_lower(index, axis))
            for a, column in enumerate(_gradient(below, inputs).unbind(1)):
                raised = tuple(k + (j == a) for j, k in enumerate(_lower(index, axis)))
                known.setdefault(raised, column)
        return known[index]

    channels = [derivative(i) / f for i, f in zip(plan.partials, plan.factorials, strict=True)]
    if plan.laplacian:
        dimensions = len(plan.coordinates)
        second = [tuple(2 * (a == axis) for a in range(dimensions)) for axis in plan.laplacian]
        channels.append(sum((derivative(s) for s in second), torch.zeros_like(value)))
    return torch.stack(channels)


def _lower(index: MultiIndex, axis: int) -> MultiIndex:
    """Lower one entry of a multi-index by one."""
    return tuple(k - (a == axis) for a, k in enumerate(index))


def _gradient(value: Tensor, inputs: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(
        value.sum(), inputs, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient
