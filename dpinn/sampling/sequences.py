"""Points of the unit cube: uniform, or a Sobol sequence with a random digital shift."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from dpinn.sampling.counter import BITS, random_bits, stream_key

Sequence = Literal["uniform", "sobol"]


def unit_points(
    sequence: Sequence, key: int, start: int, stop: int, dimensions: int, device: torch.device
) -> Tensor:
    """Points ``start`` to ``stop`` of a stream, ``(stop - start) x dimensions`` in [0, 1).

    Point i depends on (key, i) alone, so any slice of a batch is what it is in the whole.
    Sobol points of one stream share one random shift per dimension, which keeps the net's
    stratification and makes its means unbiased.
    """
    columns = []
    for dimension in range(dimensions):
        stream = stream_key(key, dimension)
        if sequence == "uniform":
            index = torch.arange(start, stop, device=device)
            columns.append(random_bits(stream, index))
        else:
            shift = random_bits(stream, torch.zeros((), dtype=torch.int64, device=device))
            columns.append(_sobol(start, stop, dimensions, device)[:, dimension] ^ shift)
    return torch.stack(columns, dim=1).to(torch.float64) * 2.0**-BITS


@lru_cache(maxsize=64)
def _sobol(start: int, stop: int, dimensions: int, device: torch.device) -> Tensor:
    """The plain Sobol sequence as 53-bit integers; the same at every step, so kept."""
    if start == stop:  # a rank without points, which the engine would refuse
        return torch.empty((0, dimensions), dtype=torch.int64, device=device)
    engine = torch.quasirandom.SobolEngine(dimensions)
    engine.fast_forward(start)
    points = engine.draw(stop - start, dtype=torch.float64)
    return (points * 2.0**BITS).to(torch.int64).to(device)
