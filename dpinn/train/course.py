"""Where a training stands among its stages, and what the finished ones have left."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpinn.errors import DpinnError
from dpinn.loss.residuals import condition_residuals
from dpinn.nn import PINN, WindowedPINN
from dpinn.problem import INITIAL, Problem
from dpinn.train.stages import Stage

OTHER_STAGES = (
    "the checkpoint was written with other stages of training; resume with the model.stages and "
    "trainer.max_steps that the run began with, or begin a new run"
)


class Course:
    """The plan, the present stage, and the finished windows' weights.

    Args:
        plan: at least one stage.

    Attributes:
        stage: where the training stands; None before its first step.
        finished: state of the solution at the end of each finished time window.
    """

    def __init__(self, plan: Sequence[Stage]):
        self.plan = tuple(plan)
        self.stage: Stage | None = None
        self.finished: list[dict[str, Tensor]] = []
        self._before: PINN | None = None

    @property
    def marches(self) -> bool:
        """Whether the stages are time windows."""
        return self.plan[0].interval is not None

    def stage_at(self, step: int) -> Stage:
        """The stage of a step; steps after the plan's end belong to its last."""
        return next((s for s in self.plan if step < s.end), self.plan[-1])

    def finish(self, solution: dict[str, Tensor]) -> None:
        """Keep the solution of a stage that has ended, if it is one of a window."""
        if self.marches:
            self.finished.append(solution)

    def enter(self, stage: Stage, pinn: PINN) -> None:
        """Go to a stage; a window that is not the first starts from the one before."""
        self.stage = stage
        if self.marches and stage.index > 0:
            if self._before is None:
                self._before = copy.deepcopy(pinn).requires_grad_(False)
            self._before.load_state_dict(self.finished[stage.index - 1])

    @torch.no_grad()
    def at_seam(self, problem: Problem, points: Tensor) -> Tensor:
        """What the terms of the initial condition are in the window before, ``n x terms``.

        Args:
            problem: whose initial condition is meant.
            points: ``n x coordinates``, at the start of the present window.
        """
        condition = next(c for c in problem.conditions if c.name == INITIAL)
        if self._before is None:
            return points.new_zeros(len(points), len(condition.terms))
        return torch.stack(condition_residuals(self._before, problem, condition, points), dim=1)

    def whole(self, pinn: PINN) -> PINN | WindowedPINN:
        """The network over all of time: that of the present window with those that are finished."""
        if not self.finished:
            return pinn
        windows = []
        for state in self.finished:
            windows.append(copy.deepcopy(pinn).requires_grad_(False))
            windows[-1].load_state_dict(state)
        seams = [stage.interval[1] for stage in self.plan[: len(windows)] if stage.interval]
        return WindowedPINN([*windows, pinn], seams)

    # --- state ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The finished windows, and all stages up to the present one as plain values."""
        known = [_plain(stage) for stage in self.plan[: (self.stage or self.plan[0]).index + 1]]
        return {"stages": known, "finished": self.finished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the finished windows of a run.

        Raises:
            DpinnError: it had other stages than are planned now.
        """
        planned = [_plain(stage) for stage in self.plan[: len(state["stages"])]]
        if planned != state["stages"]:
            raise DpinnError(OTHER_STAGES)
        self.finished = list(state["finished"])


def _plain(stage: Stage) -> dict[str, Any]:
    """A stage as a checkpoint may hold it, whatever kinds of numbers a user's plan has."""
    return {
        "first": int(stage.first),
        "end": int(stage.end),
        "interval": None if stage.interval is None else [float(t) for t in stage.interval],
        "parameters": {name: float(value) for name, value in stage.parameters.items()},
    }
