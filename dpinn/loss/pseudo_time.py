"""Pseudo-time stepping against spurious solutions.

A residual also vanishes where the solution is wrong: at an unstable state, or beyond a jump
that no collocation point sees. So the fields march in a pseudo-time s by du/ds = -r, which
leaves the steady states that repel, and the interior is trained by an implicit step of it::

    r + (u - u_previous) / tau

where u_previous is the network at the start of the present level of s, frozen. The direction
of the march is that of time only where a residual has its time derivative with a positive
sign and its diffusion with a negative one: ``u.t - nu * u.xx``, not the reverse.

Sources: arXiv 2604.23528, which counts on fresh collocation points at every step, and
2310.16491 for levels of several optimizer steps.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dpinn.errors import DpinnError
from dpinn.jet import Field
from dpinn.nn import PINN
from dpinn.problem import Condition, Problem


class PseudoTime(ABC):
    """Base of all strategies; a user's own works by class path.

    Args:
        tau: the pseudo-time step to start from, in the unit of u / r.
        steps: optimizer steps a level. With 1 the network is compared with itself: the added
            difference has the value zero, up to roundoff, but the gradient of u / tau.
        fields: which field each interior term evolves, ``{"momentum": "u"}``; terms that are
            not named are trained as they are. May be left out where there is one of each.
    """

    def __init__(self, tau: float, steps: int = 1, fields: Mapping[str, str] | None = None):
        if not (tau > 0 and math.isfinite(tau)):
            raise DpinnError(f"tau {tau} must be above 0 and finite")
        if steps < 1:
            raise DpinnError(f"steps {steps} must be at least 1")
        self.tau = tau
        self.steps = steps
        self.fields = fields

    def starts_level(self, step: int) -> bool:
        """Whether the network of this optimizer step is the next level's u_previous."""
        return step % self.steps == 0

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether `update` is wanted at this step, one that starts a level."""

    @abstractmethod
    def update(self, inverse_tau: Tensor, field_change: Tensor, residual_change: Tensor) -> Tensor:
        """New 1/tau from the old and the changes since the last level, one entry per term.

        Args:
            inverse_tau: ``terms``, float64.
            field_change: sum of squares of the term's field now minus before, ``terms``.
            residual_change: likewise of the term's residual, at the same points.
        """


class FixedPseudoTime(PseudoTime):
    """A pseudo-time step that stays as it is."""

    def due(self, step: int) -> bool:
        """Never."""
        return False

    def update(self, inverse_tau: Tensor, field_change: Tensor, residual_change: Tensor) -> Tensor:
        """The same."""
        return inverse_tau


INVERSE_TAU = (0.01, 100.0)
"""Bounds of 1/tau: early in training, and near its end, the ratio of the changes is noise."""


class AdaptivePseudoTime(PseudoTime):
    """The largest stable step: ``factor * rms(change of u) / rms(change of r)`` per term.

    The ratio is a finite-difference surrogate for one over the residual's local Jacobian. 1/tau
    moves towards the estimate with a momentum and stays between 0.01 and 100 (arXiv 2604.23528);
    a term whose field or residual has not changed keeps its step.

    Args:
        tau: the step before the first estimate.
        factor: shrinks the estimated step where it is below 1; an explicit step would be stable
            below 2.
        every: optimizer steps between two estimates, a multiple of `steps`.
        steps: optimizer steps a level.
        fields: which field each interior term evolves.
        momentum: share of the old 1/tau that an estimate keeps.
    """

    def __init__(
        self,
        tau: float = 1.0,
        factor: float = 1.0,
        every: int = 10,
        steps: int = 1,
        fields: Mapping[str, str] | None = None,
        momentum: float = 0.9,
    ):
        super().__init__(tau, steps, fields)
        if not 0 <= momentum < 1:
            raise DpinnError(f"momentum {momentum} must be at least 0 and below 1")
        if not (factor > 0 and math.isfinite(factor)):
            raise DpinnError(f"factor {factor} must be above 0 and finite")
        if every < 1 or every % steps:
            raise DpinnError(
                f"every {every} must be a multiple of the {steps} steps a level; "
                f"use {max(1, round(every / steps)) * steps}"
            )
        self.factor = factor
        self.every = every
        self.momentum = momentum

    def due(self, step: int) -> bool:
        """At every `every`-th step but the first, which has no level before it."""
        return step > 0 and step % self.every == 0

    def update(self, inverse_tau: Tensor, field_change: Tensor, residual_change: Tensor) -> Tensor:
        """Return 1/tau moved towards one over the factor times the ratio of the changes."""
        known = (field_change > 0) & (residual_change > 0)
        estimate = (residual_change / field_change).sqrt() / self.factor
        moved = self.momentum * inverse_tau + (1 - self.momentum) * estimate
        return torch.where(known, moved.clamp(*INVERSE_TAU), inverse_tau)


class PseudoTimeLevel(nn.Module):
    """Where the march stands: the frozen network and the step of each term.

    Both change in place, so a graph that was compiled with them stays valid; both are in the
    ``state_dict``, from which a resumed run goes on to the bit.

    Args:
        strategy: how long the steps and levels are.
        pinn: the network that trains; copied.
        problem: gives the residuals.

    Attributes:
        previous: the network at the start of the level; not trained.
        inverse_tau: 1/tau of each of `terms`.
        pairs: the field that each term evolves, in the problem's order of terms.
    """

    inverse_tau: Tensor

    def __init__(self, strategy: PseudoTime, pinn: PINN, problem: Problem):
        super().__init__()
        self.strategy = strategy
        self.problem = problem
        self.condition = next(c for c in problem.conditions if not c.places)
        self.pairs = _pairs(strategy.fields, self.condition, problem)
        self.columns = [pinn.field_names.index(field) for field in self.pairs.values()]
        self.previous = copy.deepcopy(pinn).requires_grad_(False)
        like = next(pinn.parameters())
        self.register_buffer("inverse_tau", like.new_full((len(self.pairs),), 1 / strategy.tau))

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that march."""
        return tuple(self.pairs)

    def forward(
        self, residuals: Mapping[str, Tensor], fields: Mapping[str, Field], points: Tensor
    ) -> dict[str, Tensor]:
        """Add (u - u_previous) / tau to the residuals of the interior.

        Args:
            residuals: tensors of ``N`` per term.
            fields: of the network that trains, tensors of ``N``.
            points: ``N x coordinates``, in the interior.
        """
        with torch.no_grad():
            before = self.previous(points)
        marching = dict(residuals)
        for k, (term, field) in enumerate(self.pairs.items()):
            difference = fields[field].value - before[:, self.columns[k]]
            marching[term] = marching[term] + self.inverse_tau[k] * difference
        return marching

    def restart(self) -> None:
        """Forget the steps that were estimated."""
        self.inverse_tau.fill_(1 / self.strategy.tau)

    def due(self, step: int) -> bool:
        """Whether `begin` is to be called before this optimizer step."""
        return self.strategy.starts_level(step)

    @torch.no_grad()
    def begin(
        self,
        step: int,
        pinn: PINN,
        points: Tensor,
        reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
        keep_nonfinite: bool = False,
    ) -> None:
        """Start a level at the present network, with new steps where the strategy wants them.

        Args:
            step: the optimizer step that comes next.
            pinn: the network that trains.
            points: this rank's interior points of the step, ``n x coordinates``.
            reduce: from a tensor to its sum over all ranks, which call this together.
            keep_nonfinite: keep the steps, instead of an error, where a new one is not finite.

        Raises:
            DpinnError: a new step is not finite; the old level stands.
        """
        if self.strategy.due(step):
            self._update(step, reduce(self._changes(pinn, points)), keep_nonfinite)
        targets = [*self.previous.parameters(), *self.previous.buffers()]
        torch._foreach_copy_(targets, [*pinn.parameters(), *pinn.buffers()])

    def _update(self, step: int, changes: Tensor, keep_nonfinite: bool) -> None:
        new = self.strategy.update(self.inverse_tau.double(), *changes).to(self.inverse_tau)
        finite = torch.isfinite(changes).all(0) & torch.isfinite(new)
        if not keep_nonfinite and not bool(finite.all()):
            k = finite.tolist().index(False)
            term, (of_field, of_residual) = self.terms[k], changes[:, k].tolist()
            raise DpinnError(
                f"the pseudo-time step of {term!r} is not finite at step {step}: since the last "
                f"level {self.pairs[term]} changed by {of_field:g} and {term} by {of_residual:g} "
                "(sums of squares)"
            )
        self.inverse_tau.copy_(torch.where(finite, new, self.inverse_tau))

    def _changes(self, pinn: PINN, points: Tensor) -> Tensor:
        """This rank's sums of squares of the changes: ``2 x terms``, fields first, float64."""
        now, before = self._evaluate(pinn, points), self._evaluate(self.previous, points)
        return (now - before).double().square().sum(-1)

    def _evaluate(self, pinn: PINN, points: Tensor) -> Tensor:
        """Fields and residuals of the terms that march, ``2 x terms x n``."""
        fields = pinn.fields(points, self.condition.plan)
        residuals = self.problem.evaluate(self.condition, fields, points)
        values = torch.stack([fields[field].value for field in self.pairs.values()])
        return torch.stack([values, torch.stack([residuals[term] for term in self.pairs])])


def _pairs(
    named: Mapping[str, str] | None, condition: Condition, problem: Problem
) -> dict[str, str]:
    terms, fields = condition.terms, tuple(problem.fields)
    if named is None:
        if len(terms) == len(fields) == 1:
            return {terms[0]: fields[0]}
        example = ", ".join(f"{t}: {f}" for t, f in zip(terms, fields, strict=False))
        raise DpinnError(
            f"pseudo-time cannot tell which field each of the terms {', '.join(terms)} evolves; "
            f"name them, e.g. fields: {{{example}}}"
        )
    for term, field in named.items():
        if term not in terms:
            raise DpinnError(
                f"fields: {term!r} is no term of the interior; use some of {', '.join(terms)}"
            )
        if field not in fields:
            raise DpinnError(
                f"fields: {field!r}, for {term}, is no field; use one of {', '.join(fields)}"
            )
    if not named or len(set(named.values())) < len(named):
        raise DpinnError(f"fields: {dict(named)} must name at least one term, and each field once")
    return {term: named[term] for term in terms if term in named}
