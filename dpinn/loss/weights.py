"""Weights of the loss terms: fixed, or balanced by gradient norms or neural tangent kernels.

A strategy is a small object; a user's own works by class path. It says at which steps it
wants new weights, and then asks for the measures that it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from dpinn.errors import DpinnError


class TermMeasures(Protocol):
    """What a strategy may ask about the terms at a step; nothing is computed before it asks.

    Each measure is global and costs backward passes and collectives, so all ranks ask alike.
    """

    def gradient_norms(self) -> Tensor:
        """The norm of each unweighted term's gradient, shape ``terms``."""

    def ntk_means(self, probes: int | None) -> Tensor:
        """Each term's mean of the diagonal of its neural tangent kernel, shape ``terms``.

        Args:
            probes: random projections that estimate it; None computes it exactly.
        """


class TermWeights(ABC):
    """Base of all strategies.

    Args:
        weights: start values by term name, ``{"ic": 100}``; others are 1.

    Attributes:
        at_once: whether a training whose start nothing has solved yet, neither a fit nor a stage
            before, begins with an update, whatever `due` says.
    """

    at_once = False

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
        """Return True if this step, counted from its stage's first, begins with an update."""

    @abstractmethod
    def update(self, weights: Tensor, measures: TermMeasures) -> Tensor:
        """New weights from the old and from measures of the terms; both of shape ``terms``."""


class FixedWeights(TermWeights):
    """Weights that stay as they are."""

    def due(self, step: int) -> bool:
        """Never."""
        return False

    def update(self, weights: Tensor, measures: TermMeasures) -> Tensor:
        """The same weights."""
        return weights


class BalancedWeights(TermWeights):
    """Base of weights that give all terms the same size, by whatever measures it.

    An update moves each weight towards ``mean size / (size + floor mean size)``, so that no update
    aims above 1 / floor. Each stage starts from the start values and makes its first update after
    `every` steps: at its first step some terms are solved, and their sizes are roundoff. Only a
    training that starts from random parameters makes one at its first step too.

    Args:
        weights: start values by term name.
        every: steps between two updates, a multiple of the inner steps.
        momentum: share of the old weights that an update keeps.
        floor: added to a term's size, in units of the mean size: one that is solved has a gradient
            of roundoff, and must not get a weight of one over roundoff.
    """

    at_once = True

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        every: int = 1000,
        momentum: float = 0.9,
        floor: float = 1e-5,
    ):
        super().__init__(weights)
        if every < 1 or not 0 <= momentum < 1:
            raise DpinnError(f"every {every} must be at least 1 and momentum {momentum} in [0, 1)")
        if not 0 < floor < 1:
            raise DpinnError(f"floor {floor} must be between 0 and 1, such as 1e-5")
        self.every = every
        self.momentum = momentum
        self.floor = floor

    @abstractmethod
    def sizes(self, measures: TermMeasures) -> Tensor:
        """How large each unweighted term is, shape ``terms``; not negative."""

    def due(self, step: int) -> bool:
        """Return True at every `every`-th step of a stage, except its first."""
        return step > 0 and step % self.every == 0

    def update(self, weights: Tensor, measures: TermMeasures) -> Tensor:
        """Return the weights moved towards mean size / size; unchanged if all sizes are zero."""
        sizes = self.sizes(measures).to(weights)
        mean = sizes.mean()
        if mean == 0:
            return weights
        target = mean / (sizes + self.floor * mean)
        return self.momentum * weights + (1 - self.momentum) * target


class GradientNormWeights(BalancedWeights):
    """Weights that give all terms gradients of equal norm (arXiv 2308.08468, algorithm 1).

    Args:
        weights: start values by term name.
        every: steps between two updates, a multiple of the inner steps.
        momentum: share of the old weights that an update keeps.
        floor: added to a term's size, in units of the mean size: one that is solved has a gradient
            of roundoff, and must not get a weight of one over roundoff.
    """

    def sizes(self, measures: TermMeasures) -> Tensor:
        """The norms of the terms' gradients."""
        return measures.gradient_norms()


class NTKWeights(BalancedWeights):
    """Weights that let all terms fall at one rate, by their neural tangent kernels.

    Under gradient descent a term's residuals decay at rates of the order of its kernel's mean
    eigenvalue, the mean of the diagonal (arXiv 2007.14527; sizes are divided by their mean
    over the terms, as in arXiv 2308.08468).

    Args:
        weights: start values by term name.
        every: steps between two updates, a multiple of the inner steps.
        momentum: share of the old weights that an update keeps.
        probes: random projections that estimate each kernel's diagonal, one backward pass
            each: 8 are off by a third or so, of which the momentum leaves little. null computes
            it exactly, at the price of a gradient for every point.
        floor: added to a term's size, in units of the mean size: one that is solved has a gradient
            of roundoff, and must not get a weight of one over roundoff.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        every: int = 1000,
        momentum: float = 0.9,
        probes: int | None = 8,
        floor: float = 1e-5,
    ):
        super().__init__(weights, every, momentum, floor)
        if probes is not None and probes < 1:
            raise DpinnError(f"probes {probes} must be at least 1; use null for the exact kernel")
        self.probes = probes

    def sizes(self, measures: TermMeasures) -> Tensor:
        """The means of the kernels' diagonals."""
        return measures.ntk_means(self.probes)
