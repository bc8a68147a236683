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

from dpinn.box import SAME
from dpinn.errors import DpinnError
from dpinn.jet import Field
from dpinn.jet.field import Key
from dpinn.jet.plan import LAPLACIAN, TIME
from dpinn.problem import INITIAL, Problem

PROBES = 5
"""Points at which an initial condition is tried."""


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
        if max_steps % self.count:
            below = max_steps // self.count * self.count
            raise DpinnError(
                f"trainer.max_steps {max_steps} does not divide into {self.count} time windows; "
                f"use {below + self.count}" + (f" or {below}" if below else "")
            )
        start, end = problem.domain[TIME] if TIME in problem.domain.coordinates else (0.0, 0.0)
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
        if isinstance(getattr(type(problem), name, None), property):
            raise DpinnError(
                f"{title}.{name} is a property, which a curriculum cannot change; name the "
                "attribute that it follows from"
            )
        if self.values[-1] != own:
            raise DpinnError(
                f"the curriculum ends at {name} = {self.values[-1]!r}, but that of the problem is "
                f"{own!r}; make them equal"
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
        DpinnError: the stages have gaps, do not fit the problem, or one does not begin with a
            Lightning batch.
    """
    if stages is None or max_steps < 1:
        return (Stage(0, 0, max_steps),)
    plan = tuple(stages.plan(problem, max_steps))
    _require_order(plan, problem, max_steps, type(stages).__name__)
    if plan[0].interval is not None:
        _require_start(problem)
        _require_affine(problem)
    for stage in plan:
        if stage.first % inner_steps:
            raise DpinnError(
                f"{stage} begins at step {stage.first}, which is no multiple of data.inner_steps, "
                f"{inner_steps}"
            )
    return plan


def adjust(problem: Problem, stage: Stage, like: torch.Tensor) -> None:
    """Give a problem, a copy of one's own, the parameters of a stage.

    They become tensors, with the dtype and device of one of the network's, and change in place, so
    that a loss compiled with them stays valid.
    """
    for name, value in stage.parameters.items():
        own = getattr(problem, name)
        if isinstance(own, torch.Tensor):
            own.fill_(value)
        else:
            setattr(problem, name, torch.tensor(value, dtype=like.dtype, device=like.device))


def _require_order(plan: Sequence[Stage], problem: Problem, max_steps: int, name: str) -> None:
    """Refuse a plan with gaps, which only a user's own could have."""
    firsts = [stage.first for stage in plan]
    ends = [stage.end for stage in plan]
    follow = firsts == [0, *ends[:-1]] and ends[-1:] == [max_steps]
    if not follow or any(stage.first >= stage.end for stage in plan):
        raise DpinnError(
            f"{name} plans the steps {list(zip(firsts, ends, strict=True))}; stages must follow "
            f"one another from step 0 to {max_steps}, each with at least one"
        )
    if [stage.index for stage in plan] != list(range(len(plan))):
        raise DpinnError(f"{name} must number its stages 0, 1, ... in their order")
    if any(stage.parameters.keys() != plan[0].parameters.keys() for stage in plan):
        raise DpinnError(f"{name} must give each stage a value of every parameter that one has")
    intervals = [stage.interval for stage in plan]
    marches = [i for i in intervals if i is not None]
    if marches and (len(marches) < len(plan) or any(a[1] != b[0] for a, b in pairwise(marches))):
        raise DpinnError(
            f"{name} plans the intervals of time {intervals}; each must begin where the one before "
            "ends, and all stages need one or none does"
        )
    domain = problem.domain[TIME] if TIME in problem.domain.coordinates else None
    if marches and domain is not None and not _same(domain, (marches[0][0], marches[-1][1])):
        raise DpinnError(
            f"{name} plans the intervals of time {intervals}; together they must be the problem's, "
            f"from {domain[0]:g} to {domain[1]:g}"
        )


def _same(interval: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two intervals are the same but for rounding."""
    margin = SAME * (interval[1] - interval[0])
    return all(abs(a - b) <= margin for a, b in zip(interval, other, strict=True))


def _require_start(problem: Problem) -> None:
    """Refuse windows of a problem that does not start anywhere, or is held at other times."""
    title = type(problem).__name__
    if not any(c.name == INITIAL for c in problem.conditions):
        raise DpinnError(
            f"{title} has no initial condition, from which time windows could march; leave "
            "model.stages out"
        )
    for condition in problem.conditions:
        if condition.name != INITIAL and any(TIME in p for p in condition.places):
            raise DpinnError(
                f"{title}.{condition.name} holds at one time, which time windows would train "
                "in each of them; leave model.stages out"
            )


def _require_affine(problem: Problem) -> None:
    """Refuse an initial condition that is not affine, since it would not fix a window's start."""
    condition = next(c for c in problem.conditions if c.name == INITIAL)
    problem = problem.to(torch.float64, "cpu")
    box, generator = problem.domain, torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    low, high = (torch.tensor(b, dtype=torch.float64) for b in (box.lower(), box.upper()))
    points = low + random(PROBES, len(low)) * (high - low)
    points[:, box.coordinates.index(TIME)] = box[TIME][0]
    # The Laplacian may be read where all of its parts are, too.
    keys: list[Key] = [*condition.plan.partials[1:], LAPLACIAN]
    count = len(problem.fields)
    first, second = (2 * random(count, 1 + len(keys), PROBES) - 1 for _ in range(2))

    def terms(numbers: torch.Tensor) -> torch.Tensor:
        fields = {
            name: Field(name, row[0], box.coordinates, dict(zip(keys, row[1:], strict=True)))
            for name, row in zip(problem.fields, numbers, strict=True)
        }
        return torch.stack(list(problem.evaluate(condition, fields, points).values()))

    between = 0.3 * terms(first) + 0.7 * terms(second)
    for name, ours, expected in zip(
        condition.terms, terms(0.3 * first + 0.7 * second), between, strict=True
    ):
        if not torch.allclose(ours, expected):
            raise DpinnError(
                f"{type(problem).__name__}.{INITIAL}: the term {name!r} is not affine in the "
                "fields, so it cannot tell where a time window starts; write it as u - u0"
            )


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
