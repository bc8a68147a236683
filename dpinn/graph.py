"""What a tensor was computed from, read off autograd's graph."""

from __future__ import annotations

from torch import Tensor


def leaves(tensor: Tensor) -> list[Tensor]:
    """Return the tensors that require a gradient from which `tensor` was computed."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    found, seen, waiting = [], set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [before for before, _ in node.next_functions if before is not None]
    return found
