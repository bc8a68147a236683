"""Products and decompositions of stacked matrices whose bits do not depend on the stack.

Batched kernels may round otherwise for another number of matrices, kernels for a matrix that starts
off a cache line, and CUDA's decompositions for one that starts otherwise than the others of its
batch. Here every kernel sees batches of one width, which follows from shape and device alone, so
that a rank with three matrices computes each as a rank with thirty does.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

CACHE_LINE = 64
"""Bytes; where MKL's kernels are told to start for reproducible results."""

VECTOR = 16
"""Bytes that a GPU loads at once, of a matrix that starts at a multiple of them."""

ENTRIES_THAT_FILL_A_GPU = 2**21
WIDEST_BATCH = 16
"""Small matrices share a kernel launch, large ones fill the device alone; chosen by reckoning."""

QUARTERED_FROM = 512
"""Dimension from which three quarters of a symmetric product take less time than the whole one."""


def batch_width(rows: int, columns: int, device: torch.device) -> int:
    """Matrices per kernel call: 1 on a CPU, as many as fill the device elsewhere.

    Elementwise arithmetic is not bound to it: its bits depend on the entry alone.
    """
    if device.type == "cpu":
        return 1
    return max(1, min(WIDEST_BATCH, ENTRIES_THAT_FILL_A_GPU // max(rows * columns, 1)))


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` for stacks ``[B, m, k]`` and ``[B, k, n]``."""
    result = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    _fill(result, torch.bmm, left, right)
    return result


def decay_toward_gram(factor: Tensor, matrix: Tensor, beta: float) -> None:
    """``factor <- beta factor + (1 - beta) matrix matrix'`` in place, ``[B, m, m]``.

    Of a large one the upper right quarter is copied from the lower left instead of computed.
    """

    def whole(old: Tensor, half: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.baddbmm(old, half, half.mT, beta=beta, alpha=1 - beta, out=out)

    def in_quarters(old: Tensor, half: Tensor, out: Tensor | None = None) -> Tensor:
        new = torch.empty_like(old) if out is None else out
        middle = old.shape[1] // 2
        first, second = slice(0, middle), slice(middle, None)
        for rows, columns in ((first, first), (second, first), (second, second)):
            torch.baddbmm(
                old[:, rows, columns],
                half[:, rows],
                half[:, columns].mT,
                beta=beta,
                alpha=1 - beta,
                out=new[:, rows, columns],
            )
        new[:, first, second] = new[:, second, first].mT
        return new

    _fill(factor, in_quarters if _pays_in_quarters(matrix) else whole, factor, matrix)


def _pays_in_quarters(matrix: Tensor) -> bool:
    return matrix.shape[1] >= QUARTERED_FROM and matrix.shape[2] >= QUARTERED_FROM


def ordered_rows(stack: Tensor, order: Tensor) -> Tensor:
    """``stack`` ``[B, m, n]`` with rows taken in the order ``[B, m]``; moves whole rows."""
    if stack.shape[0] == 1:
        return stack[0].index_select(0, order[0])[None]
    rows = torch.arange(stack.shape[0], device=stack.device)[:, None] * stack.shape[1] + order
    return stack.reshape(-1, stack.shape[2]).index_select(0, rows.view(-1)).view(stack.shape)


def in_batches(function: Callable[..., tuple[Tensor, ...]], *stacks: Tensor) -> tuple[Tensor, ...]:
    """A function of stacks ``[B, ...]`` to stacks, called on batches of the fixed width."""
    count, *shape = stacks[0].shape
    width = batch_width(shape[0], shape[1], stacks[0].device)
    if shape[0] * shape[1] * stacks[0].element_size() % VECTOR:
        width = 1  # else the matrices of a batch start differently
    results = [function(*parts) for parts in _batches(width, *stacks)]
    if len(results) == 1:
        return tuple(part[:count] for part in results[0])
    return tuple(torch.cat(parts)[:count] for parts in zip(*results, strict=True))


def _fill(result: Tensor, kernel: Callable[..., Tensor], *stacks: Tensor) -> None:
    """Write ``kernel`` of each batch of the stacks into ``result``."""
    width = batch_width(result.shape[1], result.shape[2], result.device)
    in_place = _starts_on_cache_lines(result, width)
    aligned = all(_starts_on_cache_lines(stack, width) for stack in stacks)
    if in_place and aligned and result.shape[0] == width:
        kernel(*stacks, out=result)
        return
    for target, parts in zip(_split(result, width), _batches(width, *stacks), strict=True):
        if in_place and target.shape[0] == width:
            kernel(*parts, out=target)
        else:
            target.copy_(kernel(*parts)[: target.shape[0]])


def _batches(width: int, *stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Batches of ``width`` matrices; the last is filled up with zeros."""
    aligned = [_starts_on_cache_lines(stack, width) for stack in stacks]
    all_aligned = all(aligned)
    for parts in zip(*(_split(stack, width) for stack in stacks), strict=True):
        if (missing := width - parts[0].shape[0]) > 0:
            yield tuple(_filled_up(part, missing) for part in parts)
        elif all_aligned:
            yield parts
        else:
            # A clone starts where the allocator puts it, and keeps a transposed matrix transposed.
            pairs = zip(parts, aligned, strict=True)
            yield tuple(part if starts else part.clone() for part, starts in pairs)


def _filled_up(part: Tensor, missing: int) -> Tensor:
    """With zeros, in the layout of the other batches: another one has other kernels."""
    if part.dim() == 3 and part.stride(-1) != 1 and part.stride(-2) == 1:
        return _filled_up(part.mT, missing).mT
    return torch.cat([part, part.new_zeros(missing, *part.shape[1:])])


def _split(stack: Tensor, width: int) -> Sequence[Tensor]:
    # Tensor.split goes through Python, which tells where matrices are small.
    return stack.unsqueeze(1).unbind() if width == 1 else stack.split(width)


def _starts_on_cache_lines(stack: Tensor, width: int) -> bool:
    """Whether every batch of the stack does."""
    several = stack.shape[0] > width
    step = stack.stride(0) * stack.element_size() * width if several else 0
    return stack.data_ptr() % CACHE_LINE == 0 and step % CACHE_LINE == 0
