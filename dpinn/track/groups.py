"""The runs of an experiment by problem and optimizer, and what each group has reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dpinn.analysis import Evaluation
from dpinn.track.experiment import TrackedRun

SCORES = ("intra", "preconditioned")
"""The alignment scores of the table."""

OF_A_RUN = ("seed_everything", "data.seed", "trainer.max_steps", "tracking.")
"""Beginnings of the parameters in which the runs of a group may differ without a word."""

OF_A_MACHINE = "trainer."
"""Beginning of the parameters that say how a run is computed; a group may differ in them, and says
so. The precision, among them, decides what is computed."""

PRECISION = "trainer.precision"


@dataclass(frozen=True)
class Spread:
    """Median and range of a number over the seeds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """The spread of the values that are there; None without any."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        return cls(float(np.median(known)), min(known), max(known))


@dataclass(frozen=True)
class Group:
    """Trainings of one problem by one optimizer, alike but for the seed.

    What they have reached is that of the finished ones; a group without any has nothing.

    Attributes:
        problem: the problem's name.
        label: the optimizer's name, with its learning rate, its steps and whatever else of the
            configuration tells it from other groups of the problem.
        runs: at least one.
    """

    problem: str
    label: str
    runs: tuple[TrackedRun, ...]

    @cached_property
    def finished(self) -> tuple[TrackedRun, ...]:
        """The runs that came to their end."""
        return tuple(run for run in self.runs if run.finished)

    @property
    def learning_rate(self) -> float | None:
        """The learning rate that the runs share."""
        return self.runs[0].learning_rate

    @property
    def seeds(self) -> list[str]:
        """The seeds of the finished runs, or of all where none has finished."""
        seeds = {run.seed for run in self.finished or self.runs}
        return sorted(seeds, key=lambda seed: (len(seed), seed))

    @property
    def budget(self) -> int:
        """Optimizer steps that each run takes."""
        return self.runs[0].budget

    @cached_property
    def errors(self) -> dict[str, Spread]:
        """Final relative L2 error by field."""
        return self._spreads([run.final_errors for run in self.finished])

    @cached_property
    def residuals(self) -> dict[str, Spread]:
        """Final root mean square of each residual."""
        return self._spreads([run.residuals for run in self.finished])

    @property
    def reference_error(self) -> float:
        """The reference's own error, the largest if they differ; NaN where it is not known."""
        stated = (run.reference_error for run in self.finished)
        return max((own for own in stated if not math.isnan(own)), default=math.nan)

    @cached_property
    def alignment(self) -> dict[str, Spread | None]:
        """Each of `SCORES`, a run's mean over the last half of its training."""
        return {
            name: Spread.of(run.late_mean(f"alignment/{name}") for run in self.finished)
            for name in SCORES
        }

    @property
    def seconds(self) -> Spread | None:
        """Training time."""
        return Spread.of(run.seconds for run in self.finished)

    @property
    def step_ms(self) -> Spread | None:
        """Milliseconds per step."""
        return Spread.of(run.step_ms for run in self.finished)

    @property
    def devices(self) -> list[str]:
        """What the runs were trained on."""
        return sorted({run.device for run in self.runs})

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs there are of each status."""
        statuses = [run.status for run in self.runs]
        return {
            status: statuses.count(status)
            for status in dict.fromkeys(sorted(statuses, key=lambda s: (s != "finished", s)))
        }

    @property
    def differing(self) -> dict[str, list[str]]:
        """Parameters in which the runs differ beside the seed, with their values."""
        return _differing(self.runs)

    def statement(self, error: float) -> str:
        """An error as it may be printed: a bound where the reference cannot resolve it."""
        if not math.isfinite(error):
            return "not finite"
        return Evaluation({"": error}, self.reference_error, {}).statement("")

    def row(self) -> dict[str, Any]:
        """The group as a row of the table, in plain values; what is not known is None."""
        errors = {
            field: _plain(spread) | {"statement": self.statement(spread.median)}
            for field, spread in self.errors.items()
        }
        return {
            "problem": self.problem,
            "optimizer": self.label,
            "learning_rate": self.learning_rate,
            "seeds": self.seeds,
            "steps": self.budget,
            "errors": errors,
            "residuals": {term: _plain(spread) for term, spread in self.residuals.items()},
            "reference_error": _known(self.reference_error),
            "alignment": {name: _plain(spread) for name, spread in self.alignment.items()},
            "seconds": _plain(self.seconds),
            "step_ms": _plain(self.step_ms),
            "devices": self.devices,
            "statuses": self.statuses,
            "differing": self.differing,
            "run_ids": [run.run_id for run in self.runs],
        }

    @staticmethod
    def _spreads(found: Sequence[dict[str, float]]) -> dict[str, Spread]:
        names = dict.fromkeys(name for values in found for name in values)
        spreads = {name: Spread.of(values.get(name) for values in found) for name in names}
        return {name: spread for name, spread in spreads.items() if spread is not None}


def group_runs(runs: Sequence[TrackedRun]) -> dict[str, list[Group]]:
    """The groups of each problem, both in alphabetical order, learning rates in their own."""
    labels = _labels(runs)
    members: dict[tuple[str, str], list[TrackedRun]] = {}
    for run in sorted(runs, key=lambda run: (*_order(run), labels[run.run_id], *_seed(run))):
        members.setdefault((run.problem, labels[run.run_id]), []).append(run)
    groups: dict[str, list[Group]] = {}
    for (problem, label), alike in members.items():
        groups.setdefault(problem, []).append(Group(problem, label, tuple(alike)))
    return groups


def _order(run: TrackedRun) -> tuple[str, str, float, int]:
    return run.problem, run.optimizer.lower(), run.learning_rate or 0.0, run.budget


def _seed(run: TrackedRun) -> tuple[int, str]:
    return len(run.seed), run.seed


def _labels(runs: Sequence[TrackedRun]) -> dict[str, str]:
    """The optimizer's label by run id, the same wherever an optimizer is told apart the same."""
    rates: dict[str, set[float | None]] = {}
    for run in runs:
        rates.setdefault(run.optimizer, set()).add(run.learning_rate)
    labels = {}
    for run in runs:
        rate = run.learning_rate
        shown = rate is not None and len(rates[run.optimizer]) > 1
        labels[run.run_id] = f"{run.optimizer}, lr {rate:g}" if shown else run.optimizer
    budgets: dict[tuple[str, str], set[int]] = {}
    for run in runs:
        budgets.setdefault((run.problem, labels[run.run_id]), set()).add(run.budget)
    several = {label for (_, label), found in budgets.items() if len(found) > 1}
    for run in runs:
        if labels[run.run_id] in several:
            labels[run.run_id] += f", {run.budget:,} steps"
    alike: dict[tuple[str, str], list[TrackedRun]] = {}
    for run in runs:
        alike.setdefault((run.problem, labels[run.run_id]), []).append(run)
    for members in alike.values():
        for run, words in zip(members, _distinctions(members), strict=True):
            labels[run.run_id] += words
    return labels


