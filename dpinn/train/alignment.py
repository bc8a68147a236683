"""Gradient alignment as training goes on (arXiv 2502.00604)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from dpinn.errors import DpinnError
from dpinn.loss import alignment, grams
from dpinn.optim import precondition
from dpinn.train.follower import Followers

OVER_TERMS = ("intra", "preconditioned")
"""Scores over as many vectors as there are loss terms, which have a mean cosine of their own."""


@dataclass(frozen=True)
class AlignmentTracking:
    """When alignment is measured, and under which preconditioners.

    Attributes:
        every: steps between two measurements.
        compare: optimizers that are fed the gradients of this training, in every step, without
            moving anything: what their preconditioners make of the same terms is measured too.
    """

    every: int = 100
    compare: list[OptimizerCallable] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise DpinnError(f"model.alignment.every is {self.every}; it must be at least 1")


@dataclass(frozen=True)
class Reading:
    """What was measured at one step.

    Attributes:
        step: counted as in a log line: optimizer steps taken when this one was done.
        scores: by path name, ``alignment/...``; a score that does not exist is left out.
        layers: the same by the name of a layer, without the path.
    """

    step: int
    scores: dict[str, float]
    layers: dict[str, dict[str, float]]


class AlignmentMeter:
    """Measures at a step and the one after, so that both are in one Lightning batch.

    Whatever it is given is global already, alike on every rank; the training is not touched.

    Args:
        tracking: when, and what to compare.
        named_parameters: those that are trained.
    """

    def __init__(self, tracking: AlignmentTracking, named_parameters: Iterable[tuple[str, Tensor]]):
        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        self.tracking = tracking
        self.every = tracking.every
        self._named = named
        self.parameters = [p for _, p in named]
        self._layers: dict[str, list[int]] = {}
        for index, (name, _) in enumerate(named):
            self._layers.setdefault(name.rpartition(".")[0], []).append(index)
        self._grams: dict[int, dict[str, Tensor]] = {}
        self._followers = Followers((), named)
        self.restart()

    def restart(self) -> None:
        """Begin with new followers, as the training does with a new optimizer."""
        self._followers.settle()  # before their memory is given back
        self._followers = Followers(self.tracking.compare, self._named)
        self._last: dict[str, tuple[int, list[Tensor]]] = {}

    def due(self, step: int) -> bool:
        """Whether the terms' gradients are wanted."""
        return step % self.every == 0

    def watches(self, step: int) -> bool:
        """Whether gradient and update are compared: at a step that is due, and at the next."""
        return self.due(step) or (step > 0 and self.due(step - 1))

    # --- during a step --------------------------------------------------------------------

    def terms(self, step: int, gradients: Sequence[list[Tensor]], optimizer: Optimizer) -> None:
        """Take the terms' gradients, before the optimizer has seen this step."""
        found = {"intra": grams(gradients)}
        scaled = self._preconditioned(optimizer, self.parameters, gradients)
        if scaled is not None:
            found["preconditioned"] = grams(scaled)
        for label, follower in self._followers.by_label.items():
            scaled = self._preconditioned(follower.optimizer, follower.parameters, gradients)
            if scaled is not None:
                found[f"preconditioned_by/{label}"] = grams(scaled)
        self._grams.setdefault(step, {}).update(found)

    def gradient(self, step: int) -> None:
        """Take the whole gradient, as it lies in ``.grad`` before the optimizer touches it."""
        if self.watches(step):
            self._pair("inter", step, [_or_zero(p) for p in self.parameters])
        self._followers.see(self.parameters)

    def positions(self) -> list[Tensor]:
        """Where the parameters are."""
        return [p.detach().clone() for p in self.parameters]

    def update(self, step: int, before: Sequence[Tensor]) -> None:
        """Take the update of a watched step, from where the parameters were before."""
        moved = [p.detach() - old for p, old in zip(self.parameters, before, strict=True)]
        self._pair("update_inter", step, moved)

    def follow(self, step: int) -> None:
        """Let the compared optimizers take the step that was taken."""
        self._followers.step(step)

    def forget(self, step: int) -> None:
        """Drop what was measured at a step that was not taken."""
        self._grams.pop(step, None)
        self._last.clear()

    # --- afterwards -----------------------------------------------------------------------

    def readings(self, taken: int, last: bool) -> list[Reading]:
        """What was measured since the last call, but for a step whose successor is to come.

        Args:
            taken: number of steps that were taken.
            last: whether there will be no more of them.
        """
        ready = sorted(step for step in self._grams if last or step + 1 < taken)
        return [self._reading(step, self._grams.pop(step)) for step in ready]

    def state_dict(self) -> dict[str, Any]:
        """The compared optimizers, and what waits for the next step."""
        return {
            "followers": self._followers.state_dict(),
            "grams": self._grams,
            "last": self._last,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was saved."""
        self._followers.load_state_dict(state["followers"])
        self._grams = dict(state["grams"])
        for name, (step, vector) in state["last"].items():
            moved = [v.to(p) for v, p in zip(vector, self.parameters, strict=True)]
            self._last[name] = (step, moved)

    def _pair(self, name: str, step: int, vector: list[Tensor]) -> None:
        """Compare a vector with the one of the step before, and keep it for the next."""
        last_step, last = self._last.pop(name, (None, None))
        if last is not None and last_step == step - 1 and self.due(step - 1):
            self._grams.setdefault(step - 1, {})[name] = grams([last, vector])
        if self.due(step):
            self._last[name] = (step, vector)

    def _preconditioned(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Tensor],
        gradients: Sequence[Sequence[Tensor]],
    ) -> list[list[Tensor]] | None:
        own = {p for group in optimizer.param_groups for p in group["params"]}
        if not own.issuperset(parameters):
            return None  # a strategy has given it flat parts of them
        scaled = []
        for gradient in gradients:
            found = precondition(optimizer, dict(zip(parameters, gradient, strict=True)))
            if found is None:
                return None
            scaled.append([found[p] for p in parameters])
        return scaled

    def _reading(self, step: int, found: Mapping[str, Tensor]) -> Reading:
        scores: dict[str, float] = {}
        layers: dict[str, dict[str, float]] = {layer: {} for layer in self._layers}
        for name, parts in found.items():
            on_host = parts.cpu()
            for key, score in _scores(name, on_host.sum(0)).items():
                scores[f"alignment/{key}"] = score
            for layer, indices in self._layers.items():
                layers[layer] |= _scores(name, on_host[indices].sum(0))
        return Reading(step + 1, scores, layers)


def _scores(name: str, gram: Tensor) -> dict[str, float]:
    found = alignment(gram)
    if found is None or not math.isfinite(found.score):
        return {}
    scores = {name: found.score}
    if name.partition("_by/")[0] in OVER_TERMS:
        scores[f"{name}_cosine"] = found.cosine
    return scores


def _or_zero(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    return torch.zeros_like(parameter) if gradient is None else gradient.detach().clone()
