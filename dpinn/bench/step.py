"""``dpinn bench step``: one training step, split into its parts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from tqdm import tqdm

from dpinn.bench.configured import Configured, configured
from dpinn.bench.optimizer import warmup_steps
from dpinn.bench.ranks import on_ranks
from dpinn.bench.timing import seconds
from dpinn.errors import DpinnError
from dpinn.loss import ResidualSums, TermLayout
from dpinn.optim import needs_closure, needs_second_backward, soap_of
from dpinn.sampling import rank_slice
from dpinn.train.compiling import compile_loss, decide
from dpinn.train.distributed import all_reduce_gradients, all_reduce_sum


@dataclass(frozen=True)
class StepParts:
    """Mean milliseconds of the parts of a step, each of the slowest rank.

    Attributes:
        ranks: processes that took part.
        loss_ms: forward and backward pass.
        reduce_ms: the all-reduce of the gradients.
        optimizer_ms: the optimizer's step, the gather of sharded steps included.
        compiled: whether the loss was compiled.
    """

    ranks: int
    loss_ms: float
    reduce_ms: float
    optimizer_ms: float
    compiled: bool

    @property
    def total_ms(self) -> float:
        """All parts."""
        return self.loss_ms + self.reduce_ms + self.optimizer_ms


class LossStep:
    """Forward and backward pass of a configuration's problem on its own points.

    Args:
        settings: problem, network and points.
        device: where to.
        rank: whose share of the batch.
        world_size: among how many.
        create_graph: keep the graph, for optimizers that differentiate the gradient.
    """

    def __init__(
        self,
        settings: Configured,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        create_graph: bool = False,
    ):
        self.pinn = settings.module.pinn.to(device)
        self.collocation = settings.data.collocation
        self.layout = TermLayout.build(self.collocation)
        self.create_graph = create_graph
        self.device, self.rank, self.world_size = device, rank, world_size
        offset, _ = rank_slice(self.collocation.batch, rank, world_size)
        problem = settings.module.problem.to(next(self.pinn.parameters()).dtype, device)
        sums = ResidualSums(self.pinn, problem, self.collocation, offset)
        mode = "off" if create_graph else settings.module.compile_mode
        compiled = None
        if decide(mode, settings.max_steps, device, self.pinn.taylor):
            compiled = compile_loss(sums, self.points(0))
        self.compiled = compiled is not None
        self._sums = compiled or sums.forward

    def points(self, step: int) -> dict[str, Tensor]:
        """This rank's points of a step."""
        return self.collocation.batch_at(
            step,
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
            dtype=next(self.pinn.parameters()).dtype,
        )

    def __call__(self, points: Mapping[str, Tensor]) -> None:
        """Set the gradients to those of the plain sum of the terms' means on this rank."""
        for parameter in self.pinn.parameters():
            parameter.grad = None
        sums = self._sums(points)
        all_reduce_sum(sums.detach())  # for the weights of a real step
        means = [mean.mean() for mean in self.layout.means(sums)]
        torch.stack(means).sum().backward(create_graph=self.create_graph)


def loss_seconds(settings: Configured, device: torch.device, steps: int) -> tuple[float, bool]:
    """Mean seconds of forward and backward pass in this process, and whether it was compiled."""
    loss = LossStep(settings, device)
    series = []
    for step in tqdm(range(2 + steps), desc="forward+backward", disable=None, leave=False):
        points = loss.points(step)
        series.append(seconds(lambda points=points: loss(points), device))  # type: ignore[misc]
    return statistics.fmean(series[2:]), loss.compiled


def step_parts(arguments: list[str], device: torch.device, steps: int) -> StepParts:
    """Time whole steps in this process, with the threads that it has."""
    series = _timed_steps(configured(arguments), device, steps)
    return _parts([series], 1)


def step_parts_on_ranks(
    arguments: list[str], ranks: int, device_type: str, steps: int
) -> StepParts:
    """Time whole steps on local ranks, each with its share of the batch; one thread a CPU rank."""
    answers = on_ranks(
        "dpinn.bench.step.rank_step",
        ranks,
        device_type,
        {"arguments": arguments, "steps": steps},
    )
    return _parts(answers, ranks)


def rank_step(device: torch.device, arguments: list[str], steps: int) -> dict[str, list[float]]:
    """One rank's part of `step_parts_on_ranks`."""
    return _timed_steps(configured(arguments), device, steps)


def _timed_steps(settings: Configured, device: torch.device, steps: int) -> dict[str, list[float]]:
    """Seconds of the parts of each step; ``compiled`` holds 0 or 1."""
    distributed = dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    settings.module.pinn.to(device)
    optimizer = settings.optimizer()
    if needs_closure(optimizer):
        raise DpinnError(
            f"{type(optimizer).__name__} evaluates the loss within its step, which cannot be "
            "split; choose another model.optimizer"
        )
    soap = soap_of(optimizer)
    if soap is not None and world_size > 1:
        assert dist.group.WORLD is not None
        soap.shard_over(dist.group.WORLD)
    create_graph = needs_second_backward(optimizer)
    loss = LossStep(settings, device, rank, world_size, create_graph)
    frequency = 1 if soap is None else soap.param_groups[0]["precondition_frequency"]
    warmup = warmup_steps(frequency)
    parameters = list(settings.module.pinn.parameters())
    parts: dict[str, list[float]] = {"loss": [], "reduce": [], "optimizer": []}
    hidden = None if rank == 0 else True
    for step in tqdm(range(warmup + steps), desc="steps", disable=hidden, leave=False):
        points = loss.points(step)
        if distributed:
            dist.barrier()
        timed = (
            ("loss", lambda points=points: loss(points)),
            ("reduce", lambda: all_reduce_gradients(parameters)),
            ("optimizer", optimizer.step),
        )
        for name, call in timed:
            took = seconds(call, device)
            if step >= warmup:
                parts[name].append(took)
    return parts | {"compiled": [float(loss.compiled)]}


def _parts(answers: list[dict[str, list[float]]], ranks: int) -> StepParts:
    def mean_ms(part: str) -> float:
        slowest = [max(times) for times in zip(*(a[part] for a in answers), strict=True)]
        return 1e3 * statistics.fmean(slowest)

    compiled = all(answer["compiled"] == [1.0] for answer in answers)
    return StepParts(ranks, mean_ms("loss"), mean_ms("reduce"), mean_ms("optimizer"), compiled)
