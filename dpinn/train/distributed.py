"""Sums over ranks that cost nothing in a single process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def is_distributed() -> bool:
    """Whether several ranks train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in a tensor of its own."""
    return all_reduce_sum_(tensor.clone()) if is_distributed() else tensor


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_gradients(parameters: Sequence[Tensor]) -> None:
    """Add up the gradients of all ranks in place, in one flat buffer of a fixed order.

    One buffer in one order sums the same way in every step, which DDP's buckets do not: they
    are laid anew after the first step, so that a resumed run would differ.
    """
    if not is_distributed():
        return
    trained = [p for p in parameters if p.requires_grad]
    absent = [p.grad is None for p in trained]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    # One entry more a parameter: on how many ranks it has a gradient.
    present = torch.tensor([not a for a in absent], dtype=gradients[0].dtype)
    flat = torch.cat([*(g.reshape(-1) for g in gradients), present.to(gradients[0].device)])
    dist.all_reduce(flat)
    *parts, present = flat.split([*(g.numel() for g in gradients), len(trained)])
    # Looked at, which a GPU is waited for, only where this rank lacks some.
    nowhere = (present == 0).tolist() if any(absent) else absent
    for parameter, part, none in zip(trained, parts, nowhere, strict=True):
        parameter.grad = None if none else part.view_as(parameter)


def gather_to_first(values: Tensor, sizes: Sequence[int]) -> list[Tensor] | None:
    """Bring the vectors of all ranks to rank 0; all ranks call it.

    Args:
        values: this rank's, on its device.
        sizes: how long each rank's vector is.

    Returns:
        The vectors in the order of the ranks; None on the others.
    """
    if not is_distributed():
        return [values]
    padded = torch.nn.functional.pad(values, (0, max(sizes) - len(values)))
    received = [torch.empty_like(padded) for _ in sizes] if dist.get_rank() == 0 else None
    dist.gather(padded, received)
    if received is None:
        return None
    return [part[:size] for part, size in zip(received, sizes, strict=True)]


def broadcast_from_first(tensors: Sequence[Tensor]) -> None:
    """Give every rank what rank 0 holds."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)
