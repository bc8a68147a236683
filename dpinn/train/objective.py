"""What is minimized: the terms' sums of squares under term weights and causal weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpinn.errors import DpinnError
from dpinn.loss import (
    TermLayout,
    TermMeasures,
    TermWeights,
    ToleranceSchedule,
    causal_weights,
)


class Objective(nn.Module):
    """Turns the global sums of all terms and chunks into coefficients of the loss.

    Args:
        terms: names of all loss terms.
        weighting: of the terms.
        causality: the tolerance of the causal weights.

    Attributes:
        layout: where the terms lie among the sums; set before the first step.
        term_weights: as they stand, ``terms``; checkpointed.
        tolerance_state: what the tolerance schedule remembers; checkpointed.
        causal: the causal weights of the last step, ``chunks``.
    """

    layout: TermLayout
    term_weights: Tensor
    tolerance_state: Tensor

    def __init__(
        self, terms: tuple[str, ...], weighting: TermWeights, causality: ToleranceSchedule
    ):
        super().__init__()
        self.weighting = weighting
        self.causality = causality
        self.register_buffer("term_weights", weighting.initial(terms))
        self.register_buffer("tolerance_state", causality.initial())

    def restart(self) -> None:
        """Weights and tolerance as before the first step."""
        terms = tuple(self.layout.names)
        self.term_weights.copy_(self.weighting.initial(terms))
        self.tolerance_state.copy_(self.causality.initial())

    def coefficients(self, sums: Tensor, weighted: bool = True) -> Tensor:
        """What each of the global sums is multiplied with in the loss; no gradient.

        Args:
            sums: of all ranks, chunks of all terms one after the other.
            weighted: with the term weights; else with the causal weights alone.
        """
        means = self.layout.means(sums)
        self.causal = self._causal_weights(means)
        weights = self.term_weights if weighted else torch.ones_like(self.term_weights)
        pieces = []
        for mean, weight, count, is_causal in zip(
            means, weights.to(sums), self.layout.counts, self.layout.causal, strict=True
        ):
            chunk_weights = self.causal if is_causal else torch.ones_like(mean)
            pieces.append(weight / (count * len(mean)) * chunk_weights)
        return torch.cat(pieces)

    def term_losses(self, sums: Tensor) -> Tensor:
        """Each term's mean square without any weights, ``terms``."""
        return torch.stack([mean.mean() for mean in self.layout.means(sums)])

    def update_weights(self, measures: TermMeasures, step: int, keep: bool) -> None:
        """Let the weighting have its measures and change the weights.

        Args:
            measures: of this step.
            step: its number.
            keep: keep the old weights where new ones are not finite, instead of raising.

        Raises:
            DpinnError: a weight is not finite, though all gradients are; one that is not stops the
                training by the name of its term or parameter, once the step is taken.
        """
        new = self.weighting.update(self.term_weights, measures)
        if bool(torch.isfinite(new).all()):
            self.term_weights.copy_(new)
        elif not keep and bool(torch.isfinite(measures.gradient_norms()).all()):
            names = dict(zip(self.layout.names, new.tolist(), strict=True))
            raise DpinnError(f"term weights are not finite at step {step}: {names}")

    def advance(self) -> None:
        """Let the tolerance follow the causal weights of the step that was taken."""
        self.tolerance_state.copy_(self.causality.advance(self.tolerance_state, self.causal))

    def _causal_weights(self, means: list[Tensor]) -> Tensor:
        interior = [m for m, c in zip(means, self.layout.causal, strict=True) if c]
        tolerance = self.causality.tolerance(self.tolerance_state)
        return causal_weights(interior, tolerance.to(means[0].dtype))
