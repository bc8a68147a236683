"""Points of a reference's grid at which an error is close to that on the whole grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dpinn.analysis.errors import relative_l2
from dpinn.analysis.predictions import Array
from dpinn.jet.plan import TIME
from dpinn.problem import Problem


@dataclass(frozen=True)
class GridSample:
    """Some points of a grid, or all of them.

    Attributes:
        points: ``n x coordinates``.
        exact: the reference's values by name, ``n`` each.
        times: index of each point's time, ``n``; zeros without time.
    """

    points: Array
    exact: Mapping[str, Array]
    times: NDArray[np.intp]

    @classmethod
    def of(cls, reference: xr.Dataset, problem: Problem, most: int) -> GridSample:
        """The whole grid if it has no more than `most` points, else so many spread over it."""
        coordinates = problem.domain.coordinates
        places = _places([reference.sizes[c] for c in coordinates], most)
        axes = [np.asarray(reference[c].values, float) for c in coordinates]
        times = places[coordinates.index(TIME)] if TIME in coordinates else 0 * places[0]
        return cls(
            np.stack([axis[k] for axis, k in zip(axes, places, strict=True)], axis=1),
            {
                str(name): reference[name].transpose(*coordinates).values[tuple(places)]
                for name in reference.data_vars
            },
            times,
        )

    def errors(self, predictions: Mapping[str, Array], problem: Problem) -> dict[str, float]:
        """Relative L2 by name, as `evaluate` gives it on the whole grid.

        Args:
            predictions: by name, ``n`` values at `points`. What the reference lacks is left out.
            problem: says which fields are known up to a constant at each time.
        """
        found = {}
        for name, prediction in predictions.items():
            if name not in self.exact:
                continue
            exact = self.exact[name]
            if name in problem.up_to_constant:
                counts = np.maximum(np.bincount(self.times), 1)
                means = np.bincount(self.times, prediction - exact) / counts
                prediction = prediction - means[self.times]
            found[name] = relative_l2(prediction, exact)
        return found


def _places(sizes: Sequence[int], most: int) -> NDArray[np.intp]:
    """Indices into a grid, ``axes x n``: of all points, or of a low-discrepancy sequence.

    No axis has a stride, which would miss the ends, or be in step with what repeats in space:
    Roberts's additive sequence, http://extremelearning.com.au/unreasonable-effectiveness-of-
    quasirandom-sequences (2018).
    """
    if math.prod(sizes) <= most:
        return np.indices(sizes).reshape(len(sizes), -1)
    ratio = 2.0
    for _ in range(64):  # the root of r^(d + 1) = r + 1, which is 1.618... for one axis
        ratio = (1 + ratio) ** (1 / (len(sizes) + 1))
    steps = ratio ** -np.arange(1.0, len(sizes) + 1)
    fractions = (0.5 + np.outer(steps, np.arange(1, most + 1))) % 1
    return np.asarray(fractions * np.array(sizes)[:, None], dtype=np.intp)
