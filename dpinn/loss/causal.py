"""Causal weights: a time chunk counts once the chunks before it are solved (arXiv 2203.07404)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def causal_weights(chunk_losses: Sequence[Tensor], tolerance: float) -> Tensor:
    """Weight of each chunk, ``exp(-tolerance * sum of the losses of EARLIER chunks)``.

    With several terms a chunk waits for all of them: the smallest weight is taken.

    Args:
        chunk_losses: mean squares per term, each of shape ``chunks`` in the order of time.
        tolerance: the ε of the benchmarks' tables; 0 switches causality off.

    Returns:
        Weights in (0, 1], ``chunks``; without a gradient.
    """
    losses = torch.stack([loss.detach() for loss in chunk_losses])
    # Shifted, not subtracted: one large late loss would swallow the small early ones.
    earlier = torch.nn.functional.pad(losses[:, :-1], (1, 0)).cumsum(1)
    return torch.exp(-tolerance * earlier).amin(0)
