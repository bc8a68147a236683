"""Weights of the loss terms: fixed, or balanced by the norms of their gradients.

A strategy is a small object; a user's own works by class path. It says at which steps it
wants the gradients of the terms, and changes the weights then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dpinn.errors import DpinnError


class TermWeights(ABC):
    """Base of all strategies.

    Args:
        weights: start values by term name, ``{"ic": 100}``; others are 1.
    """

    def __init__(self, weights: Mapping[str, float] | None = None):
        self.start = dict(weights or {})

    def initial(self, names: tuple[str, ...]) -> Tensor:
        """Start weights in the order of the terms, float64."""
        unknown = set(self.start) - set(names)
        if unknown:
            raise DpinnError(
                f"weights: {sorted(unknown)[0]!r} is no loss term; use some of {', '.join(names)}"
            )
        return torch.tensor([float(self.start.get(n, 1.0)) for n in names], dtype=torch.float64)

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether the gradients of the terms are wanted at this step."""

    @abstractmethod
    def update(self, weights: Tensor, gradient_norms: Tensor) -> Tensor:
        """New weights from the old and the norms of the terms' gradients, one per term."""


class FixedWeights(TermWeights):
    """Weights that stay as they are."""

    def due(self, step: int) -> bool:
        """Never."""
        return False

    def update(self, weights: Tensor, gradient_norms: Tensor) -> Tensor:
        """The same weights."""
        return weights


class GradientNormWeights(TermWeights):
    """Weights that give all terms gradients of equal norm (arXiv 2308.08468, algorithm 1).

    Args:
        weights: start values by term name.
        every: steps between two updates, a multiple of the inner steps.
        momentum: share of the old weights that an update keeps.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        every: int = 1000,
        momentum: float = 0.9,
    ):
        super().__init__(weights)
        if every < 1 or not 0 <= momentum < 1:
            raise DpinnError(f"every {every} must be at least 1 and momentum {momentum} in [0, 1)")
        self.every = every
        self.momentum = momentum

    def due(self, step: int) -> bool:
        """At every `every`-th step, the first included."""
        return step % self.every == 0

    def update(self, weights: Tensor, gradient_norms: Tensor) -> Tensor:
        """Move towards mean norm / norm; a term without a gradient keeps its weight."""
        norms = gradient_norms.to(weights)
        target = torch.where(norms > 0, norms.mean() / norms, weights)
        return self.momentum * weights + (1 - self.momentum) * target