def _distinctions(runs: Sequence[TrackedRun]) -> list[str]:
    """What each run's label needs besides, so that only runs of one configuration share one.

    Runs are divided by one parameter, classes first, and then each part by what still differs in
    it: two classes of networks differ in all of their arguments, which says no more.
    """
    names = [n for n in _differing(runs) if not n.startswith(OF_A_MACHINE) or n == PRECISION]
    if not names:
        return ["" for _ in runs]
    name = min(names, key=lambda name: (not name.endswith(".class_path"), name))
    parts: dict[str | None, list[int]] = {}
    for k, run in enumerate(runs):
        parts.setdefault(run.params.get(name), []).append(k)
    found = [""] * len(runs)
    for value, members in parts.items():
        rest = _distinctions([runs[k] for k in members])
        for k, words in zip(members, rest, strict=True):
            found[k] = f", {_stated(name, value)}{words}"
    return found


def _stated(name: str, value: str | None) -> str:
    """``model.network.init_args.width`` of 64 as ``width 64``, a class by the last of its path."""
    path = [part for part in name.split(".") if part != "init_args"]
    if path[-1] == "class_path":
        return f"no {path[-2]}" if value is None else value.rsplit(".", 1)[-1]
    return f"{path[-1]} {'not set' if value is None else value}"


def _differing(runs: Sequence[TrackedRun]) -> dict[str, list[str]]:
    """Parameters in which runs differ, with their values."""
    names = sorted({name for run in runs for name in run.params})
    values = {
        name: sorted({run.params.get(name, "not set") for run in runs})
        for name in names
        if not name.startswith(OF_A_RUN)
    }
    return {name: found for name, found in values.items() if len(found) > 1}


def _plain(spread: Spread | None) -> dict[str, Any]:
    if spread is None:
        return {}
    return {
        "median": _known(spread.median),
        "min": _known(spread.lowest),
        "max": _known(spread.highest),
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
