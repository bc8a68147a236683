"""How parameters and gradients lie on the ranks while a PINN trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from dpinn.train.distributed import all_reduce_gradients

Sums = Callable[[Mapping[str, Tensor]], Tensor]
"""From each condition's points to the flat vector of sums of squares."""


class WholeOnEveryRank:
    """Every rank holds all parameters, and after the backward pass the whole gradient.

    What a strategy does otherwise it says in a subclass, as its attribute ``parallelism``.

    Attributes:
        compiles: whether the loss may be compiled.
        gradient_is_whole: whether every parameter's ``.grad`` is all of it once it is finished.
        several_backwards: whether `forward` allows other gradients before the backward pass.
        renews_optimizer: whether the optimizer may be replaced by a new one.
    """

    compiles = True
    several_backwards = True
    gradient_is_whole = True
    renews_optimizer = True

    def whole_parameters(self) -> AbstractContextManager[None]:
        """A context in which all parameters are there; all ranks enter it together."""
        return nullcontext()

    def forward(self, sums: Sums, points: Mapping[str, Tensor]) -> Tensor:
        """The sums at these points, of which a backward pass follows."""
        return sums(points)

    def finish_gradient(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        """Add up the ranks' gradients and scale the sum down to a norm of at most `limit`.

        Returns:
            The norm before, the same on every rank.
        """
        all_reduce_gradients(parameters)
        having = [p for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in having if p.grad is not None])
        # A gradient that is not finite stays as it is, so that who is to blame can be named.
        torch.nn.utils.clip_grads_with_norm_(having, limit, torch.where(norm.isfinite(), norm, 0.0))
        return norm
