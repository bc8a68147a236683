"""Errors of a network against a reference solution on its grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

BATCH = 65_536
"""Points evaluated at once: some ten MB per hidden layer, which fits everywhere."""

RESOLVABLE = 5.0
"""An error under so many times the reference's own says no more than that it is small."""


def relative_l2(prediction: Array, reference: Array) -> float:
    """``||prediction - reference|| / ||reference||`` over all points of a grid."""
    return float(np.linalg.norm(prediction - reference) / np.linalg.norm(reference))


@dataclass(frozen=True)
class Evaluation:
    """Errors of a solution.

    Attributes:
        errors: relative L2 per field.
        reference_error: the reference's own, NaN where it is not known.
        predictions: per field on the reference's grid.
    """

    errors: dict[str, float]
    reference_error: float
    predictions: dict[str, Array]

    def statement(self, field: str) -> str:
        """The error as it may be printed: a bound where the reference cannot resolve it."""
        error = self.errors[field]
        if error < RESOLVABLE * self.reference_error:
            return f"< {RESOLVABLE * self.reference_error:.1e}"
        return f"{error:.2e}"


def evaluate(
    network: Callable[[Tensor], Tensor], fields: tuple[str, ...], reference: xr.Dataset
) -> Evaluation:
    """Compare a network with a reference on the reference's grid.

    Args:
        network: maps ``N x coordinates`` to ``N x fields``.
        fields: names of the columns.
        reference: one variable per field over the coordinates in the network's order.
    """
    predictions = predict(network, fields, {str(d): reference[d].values for d in reference.dims})
    errors = {f: relative_l2(predictions[f], reference[f].values) for f in fields}
    own = float(reference.attrs.get("error_estimate", float("nan")))
    return Evaluation(errors, own, predictions)


def predict(
    network: Callable[[Tensor], Tensor], fields: tuple[str, ...], axes: Mapping[str, Array]
) -> dict[str, Array]:
    """Values of all fields on the grid spanned by `axes`, in batches of bounded memory."""
    device, dtype = _placement(network)
    grids = np.meshgrid(*axes.values(), indexing="ij")
    points = torch.from_numpy(np.stack([g.ravel() for g in grids], axis=1))
    with torch.no_grad():
        values = [
            network(part.to(device, dtype)).to("cpu", torch.float64) for part in points.split(BATCH)
        ]
    columns = torch.cat(values).numpy()
    return {f: columns[:, k].reshape(grids[0].shape) for k, f in enumerate(fields)}


def thin_out(reference: xr.Dataset, points: int) -> xr.Dataset:
    """Every k-th grid point along each axis, so that about `points` are left."""
    total = int(np.prod(list(reference.sizes.values())))
    stride = max(1, int(np.ceil((total / points) ** (1 / len(reference.sizes)))))
    return reference.isel({d: slice(None, None, stride) for d in reference.dims})


def _placement(network: Callable[[Tensor], Tensor]) -> tuple[torch.device, torch.dtype]:
    if isinstance(network, torch.nn.Module):
        parameter = next(network.parameters())
        return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float64
