"""From points to sums of squared residuals, per term and causal chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dpinn.loss.pseudo_time import PseudoTimeLevel
from dpinn.nn import PINN, WindowedPINN
from dpinn.problem import INITIAL, Condition, Problem
from dpinn.sampling import Collocation

SEAM = "initial, of the window before"
"""Key of what the initial condition is compared with in a time window that is not the first: the
values of its terms, ``n x terms``, at the points of the initial condition; no name of a method."""


@dataclass(frozen=True)
class TermLayout:
    """Where each term's sums lie in the flat vector that a step reduces over the ranks.

    Attributes:
        names: the terms, in order.
        chunks: causal chunks of each term.
        counts: points in one chunk of each term, all ranks together.
        causal: which terms take causal weights: those of the interior.
    """

    names: tuple[str, ...]
    chunks: tuple[int, ...]
    counts: tuple[float, ...]
    causal: tuple[bool, ...]

    @classmethod
    def build(cls, collocation: Collocation) -> TermLayout:
        """Read the layout off the problem's conditions."""
        names, chunks, counts, causal = [], [], [], []
        for condition in collocation.problem.conditions:
            parts = collocation.condition_chunks(condition)
            for term in condition.terms:
                names.append(term)
                chunks.append(parts)
                counts.append(collocation.count(condition) / parts)
                causal.append(not condition.places)
        return cls(tuple(names), tuple(chunks), tuple(counts), tuple(causal))

    def split(self, sums: Tensor) -> list[Tensor]:
        """Cut the flat vector into one tensor of chunks per term."""
        return list(sums.split(list(self.chunks)))

    def means(self, sums: Tensor) -> list[Tensor]:
        """Mean square of each chunk of each term."""
        parts = self.split(sums)
        return [part / count for part, count in zip(parts, self.counts, strict=True)]


def condition_residuals(
    pinn: PINN | WindowedPINN,
    problem: Problem,
    condition: Condition,
    points: Tensor,
    pseudo_time: PseudoTimeLevel | None = None,
) -> list[Tensor]:
    """The residuals of a condition's terms at ``n x coordinates`` points, ``n`` each.

    As they are trained: those of the interior with the step in pseudo-time, if there is one.
    """
    fields = pinn.fields(points, condition.plan)
    terms = problem.evaluate(condition, fields, points)
    if pseudo_time is not None and not condition.places:
        terms = pseudo_time(terms, fields, points)
    return [terms[term] for term in condition.terms]


class ResidualSums(torch.nn.Module):
    """Sums of squares of all terms on one rank's points: what is compiled, as a whole.

    Chunks are found by time for the rank's slice: point i of the global batch belongs to
    chunk ``i * chunks // batch``, whatever the slice.

    Args:
        pinn: the network.
        problem: gives the residuals.
        collocation: gives the chunks.
        offset: index of this rank's first interior point in the global batch.
        pseudo_time: adds its step to the residuals of the interior.
    """

    def __init__(
        self,
        pinn: PINN | WindowedPINN,
        problem: Problem,
        collocation: Collocation,
        offset: int = 0,
        pseudo_time: PseudoTimeLevel | None = None,
    ):
        super().__init__()
        self.pinn = pinn
        self.problem = problem
        self.conditions = problem.conditions
        self.chunks = {c.name: collocation.condition_chunks(c) for c in self.conditions}
        self.chunk_size = collocation.batch // collocation.chunks
        self.offset = offset
        self.pseudo_time = pseudo_time

    def forward(self, points: Mapping[str, Tensor]) -> Tensor:
        """Map each condition's ``n x coordinates`` points, and perhaps `SEAM`, to the sums."""
        sums = []
        for condition in self.conditions:
            here = points[condition.name]
            residuals = condition_residuals(
                self.pinn, self.problem, condition, here, self.pseudo_time
            )
            if condition.name == INITIAL and SEAM in points:
                # The start of a window is where the window before has ended.
                before = points[SEAM].unbind(1)
                residuals = [r - b for r, b in zip(residuals, before, strict=True)]
            chunks = self.chunks[condition.name]
            sums += [self._chunk_sums(residual**2, chunks) for residual in residuals]
        return torch.cat(sums)

    def _chunk_sums(self, squares: Tensor, chunks: int) -> Tensor:
        if chunks == 1:
            return squares.sum(0, keepdim=True)
        if self.offset == 0 and len(squares) == chunks * self.chunk_size:
            return squares.reshape(chunks, -1).sum(1)
        # A slice of the batch. Chunk by chunk: torch.compile gets the gradient wrong for sums
        # over rows of a padded slice (by tens of percent, torch 2.13 on a CPU).
        ends = [k * self.chunk_size - self.offset for k in range(chunks + 1)]
        cuts = [min(max(end, 0), len(squares)) for end in ends]
        return torch.stack([squares[a:b].sum() for a, b in pairwise(cuts)])
