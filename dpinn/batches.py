"""A function of points at any number of them, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

BATCH = 4096
"""Points at once. A layer of width 64 with its second derivatives is 3 MB in float32, and a
PirateNet has some twenty such tensors alive: 60 MB."""

OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""How CUDA, the CPU allocators of PyTorch and cuBLAS say so, in a RuntimeError."""


def in_batches(
    at: Callable[[int, int], Mapping[str, Tensor]], start: int, stop: int
) -> dict[str, Tensor]:
    """Evaluate a function at points `start` to `stop`, without gradients.

    Beyond the result, memory is that of one batch. Where a batch does not fit into memory it is
    halved, down to a single point.

    Args:
        at: from the first point and the one after the last to one tensor of ``last - first`` per
            name. It makes its points itself, so that those of the other batches need no memory.
        start: the first point.
        stop: the point after the last; may be `start`.

    Returns:
        ``stop - start`` per name, with the dtype and device of what `at` returned.
    """
    found: dict[str, Tensor] = {}
    size, first = min(BATCH, max(1, stop - start)), start
    while not found or first < stop:
        last = min(first + size, stop)
        values = _evaluated(at, first, last, smallest=size == 1)
        if values is None:
            size //= 2
            continue
        if (first, last) == (start, stop):
            return values
        for name, column in values.items():
            whole = found.setdefault(name, column.new_empty(stop - start))
            whole[first - start : last - start] = column
        first = last
    return found


def _evaluated(
    at: Callable[[int, int], Mapping[str, Tensor]], first: int, last: int, smallest: bool
) -> dict[str, Tensor] | None:
    """The values of one batch; None where memory is short and a smaller batch can be tried."""
    try:
        with torch.no_grad():
            # Nested autograd records a graph even here.
            return {name: values.detach() for name, values in at(first, last).items()}
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, MemoryError) or any(m in str(error) for m in OUT_OF_MEMORY)
        if smallest or not short:
            raise
    # Only here, with the error gone, are the tensors of its stack free.
    return None
