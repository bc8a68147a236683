"""The runs of an MLflow experiment, read into plain values."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dpinn.errors import DpinnError, shown_uri
from dpinn.problem import snake_case
from dpinn.track.failures import reason
from dpinn.track.naming import NAME_OF, names_in
from dpinn.track.store import connect_existing, resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment as StoredExperiment
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

Array = NDArray[np.float64]

CLOCK = "time/elapsed_s"
"""The metric that holds the seconds of training so far."""

READ = ("loss/", "error/", "alignment/", "time/step_ms", CLOCK)
"""Beginnings of the metrics whose histories are read: each is a request of its own."""

UNREAD = "_cosine"
"""End of those that are not: the mean cosine beside each alignment score."""

OPTIMIZER = "model.optimizer"
"""Where the configuration names the optimizer."""


@dataclass(frozen=True)
class Series:
    """The finite values of one metric, in the order of the steps.

    Attributes:
        steps: `n`-dim, optimizer steps.
        seconds: `n`-dim, of training until then.
        values: `n`-dim.
    """

    steps: Array
    seconds: Array
    values: Array


@dataclass(frozen=True)
class TrackedRun:
    """One training, as the store has it.

    Attributes:
        run_id: in the store.
        name: of the run.
        status: ``finished``, ``failed``, ``killed``, ``running`` or ``scheduled``.
        params: the flattened configuration.
        tags: texts by name.
        last: the last value of every metric.
        histories: of the metrics in `READ`, where they have a finite value.
    """

    run_id: str
    name: str
    status: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    histories: Mapping[str, Series] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return self.status == "finished"

    @property
    def problem(self) -> str:
        """The problem's name; a run that failed at once has it in its configuration alone."""
        stated = self.tags.get("problem")
        return stated or snake_case(_last_part(self.params.get("problem.class_path", "unknown")))

    @property
    def optimizer(self) -> str:
        """The optimizer's class without its package; ``ScheduleFree(SOAP)`` for one around it."""
        return "(".join(name for _, name in self._optimizers) + ")" * (len(self._optimizers) - 1)

    @property
    def learning_rate(self) -> float | None:
        """The learning rate, of the inner optimizer where one wraps another."""
        innermost, _ = self._optimizers[-1]
        return _number(self.params.get(f"{innermost}.init_args.lr"))

    @cached_property
    def _optimizers(self) -> list[tuple[str, str]]:
        """Place in the configuration and class name, from the outermost inwards."""
        found, place = [], OPTIMIZER
        while path := self.params.get(f"{place}.class_path"):
            found.append((place, _last_part(path)))
            place = f"{place}.init_args.base"
        return found or [(OPTIMIZER, "unknown")]

    @property
    def seed(self) -> str:
        """The seed as it was configured."""
        return self.params.get("seed_everything", "unknown")

    @property
    def steps(self) -> int:
        """Optimizer steps that were logged."""
        return int(max((s.steps[-1] for s in self.histories.values()), default=0))

    @property
    def budget(self) -> int:
        """Optimizer steps that the run has, or had, to take."""
        # A resumed run may have been given more than its stored configuration says.
        configured = _number(self.params.get("trainer.max_steps"))
        return self.steps if self.finished else max(int(configured or 0), self.steps)

    @property
    def seconds(self) -> float | None:
        """Training time until the last logged step."""
        return max((float(s.seconds[-1]) for s in self.histories.values()), default=None)

    @property
    def step_ms(self) -> float | None:
        """Milliseconds per step; the median, which evaluations in between do not move."""
        timed = self.histories.get("time/step_ms")
        return None if timed is None else float(np.median(timed.values))

    @property
    def device(self) -> str:
        """The device, and how many ranks there were if several."""
        ranks = self.tags.get("world_size", "1")
        name = self.tags.get("device", "unknown")
        return name if ranks == "1" else f"{ranks} × {name}"

    @property
    def folder(self) -> str:
        """The run's folder on the machine that trained it."""
        return self.tags.get("run_folder", "")

    @property
    def final_errors(self) -> dict[str, float]:
        """Relative L2 error by field after the last step; infinite where it is not finite."""
        return self._finals("final_error/")

    @property
    def residuals(self) -> dict[str, float]:
        """Root mean square of each residual after the last step."""
        return self._finals("residual/")

    @property
    def reference_error(self) -> float:
        """The reference's own relative error; NaN where it is not known."""
        return self.last.get("reference_error", math.nan)

    def late_mean(self, metric: str) -> float | None:
        """The mean of a metric over the last half of the training."""
        series = self.histories.get(metric)
        if series is None or not (late := series.steps > self.steps / 2).any():
            return None
        return float(np.mean(series.values[late]))

    def _finals(self, prefix: str) -> dict[str, float]:
        found = {k.removeprefix(prefix): v for k, v in self.last.items() if k.startswith(prefix)}
        return {name: v if _is_finite(v) else math.inf for name, v in found.items()}


