"""What a network says on a grid: its fields, and the quantities that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpinn.batches import in_batches
from dpinn.jet import DerivativePlan, Field
from dpinn.problem import Problem

Array = NDArray[np.float64]

Observe = Callable[[Tensor], Mapping[str, Tensor]]
"""From ``N x coordinates`` points to one tensor of ``N`` per name."""


class Network(Protocol):
    """What is asked of a PINN here; a network of several time windows answers it too."""

    def forward(self, points: Tensor) -> Tensor:
        """Map ``N x coordinates`` to ``N x fields``."""

    def fields(self, points: Tensor, plan: DerivativePlan) -> dict[str, Field]:
        """The fields with the derivatives of a plan."""

    def parameters(self) -> Iterator[Tensor]:
        """The weights."""


def observe(pinn: Network, problem: Problem) -> Observe:
    """All fields of a problem and the quantities that it declares, from the network itself.

    Derivatives that a quantity reads, as the vorticity does, are the network's own.

    Args:
        pinn: the network.
        problem: names the fields and quantities.
    """
    like = next(iter(pinn.parameters()))
    problem = problem.to(like.dtype, like.device)
    quantities = problem.quantities
    plan = DerivativePlan.build(
        problem.domain.coordinates,
        {index for q in quantities for index in q.plan.partials},
        any(q.plan.laplacian for q in quantities),
    )

    def at(points: Tensor) -> dict[str, Tensor]:
        if not quantities:
            return dict(zip(problem.fields, pinn.forward(points).unbind(1), strict=True))
        fields = pinn.fields(points, plan)
        values = {name: fields[name].value for name in problem.fields}
        for quantity in quantities:
            values |= problem.evaluate(quantity, fields, points)
        return values

    return at


def predict(
    observe: Observe, axes: Mapping[str, Array], device: torch.device, dtype: torch.dtype
) -> dict[str, Array]:
    """Observe on the grid that is spanned by axes.

    Args:
        observe: is called with points on `device`, in `dtype`.
        axes: ``n_i`` values by coordinate, in the order of the problem.
        device: where to compute.
        dtype: the network's.

    Returns:
        ``n_1 x n_2 x ...`` per name.
    """
    shape = tuple(len(axis) for axis in axes.values())
    values = predict_share(observe, axes, device, dtype, 0, math.prod(shape))
    return {name: column.reshape(shape) for name, column in values.items()}


def grid_points(axes: Mapping[str, Array], start: int, stop: int) -> Tensor:
    """Some points of a grid, ``stop - start x coordinates`` in float64.

    They are counted with the last coordinate running fastest.
    """
    shape = tuple(len(axis) for axis in axes.values())
    places = np.unravel_index(np.arange(start, stop), shape)
    columns = [np.asarray(axis, float)[k] for axis, k in zip(axes.values(), places, strict=True)]
    return torch.from_numpy(np.stack(columns, axis=1))


def predict_share(
    observe: Observe,
    axes: Mapping[str, Array],
    device: torch.device,
    dtype: torch.dtype,
    start: int,
    stop: int,
) -> dict[str, Array]:
    """Observe at some points of a grid, such as one rank's share, in batches of bounded memory.

    Args:
        observe: is called with points on `device`, in `dtype`.
        axes: ``n_i`` values by coordinate, in the order of the problem.
        device: where to compute.
        dtype: the network's.
        start: the first point, see `grid_points`.
        stop: the point after the last; may be `start`.

    Returns:
        ``stop - start`` per name, float64.
    """

    def points(first: int, last: int) -> Tensor:
        return grid_points(axes, first, last)

    return _predict(observe, points, device, dtype, start, stop)


def predict_at(
    observe: Observe, points: Array, device: torch.device, dtype: torch.dtype
) -> dict[str, Array]:
    """Observe at any points, in batches of bounded memory as `predict_share` does.

    Args:
        observe: is called with points on `device`, in `dtype`.
        points: ``n x coordinates``.
        device: where to compute.
        dtype: the network's.

    Returns:
        ``n`` per name, float64.
    """
    whole = torch.from_numpy(points)
    return _predict(observe, lambda a, b: whole[a:b], device, dtype, 0, len(points))


def _predict(
    observe: Observe,
    points: Callable[[int, int], Tensor],
    device: torch.device,
    dtype: torch.dtype,
    start: int,
    stop: int,
) -> dict[str, Array]:
    def at(first: int, last: int) -> dict[str, Tensor]:
        values = observe(points(first, last).to(device, dtype))
        return {name: column.to("cpu", torch.float64) for name, column in values.items()}

    return {name: column.numpy() for name, column in in_batches(at, start, stop).items()}
