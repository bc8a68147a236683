"""One optimizer step: from points to losses, gradients, and moved parameters."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpinn.errors import DpinnWarning
from dpinn.loss import ResidualSums, ntk_means
from dpinn.optim import WarmupExponentialDecay, needs_closure, needs_second_backward, soap_of
from dpinn.sampling import Collocation
from dpinn.sampling.counter import stream_key
from dpinn.train.distributed import all_reduce_sum
from dpinn.train.finite import Seen, require_finite
from dpinn.train.measures import StepMeasures
from dpinn.train.parallelism import Sums
from dpinn.train.randomness import seed_all

if TYPE_CHECKING:
    from dpinn.train.module import PINNTraining


class Stepper:
    """Takes a training's steps, and keeps what the last of them has seen.

    Args:
        module: whose network, objective and optimizer are used.
        sums: the sums of squares of all terms on this rank's points, perhaps compiled.
        collocation: whose points are trained.

    Attributes:
        global_sums: of the last step's points, over all ranks.
        terms: unweighted losses of the last step, ``terms``.
        total: what the last step minimized, with all weights.
        norm: of the last step's whole gradient, before it was clipped.
        optimizer_ms: duration of the optimizer's part of the last timed step.
    """

    global_sums: Tensor
    terms: Tensor
    total: Tensor
    norm: Tensor
    optimizer_ms: float

    def __init__(self, module: PINNTraining, sums: Sums, collocation: Collocation):
        self.module = module
        self.sums = sums
        self.collocation = collocation
        self.objective = module.objective
        self.parallelism = module.parallelism
        self.meter = module.meter
        self._seen: list[Seen] = []
        self.take_rates()

    def take_rates(self) -> None:
        """Take the learning rates of a new optimizer, which the schedule scales."""
        self._base_rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def look(self, step: int, sums: ResidualSums, points: Mapping[str, Tensor]) -> None:
        """One eager call at some points, where mistakes show as sentences."""
        with torch.no_grad(), self.parallelism.whole_parameters():
            self.global_sums = all_reduce_sum(sums(points))
        self.total = (self.objective.coefficients(self.global_sums) * self.global_sums).sum()
        losses = self.objective.term_losses(self.global_sums)
        self._seen = [(losses, torch.zeros_like(losses[0]))]
        self.require_finite(step)

    def begin(self) -> None:
        """Forget what steps before have seen."""
        self._seen = []

    def require_finite(self, first: int) -> None:
        """Look at all steps since `begin`, of which `first` was the first.

        Raises:
            DpinnError: naming the term or parameter and the step.
        """
        if self._seen:
            named = self.module.pinn.named_parameters()
            require_finite(self._seen, first, self.module.problem.terms, named)
            self.terms, self.norm = self._seen[-1]

    def __call__(self, step: int, points: Mapping[str, Tensor], timed: bool) -> None:
        """Take one step at these points of this rank."""
        optimizer, parallelism = self._optimizer, self.parallelism
        # Some optimizers and layers draw numbers: a resumed run is to draw the same.
        seed_all(stream_key(self.collocation.seed, step, "step"))
        self._set_learning_rate(step)
        self._begin_pseudo_time(step, points)
        meter = self.meter if parallelism.gradient_is_whole else None
        create_graph = needs_second_backward(optimizer)
        index = len(self._seen)
        loss_seconds = 0.0

        def closure() -> Tensor:
            nonlocal loss_seconds
            started = self._clock(timed)
            optimizer.zero_grad(set_to_none=True)
            first = len(self._seen) == index  # L-BFGS comes here several times a step
            with parallelism.whole_parameters():
                sums = parallelism.forward(self.sums, points)
                self.global_sums = all_reduce_sum(sums.detach())
                if first:
                    self._measure(step, points, sums if parallelism.several_backwards else None)
                coefficients = self.objective.coefficients(self.global_sums)
                total = (coefficients * self.global_sums).sum()
                loss = (sums * coefficients).sum()
                self.module.manual_backward(loss, create_graph=create_graph)
            parameters = list(self.module.pinn.parameters())
            norm = parallelism.finish_gradient(parameters, self._clip_limit)
            if first:
                self.total = total
                if meter is not None:
                    meter.gradient(step)
                self._seen.append((self.objective.term_losses(self.global_sums), norm))
            loss_seconds += self._clock(timed) - started
            return total

        before, skipped = (self.global_sums, self.total), self._skipped_steps
        positions = meter.positions() if meter is not None and meter.watches(step) else None
        started = self._clock(timed)
        self.module.optimizers().step(closure=closure)  # type: ignore[union-attr]
        if timed:
            self.optimizer_ms = (self._clock(timed) - started - loss_seconds) * 1e3
        if self._skipped_steps > skipped:
            # As if these points had not been.
            self.global_sums, self.total = before
            del self._seen[index:]
            if self.meter is not None:
                self.meter.forget(step)
            if skipped == 0 and self.module.trainer.is_global_zero:
                warnings.warn(f"step {step} was skipped, as its gradient is not finite; "
                              "optimizer/skipped_steps counts them", DpinnWarning, 2)  # fmt: skip
            return
        self.objective.advance()
        if meter is not None:
            meter.follow(step)
            if positions is not None:
                meter.update(step, positions)

    def _measure(self, step: int, points: Mapping[str, Tensor], sums: Tensor | None) -> None:
        """Update the term weights and take the alignment, from gradients that both share.

        They come from the step's own forward pass where it is given, else from one more.
        """
        weighs = self._weighs(step)
        aligns = self.meter is not None and self.meter.due(step)
        if not (weighs or aligns):
            return
        if sums is None:
            sums = self.sums(points)
        coefficients = self.objective.coefficients(self.global_sums, weighted=False)
        losses = [part.sum() for part in self.objective.layout.split(sums * coefficients)]
        trained = [p for p in self.module.pinn.parameters() if p.requires_grad]
        measures = StepMeasures(losses, trained, partial(self._ntk_means, step, points))
        if weighs:
            self.objective.update_weights(measures, step, keep=self.module.skips)
        if aligns and self.meter is not None:
            # A term without weight is in no conflict.
            counted = (self.objective.term_weights != 0).tolist()
            gradients = [g for g, c in zip(measures.gradients(), counted, strict=True) if c]
            self.meter.terms(step, gradients, self._optimizer)

    def _weighs(self, step: int) -> bool:
        weighting, done = self.objective.weighting, self._in_stage(step)
        unsolved = step == 0 and not self.module.start_fitted
        return weighting.due(done) or (weighting.at_once and unsolved)

    def _ntk_means(self, step: int, points: Mapping[str, Tensor], probes: int | None) -> Tensor:
        return ntk_means(
            self.module.pinn,
            self.collocation,
            points,
            self.objective.causal,
            probes=probes,
            key=stream_key(self.collocation.seed, step, "ntk"),
            rank=self.module.trainer.global_rank,
            world_size=self.module.trainer.world_size,
            reduce=all_reduce_sum,
            pseudo_time=self.module.pseudo_time,
        )

    def _begin_pseudo_time(self, step: int, points: Mapping[str, Tensor]) -> None:
        level = self.module.pseudo_time
        if level is not None and level.due(self._in_stage(step)):
            interior = points[level.condition.name]
            level.begin(
                self._in_stage(step), self.module.pinn, interior, all_reduce_sum, self.module.skips
            )

    def _set_learning_rate(self, step: int) -> None:
        schedule: WarmupExponentialDecay | None = self.module.schedule
        factor = 1.0 if schedule is None else schedule.factor(self._in_stage(step))
        for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _in_stage(self, step: int) -> int:
        """The step counted from the first of its stage, where schedules and weights begin anew."""
        stage = self.module.course.stage
        return step if stage is None else step - stage.first

    def _clock(self, timed: bool) -> float:
        """Seconds; a GPU is waited for only where the time is used."""
        if timed and self.module.device.type == "cuda":
            torch.cuda.synchronize(self.module.device)
        return time.perf_counter()

    @property
    def _clip_limit(self) -> float:
        # LBFGS compares gradients of one step with each other: clipped, they have no curvature.
        if self.module.clip is None or needs_closure(self._optimizer):
            return float("inf")
        return self.module.clip

    @property
    def _optimizer(self) -> Optimizer:
        return self.module.optimizer

    @property
    def _skipped_steps(self) -> int:
        soap = soap_of(self._optimizer)
        return 0 if soap is None else soap.counters["skipped_steps"]