@dataclass(frozen=True)
class Experiment:
    """An experiment with its runs, the oldest first.

    Attributes:
        name: of the experiment.
        store: where it was read, without a password.
        runs: at least one of them has finished.
    """

    name: str
    store: str
    runs: Sequence[TrackedRun]

    @classmethod
    def read(cls, name: str, tracking_uri: str | None = None) -> Experiment:
        """Read an experiment, with a bar on a terminal as long as it takes.

        Args:
            name: of the experiment.
            tracking_uri: of the store; ``MLFLOW_TRACKING_URI`` or the database in this folder.

        Raises:
            DpinnError: there is no such experiment or no finished run in it, or the store is
                missing or does not answer.
        """
        uri = resolve_tracking_uri(tracking_uri)
        client = connect_existing(uri, f"experiment {name!r}")
        store = shown_uri(uri)
        from mlflow.exceptions import MlflowException

        try:
            stored = list(_runs_of(client, _find(client, name, store)))
            _require_finished(name, [run.info.status.lower() for run in stored])
            bar = tqdm(stored, desc=f"reading {name}", unit="run", disable=None, leave=False)
            runs = [_tracked(client, run) for run in bar]
        except MlflowException as error:
            raise DpinnError(
                f"the MLflow store {store} stopped answering while {name!r} was read "
                f"({reason(error)}); try again"
            ) from error
        return cls(name, store, runs)


def _find(client: MlflowClient, name: str, store: str) -> StoredExperiment:
    known = {e.name: e for e in _pages(client.search_experiments)}
    if name in known:
        return known[name]
    nearest = sorted(known, key=lambda other: -SequenceMatcher(None, name, other).ratio())
    raise DpinnError(
        f"there is no experiment {name!r} in {store}; there is {', '.join(nearest) or 'none'}"
    )


def _require_finished(name: str, statuses: Sequence[str]) -> None:
    if "finished" not in statuses:
        counts = ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses))
        raise DpinnError(
            f"the experiment {name!r} has no finished run ({counts or 'it is empty'}); "
            f"train one with `dpinn fit --tracking.experiment {name}`"
        )


def _runs_of(client: MlflowClient, experiment: StoredExperiment) -> Iterator[Run]:
    identifiers = [experiment.experiment_id]
    return _pages(client.search_runs, identifiers, order_by=["attributes.start_time ASC"])


def _pages(search: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    """Everything that a search of MLflow finds, page by page."""
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def _tracked(client: MlflowClient, run: Run) -> TrackedRun:
    names = names_in(run.data.tags)
    keys = {names.get(key, key): key for key in run.data.metrics}
    read = sorted(name for name in keys if name.startswith(READ) and not name.endswith(UNREAD))
    histories = {}
    for name in read:
        history = client.get_metric_history(run.info.run_id, keys[name])
        series = _series(history, run.info.start_time)
        if series is not None:
            histories[name] = series
    return TrackedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status.lower(),
        params={names.get(key, key): value for key, value in run.data.params.items()},
        tags={k: v for k, v in run.data.tags.items() if not k.startswith(NAME_OF)},
        last={name: run.data.metrics[key] for name, key in keys.items()},
        histories=_on_the_clock(histories),
    )


def _series(metrics: Sequence[Metric], start_ms: int) -> Series | None:
    # A step that was logged twice counts as it was logged last.
    by_step = {m.step: m for m in sorted(metrics, key=lambda m: m.timestamp)}
    points = [(s, (m.timestamp - start_ms) / 1e3, m.value) for s, m in sorted(by_step.items())]
    finite = np.array([p for p in points if _is_finite(p[2])], dtype=float)
    return Series(finite[:, 0], finite[:, 1], finite[:, 2]) if len(finite) else None


def _on_the_clock(histories: Mapping[str, Series]) -> dict[str, Series]:
    """Replace the time of day, in which a run may have waited in a queue, by that of training."""
    clock = histories.get(CLOCK)
    if clock is None:
        return dict(histories)
    steps, seconds = np.append(0.0, clock.steps), np.append(0.0, clock.values)
    return {
        name: replace(series, seconds=np.interp(series.steps, steps, seconds))
        for name, series in histories.items()
    }


def _is_finite(value: float) -> bool:
    # A database holds the largest float where infinity was logged.
    return math.isfinite(value) and abs(value) < sys.float_info.max


def _last_part(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
