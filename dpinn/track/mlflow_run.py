"""One training as one MLflow run, however often it is requeued."""

from __future__ import annotations

import getpass
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from dpinn.errors import DpinnError, DpinnWarning, shown_uri
from dpinn.track.database import artifact_location, database_file
from dpinn.track.failures import StoreAwayError, is_refusal, reason
from dpinn.track.naming import flatten, key_of, name_tags, shorten
from dpinn.track.outbox import MetricValue, Outbox
from dpinn.track.store import (
    await_store,
    connect,
    resolve_tracking_uri,
    time_to_upload,
)
from dpinn.track.system_metrics import PREFIX, SystemMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import RunInfo
    from mlflow.tracking import MlflowClient

PARAMS_PER_REQUEST = 100  # MLflow's limit
FLUSH_TIMEOUT_S = 5.0
UPLOAD_TIMEOUT_S = 600.0  # at the end of a training, the upload of its checkpoint included
FINISH_PATIENCE_S = 30.0  # then, with a store that fails
STOP_TIMEOUT_S = 10.0  # of a run that was told to stop: SLURM kills it after 30 s

Status = Literal["FINISHED", "FAILED", "KILLED", "SCHEDULED"]
"""How a run is left; one that is scheduled waits in a queue."""


class MLflowRun:
    """A run in the store, open for logging. Made with `start`, on rank 0 only.

    Nothing that is logged waits for the store: values gather in memory and one thread sends
    them. While the store is away they are kept, and sent when it is back. What the store holds
    already of a run that is continued is not sent again, so that all of it may be logged anew.
    """

    def __init__(self, tracking_uri: str, run_id: str, client: MlflowClient | None = None):
        self._uri = tracking_uri
        self._opened = client
        self._run_id = run_id
        self._before: RunInfo | None = None
        self._experiment_id: str | None = None
        self._finished = False
        self._held_params: set[str] = set()
        self._held_steps: dict[str, int] = {}
        self._kept_names: set[str] = set()
        self._system_metrics = SystemMetrics()
        self._outbox = Outbox(self._send_metrics, is_refusal, shown_uri(tracking_uri), reason)

    @classmethod
    def start(
        cls,
        experiment: str,
        run_name: str,
        run_id: str | None = None,
        tracking_uri: str | None = None,
    ) -> MLflowRun:
        """Open a new run, or continue ``run_id``: then its steps and parameters are not repeated.

        A new run needs a store that answers within seconds. A continued one does not: it has
        been waiting in a queue, and what it logs is delivered later.

        Raises:
            DpinnError: the store does not answer or refuses the login, the run is unknown or
                deleted, or the experiment is deleted.
        """
        uri = resolve_tracking_uri(tracking_uri)
        if run_id is not None:
            return cls._continue(uri, run_id)
        from mlflow.exceptions import MlflowException

        client = connect(uri)
        await_store(client, uri)
        tags = {
            "mlflow.user": _user(),
            "mlflow.source.name": Path(sys.argv[0]).name or "python",
            "mlflow.source.type": "LOCAL",
        }
        try:
            experiment_id = _experiment_id(client, experiment, uri)
            created = client.create_run(experiment_id, run_name=shorten(run_name), tags=tags)
        except MlflowException as error:
            raise DpinnError(
                f"MLflow cannot open a run of experiment {experiment!r} in "
                f"{shown_uri(uri)}: {reason(error)}"
            ) from error
        run = cls(uri, created.info.run_id, client)
        run._experiment_id = experiment_id
        return run

    @classmethod
    def _continue(cls, uri: str, run_id: str) -> MLflowRun:
        run = cls(uri, run_id)
        try:
            run._reopen()
        except Exception as error:
            if is_refusal(error):
                if isinstance(error, DpinnError):
                    raise
                raise unknown_run(uri, run_id) from error
            warnings.warn(
                f"nothing reaches the MLflow store {shown_uri(uri)} "
                f"({reason(error)}); run {run_id} goes on, and what it logs is kept and sent later",
                DpinnWarning,
                stacklevel=3,
            )
            run._outbox.put([run._reopen_late])
        return run

    def _reopen_late(self) -> None:
        try:
            self._reopen()
        except DpinnError as error:
            if self._opened is None:  # what is there may still be starting
                raise StoreAwayError(str(error)) from error
            raise

    def _reopen(self) -> None:
        """Set the run going again and note what the store holds of it."""
        stored = self._client.get_run(self._run_id)
        if stored.info.lifecycle_stage == "deleted":
            raise DpinnError(f"the MLflow run {self._run_id} is deleted; restore it or start anew")
        self._before = stored.info
        self._client.update_run(self._run_id, status="RUNNING")
        self._held_params = set(stored.data.params)
        # Values arrive in order of their steps, so the last one tells which are there.
        self._held_steps = {m.key: int(m.step) for m in stored.to_proto().data.metrics}
        self._experiment_id = stored.info.experiment_id

    def take_back(self) -> None:
        """Undo `start`, if the store lets: a new run is deleted, a continued one is as it was."""
        before = self._before
        try:
            if before is None:
                self._client.delete_run(self._run_id)
            elif before.end_time is None:
                self._client.update_run(self._run_id, status=before.status)
            else:
                self._client.set_terminated(self._run_id, before.status, before.end_time)
        except Exception as error:
            warnings.warn(
                f"the MLflow run {self._run_id} stays as {shown_uri(self._uri)} has it "
                f"({reason(error)})",
                DpinnWarning,
                stacklevel=2,
            )

    @property
    def _client(self) -> MlflowClient:
        """Opened when it is first needed: a store that is away when a run goes on may come back."""
        if self._opened is None:
            self._opened = connect(self._uri)
        return self._opened

    @property
    def run_id(self) -> str:
        """The run's id in the store; kept in checkpoints."""
        return self._run_id

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None while a continued run waits for its store."""
        return self._experiment_id

    @property
    def url(self) -> str:
        """The run's page on the server; for a database, the URI of the store."""
        uri = shown_uri(self._uri).rstrip("/")
        if not uri.startswith("http") or self._experiment_id is None:
            return uri
        return f"{uri}/#/experiments/{self._experiment_id}/runs/{self._run_id}"

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a configuration; ``{"model": {"width": 256}}`` becomes ``model.width``.

        Values beyond 250 characters are cut, with an ellipsis and a digest at the end.
        """
        named = flatten(params)
        self._keep_names(named)
        flat = {key_of(name): value for name, value in named.items()}

        def send() -> None:
            from mlflow.entities import Param

            new = [Param(k, v) for k, v in flat.items() if k not in self._held_params]
            for i in range(0, len(new), PARAMS_PER_REQUEST):
                self._client.log_batch(self._run_id, params=new[i : i + PARAMS_PER_REQUEST])
            self._held_params.update(flat)

        self._outbox.put([send])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, over earlier ones of the same name."""
        self._put_tags({key_of(name): shorten(str(value)) for name, value in tags.items()})

    def _keep_names(self, names: Iterable[str]) -> None:
        """Keep in tags the names that MLflow does not take as they are."""
        new = set(names) - self._kept_names
        self._kept_names |= new
        if tags := name_tags(sorted(new)):
            self._put_tags(tags)

    def _put_tags(self, flat: Mapping[str, str]) -> None:
        def send() -> None:
            from mlflow.entities import RunTag

            entities = [RunTag(k, v) for k, v in flat.items()]
            for i in range(0, len(entities), PARAMS_PER_REQUEST):
                self._client.log_batch(self._run_id, tags=entities[i : i + PARAMS_PER_REQUEST])

        self._outbox.put([send])

    def log_metrics(
        self, metrics: Mapping[str, float], step: int, time_s: float | None = None
    ) -> None:
        """Log values under path names such as ``loss/pde``; any float, NaN and inf included.

        What MLflow does not take as a name gets the key that `key_of` gives.

        Args:
            metrics: by name.
            step: the optimizer step.
            time_s: when they were measured, seconds since 1970; now if left out.
        """
        at = round(1e3 * (time.time() if time_s is None else time_s))
        self._keep_names(metrics)
        self._outbox.put(MetricValue(key_of(n), float(v), step, at) for n, v in metrics.items())

    def log_system_metrics(self, step: int) -> None:
        """Log how busy this machine is, every ten seconds at most; call it at any step."""
        found = self._system_metrics.sample()
        if found:
            self.log_metrics(found, step)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as the artifact ``name``, a path such as ``config/run.yaml``."""
        self._outbox.put_file(self._upload(text.encode(), name))

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Store a file as it is when it is sent, under its own name, in an artifact folder."""
        source = Path(path).absolute()
        if not source.is_file():
            raise DpinnError(f"cannot log {source}: there is no such file")

        def send() -> None:
            with time_to_upload(source.stat().st_size):
                self._client.log_artifact(self._run_id, str(source), folder or None)

        self._outbox.put_file(send)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Draw a figure now and store it as the artifact ``name``, such as ``figures/u.png``."""
        picture = io.BytesIO()
        figure.savefig(picture, format=PurePosixPath(name).suffix[1:] or "png")
        self._outbox.put_file(self._upload(picture.getvalue(), name))

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """Send what is waiting; True when all of it has arrived. Never raises for an outage."""
        return self._outbox.flush(timeout_s)

    def finish(self, status: Status = "FINISHED", later: str = "") -> None:
        """Send what is left and close the run; a store that is away is given up with a warning.

        A second call does nothing.

        Args:
            status: how the run is left. One that was told to stop, or goes back into the queue, has
                little time: it does not wait long for its store.
            later: end of the warning, which says how to deliver what was not sent.
        """
        if self._finished:
            return
        self._finished = True
        self._outbox.put([lambda: self._leave(status)])
        if status in ("KILLED", "SCHEDULED"):
            left = self._outbox.close(STOP_TIMEOUT_S)
        else:
            left = self._outbox.close(UPLOAD_TIMEOUT_S, FINISH_PATIENCE_S)
        if left:
            warnings.warn(
                f"{left} values and files of the MLflow run {self._run_id} did not reach "
                f"{shown_uri(self._uri)} ({self._outbox.last_failure}){later}",
                DpinnWarning,
                stacklevel=2,
            )

    def _leave(self, status: Status) -> None:
        if status == "SCHEDULED":
            self._client.update_run(self._run_id, status=status)  # which has no end yet
        else:
            self._client.set_terminated(self._run_id, status=status)

    def _send_metrics(self, values: Sequence[MetricValue]) -> None:
        from mlflow.entities import Metric

        new = [
            Metric(v.name, v.value, v.timestamp, v.step)
            for v in values
            # What was measured of the machine is not in the run's files, and is logged only once.
            if v.step > self._held_steps.get(v.name, -1) or v.name.startswith(PREFIX)
        ]
        if new:
            self._client.log_batch(self._run_id, metrics=new, synchronous=True)

    def _upload(self, content: bytes, name: str) -> Callable[[], None]:
        path = PurePosixPath(name)
        folder = str(path.parent) if path.parent != PurePosixPath(".") else None

        def send() -> None:
            with tempfile.TemporaryDirectory(prefix="dpinn-artifact-") as scratch:
                file = Path(scratch) / path.name
                file.write_bytes(content)
                self._client.log_artifact(self._run_id, str(file), folder)

        return send


def unknown_run(tracking_uri: str, run_id: str) -> DpinnError:
    """Return the error for an id that the store does not know."""
    return DpinnError(
        f"the MLflow store {shown_uri(tracking_uri)} has no run {run_id}; set "
        "MLFLOW_TRACKING_URI to the store that has it"
    )


def _experiment_id(client: MlflowClient, name: str, tracking_uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # Else MLflow's pages open in their view of language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            # A server decides for itself; without one MLflow takes the current folder.
            local = database_file(tracking_uri) is not None
            place = artifact_location(Path.cwd() / "mlruns") if local else None
            return str(client.create_experiment(name, artifact_location=place, tags=kind))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:  # not even another job made it in between
                raise error
    if found.lifecycle_stage == "deleted":
        raise DpinnError(
            f"the MLflow experiment {name} is deleted; restore it with `mlflow experiments "
            f"restore --experiment-id {found.experiment_id}` or choose another name"
        )
    return str(found.experiment_id)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        return str(os.getuid())
