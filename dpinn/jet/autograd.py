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
        points: ``N x coordinates``; if they require a gradient, the derivatives have it.
        plan: which derivatives.

    Returns:
        The jet that `network(Jet.seed(points, plan))` would be, ``N x fields``.
    """
    with torch.enable_grad():
        inputs = points if points.requires_grad else points.detach().requires_grad_(True)
        value = network(inputs)
        fields = [_field_channels(value[:, k], inputs, plan) for k in range(value.shape[1])]
    return Jet(torch.stack(fields, dim=-1), plan)


def _field_channels(value: Tensor, inputs: Tensor, plan: DerivativePlan) -> Tensor:
    known: dict[MultiIndex, Tensor] = {plan.partials[0]: value}
    channels = [
        _derivative(i, known, inputs) / f
        for i, f in zip(plan.partials, plan.factorials, strict=True)
    ]
    if plan.laplacian:
        dimensions = len(plan.coordinates)
        second = [tuple(2 * (a == axis) for a in range(dimensions)) for axis in plan.laplacian]
        channels.append(
            sum((_derivative(s, known, inputs) for s in second), torch.zeros_like(value))
        )
    return torch.stack(channels)


def _derivative(index: MultiIndex, known: dict[MultiIndex, Tensor], inputs: Tensor) -> Tensor:
    """One derivative, kept in `known` with those that come with it or before it."""
    # No closure over `known`: a recursive one is a cycle, which keeps the graph in memory until
    # the garbage collector comes by.
    if index not in known:
        axis = next(a for a, k in enumerate(index) if k)
        below = _derivative(_lower(index, axis), known, inputs)
        for a, column in enumerate(_gradient(below, inputs).unbind(1)):
            raised = tuple(k + (j == a) for j, k in enumerate(_lower(index, axis)))
            known.setdefault(raised, column)
    return known[index]


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
