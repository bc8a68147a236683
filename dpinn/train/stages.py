"""Stages of a training: time windows, or a curriculum over a parameter of the problem.

A plan of stages is a value, made before the first step. Each stage starts from the parameters of
the one before, with a new optimizer and schedule; which one a step belongs to follows from the
step alone.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from dpinn.errors import DpinnError
from dpinn.jet.plan import TIME
from dpinn.problem import INITIAL, Problem


@dataclass(frozen=True)
class Stage:
    """Successive optimizer steps that are trained alike.

    Attributes:
        index: counted from 0.
        first: its first step.
        end: the step after its last.
        interval: of time, where it trains a window; None trains the whole domain.
        parameters: values of the problem's attributes, where it is one of a curriculum.
    """

    index: int
    first: int
    end: int
    interval: tuple[float, float] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        what = [f"{k} = {v:g}" for k, v in self.parameters.items()]
        if self.interval is not None:
            what.append("t from {:g} to {:g}".format(*self.interval))
        return f"stage {self.index + 1}: {', '.join(what)}, {self.end - self.first} steps"


class Stages(ABC):
    """Base of all plans; a user's own works by class path."""

    @abstractmethod
    def plan(self, problem: Problem, max_steps: int) -> tuple[Stage, ...]:
        """Divide ``max_steps`` optimizer steps into stages.

        Raises:
            DpinnError: they do not divide, or do not fit the problem.
        """


class TimeWindows(Stages):
    """Equal windows of time, one after the other, each with the same number of steps.

    A window starts from the prediction at the end of the one before: there its initial condition
    is that ``initial`` takes the same values for both networks. A solution picks its window by t.

    Args:
        count: number of windows.
    """

    def __init__(self, count: int = 10):
        if count < 1:
            raise DpinnError(f"count {count} must be at least 1 time window")
        self.count = count

    def plan(self, problem: Problem, max_steps: int) -> tuple[Stage, ...]:
        """One stage a window."""
        title = type(problem).__name__
        if not any(c.name == INITIAL for c in problem.conditions):
            raise DpinnError(
                f"{title} has no initial condition, from which time windows could march; leave "
                "model.stages out"
            )
        for condition in problem.conditions:
            if condition.name != INITIAL and any(name == TIME for name, _ in condition.faces):
                raise DpinnError(
                    f"{title}.{condition.name} holds at one time, which time windows would train "
                    "in each of them; leave model.stages out"
                )
        if max_steps % self.count:
            below = max_steps // self.count * self.count
            raise DpinnError(
                f"trainer.max_steps {max_steps} does not divide into {self.count} time windows; "
                f"use {below + self.count}" + (f" or {below}" if below else "")
            )
        start, end = problem.domain[TIME]
        seams = [start + (end - start) * k / self.count for k in range(self.count)] + [end]
        steps = max_steps // self.count
        return tuple(
            Stage(k, k * steps, (k + 1) * steps, interval)
            for k, interval in enumerate(pairwise(seams))
        )


class Curriculum(Stages):
    """A parameter of the problem that is raised from stage to stage, such as a Reynolds number.

    Args:
        parameter: an attribute of the problem, which its conditions read when they are called.
        values: of each stage; the last is the problem's own.
        steps: optimizer steps of each stage; together they are ``trainer.max_steps``.
    """

    def __init__(self, parameter: str, values: Sequence[float], steps: Sequence[int]):
        if not values or len(values) != len(steps):
            raise DpinnError(
                f"a curriculum needs as many steps as values, not {len(steps)} for {len(values)}"
            )
        if min(steps) < 1:
            raise DpinnError(f"steps {list(steps)} of a curriculum must all be at least 1")
        self.parameter = parameter
        self.values = tuple(float(v) for v in values)
        self.steps = tuple(steps)

    def plan(self, problem: Problem, max_steps: int) -> tuple[Stage, ...]:
        """One stage a value."""
        title, name = type(problem).__name__, self.parameter
        own = getattr(problem, name, None)
        if isinstance(own, bool) or not isinstance(own, int | float):
            raise DpinnError(f"{title} has no number {name!r} that a curriculum could change")
        if self.values[-1] != own:
            raise DpinnError(
                f"the curriculum ends at {name} = {self.values[-1]:g}, but that of the problem is "
                f"{own:g}; make them equal"
            )
        if sum(self.steps) != max_steps:
            raise DpinnError(
                f"the curriculum has {sum(self.steps)} steps, but trainer.max_steps is "
                f"{max_steps}; make them equal"
            )
        _require_effect(problem, name)
        plan, first = [], 0
        for index, (value, steps) in enumerate(zip(self.values, self.steps, strict=True)):
            plan.append(Stage(index, first, first + steps, parameters={name: value}))
            first += steps
        return tuple(plan)


def plan_stages(
    stages: Stages | None, problem: Problem, max_steps: int, inner_steps: int
) -> tuple[Stage, ...]:
    """The plan, or one stage for the whole training.

    Raises:
        DpinnError: a stage does not begin with a Lightning batch.
    """
    if stages is None or max_steps < 1:
        return (Stage(0, 0, max_steps),)
    plan = stages.plan(problem, max_steps)
    for stage in plan:
        if stage.first % inner_steps:
            raise DpinnError(
                f"{stage} begins at step {stage.first}, which is no multiple of data.inner_steps, "
                f"{inner_steps}"
            )
    return plan


def adjust(problem: Problem, stage: Stage) -> None:
    """Give a problem, a copy of one's own, the parameters of a stage.

    They become tensors and change in place, so that a loss compiled with them stays valid.
    """
    for name, value in stage.parameters.items():
        own = getattr(problem, name)
        if isinstance(own, torch.Tensor):
            own.fill_(value)
        else:
            setattr(problem, name, torch.tensor(value, dtype=torch.float64))


def _require_effect(problem: Problem, name: str) -> None:
    """Refuse a parameter that no condition reads when it is called."""
    changed = copy.copy(problem)
    changed.__dict__.pop("conditions", None)
    read: list[str] = []

    class Watched(type(problem)):  # type: ignore[misc]
        def __getattribute__(self, attribute: str) -> object:
            if attribute == name:
                read.append(attribute)
            return super().__getattribute__(attribute)

    changed.__class__ = Watched
    _ = changed.conditions
    if not read:
        raise DpinnError(
            f"no condition of {type(problem).__name__} reads self.{name}, so a curriculum over it "
            "would change nothing; let them read it when they are called"
        )
