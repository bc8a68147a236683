"""When a run is logged, evaluated, saved and reported, and where it stops."""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from dpinn.analysis import Array, axes_of, evaluate
from dpinn.errors import DpinnError
from dpinn.launch.slurm import is_preempted, job_id
from dpinn.report import reference_of, report_axes
from dpinn.run_files import CHECKPOINT, RUNS, new_run_folder
from dpinn.train.interruption import AGREE_EVERY, Interruption, Request
from dpinn.train.logbook import Logbook
from dpinn.train.metrics import metrics_of
from dpinn.train.mlflow_log import device_of, start_run
from dpinn.train.module import PINNTraining
from dpinn.train.progress import TrainingProgress
from dpinn.train.saving import Checkpoints
from dpinn.train.stages import Stage
from dpinn.train.strategies.lost_rank import WatchingLauncher, lost_contact
from dpinn.train.watching import Watch, predict_together


class Recorder(Callback):
    """Keeps the record of a run, on rank 0; checkpoints are saved by all ranks together.

    Every interval is in optimizer steps and a multiple of the data's `inner_steps`.

    Args:
        experiment: of MLflow; the problem's name where nothing is said.
        output: folder in which the run gets a folder of its own.
        log_every: steps between two logged metrics.
        evaluate_every: steps between two errors against the reference.
        checkpoint_every: steps between two checkpoints.
        mlflow: track the run in MLflow.
        sharded_checkpoints: let every rank write what it owns of SOAP's state, into a folder beside
            the checkpoint, where it is too much for one of them.
        figures: draw what was reached when the run ends; ``dpinn evaluate`` does so at any time.
    """

    def __init__(
        self,
        experiment: str | None = None,
        output: str = RUNS,
        log_every: int = 100,
        evaluate_every: int = 500,
        checkpoint_every: int = 500,
        mlflow: bool = True,
        sharded_checkpoints: bool = False,
        figures: bool = True,
    ):
        self.experiment = experiment
        self.output = Path(output)
        self.log_every = log_every
        self.evaluate_every = evaluate_every
        self.checkpoint_every = checkpoint_every
        self.mlflow = mlflow
        self.figures = figures
        self.config = ""
        self.folder: Path | None = None
        self.result: dict[str, Any] | None = None
        self._run_id: str | None = None
        self._logbook: Logbook | None = None  # on rank 0
        self._watch: Watch | None = None
        self._initial_errors: dict[str, float] = {}
        self._seconds_before = 0.0
        self.interruption = Interruption()
        self.stopped = Request.NONE
        self._device = ""
        self._checkpoints = Checkpoints(sharded_checkpoints)
        self._ended = False

    # --- the state that a checkpoint carries ----------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what `dpinn.load` and a resumed run need."""
        assert isinstance(pl_module, PINNTraining)
        checkpoint["run"] = {
            "config": self.config,
            "seconds": self._seconds(),
            "device": device_of(pl_module),
            "seed": trainer.datamodule.collocation.seed,  # type: ignore[attr-defined]
            "mlflow_run_id": self._run_id,
            "initial_errors": self._initial_errors,
            "planned_steps": trainer.max_steps,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the same folder and the same MLflow run."""
        path = Path(str(trainer.ckpt_path))
        run = checkpoint.get("run", {})
        if path.parent.name == Path(CHECKPOINT).parent.name:
            self.folder = path.parent.parent
        self._run_id = run.get("mlflow_run_id")
        self._seconds_before = float(run.get("seconds", 0.0))
        self._initial_errors = dict(run.get("initial_errors", {}))
        self._device = str(run.get("device", ""))
        self._checkpoints.step = int(checkpoint["global_step"])

    # --- the course of a run --------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the intervals before anything is written."""
        assert isinstance(pl_module, PINNTraining)
        inner = trainer.datamodule.inner_steps  # type: ignore[attr-defined]
        self.require_intervals(trainer.max_steps, inner, pl_module)

    def require_intervals(self, max_steps: int, inner: int, module: PINNTraining) -> None:
        """Refuse intervals that do not end with a Lightning batch.

        Args:
            max_steps: of the training.
            inner: steps of a batch.
            module: that is trained.

        Raises:
            DpinnError: naming the key.
        """
        intervals = {
            "trainer.max_steps": max_steps,
            "tracking.log_every": self.log_every,
            "tracking.evaluate_every": self.evaluate_every,
            "tracking.checkpoint_every": self.checkpoint_every,
            "model.weights.every": getattr(module.objective.weighting, "every", inner),
            "model.alignment.every": getattr(module.alignment, "every", inner),
        }
        for name, steps in intervals.items():
            if not isinstance(steps, int) or steps < 1 or steps % inner:
                raise DpinnError(
                    f"{name} is {steps}; it must be a positive multiple of data.inner_steps, "
                    f"{inner}"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the folder and the MLflow run; nothing was written before."""
        assert isinstance(pl_module, PINNTraining)
        self.interruption.listen()  # Lightning has put handlers of its own in place
        self._started = self._last_log = time.monotonic()
        self._last_step = trainer.global_step
        failure: DpinnError | None = None
        if trainer.is_global_zero:
            try:
                reference = reference_of(pl_module.problem)
                self._watch = None if reference is None else Watch(pl_module.problem, reference)
                self._open(trainer, pl_module, device_of(pl_module))
            except DpinnError as error:
                failure = error
        facts = (str(self.folder), trainer.global_step)
        opened = trainer.strategy.broadcast(None if failure else facts)
        if failure is not None:
            raise failure
        if opened is None:
            sys.exit(1)  # rank 0 says why
        self.folder = Path(opened[0])
        if trainer.global_step != opened[1]:
            raise DpinnError(
                f"rank {trainer.global_rank} goes on from step {trainer.global_step} and rank 0 "
                f"from step {opened[1]}; all nodes must see the same files in {self.folder}"
            )
        if trainer.global_step == 0:
            self._initial_errors = self._errors_on_grid(trainer, pl_module)
            if self._logbook is not None:
                self._logbook.log_initial_errors(self._initial_errors)
        self._started = self._last_log = time.monotonic()
        self.interruption.waits = True

    def _open(self, trainer: Trainer, module: PINNTraining, device: str) -> None:
        fresh = self.folder is None
        if self.folder is None:
            self.folder = new_run_folder(self.output, module.problem.name)
        self._checkpoints.tidy(self.folder, trainer.ckpt_path)  # type: ignore[arg-type]
        try:
            self._logbook = Logbook(self.folder, self.config, trainer.global_step)
            if self.mlflow:
                experiment = self.experiment or module.problem.name
                run = start_run(
                    experiment, self.folder, self._run_id, self.config, trainer, module, device
                )
                self._run_id = run.run_id
                self._logbook.track(run, self._initial_errors)
        except DpinnError:
            if fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, evaluate and save when it is time, in this order."""
        assert isinstance(pl_module, PINNTraining)
        step, last = trainer.global_step, trainer.global_step >= trainer.max_steps
        stage = pl_module.course.stage
        logs = step % self.log_every == 0
        evaluates = step % self.evaluate_every == 0 or (stage is not None and step == stage.end)
        for reading in pl_module.alignment_readings():
            if self._logbook is not None:
                self._logbook.log_alignment(reading)
        writes = trainer.is_global_zero and (logs or evaluates or last)
        row = {"step": step} | self._metrics(pl_module, step) if writes else {}
        if evaluates or last:
            row |= {f"error/{k}": v for k, v in self._errors(pl_module, stage).items()}
        if writes:
            self._log(trainer, row)
        if self._logbook is not None:
            self._logbook.log_system_metrics(step)
        if step % self.checkpoint_every == 0 or last:
            assert self.folder is not None
            self._checkpoints.save(trainer, self.folder)
        inner = trainer.datamodule.inner_steps  # type: ignore[attr-defined]
        if not last and step % (inner * math.ceil(AGREE_EVERY / inner)) == 0:
            self.stopped = self.interruption.agreed(pl_module.device)
            trainer.should_stop = trainer.should_stop or self.stopped is not Request.NONE

    def _metrics(self, module: PINNTraining, step: int) -> dict[str, float]:
        now = time.monotonic()
        steps = max(1, step - self._last_step)
        row = metrics_of(module)
        row["time/step_ms"] = (now - self._last_log) / steps * 1e3
        row["time/optimizer_ms"] = module.stepper.optimizer_ms
        row["time/elapsed_s"] = self._seconds()
        row["memory/peak_gb"] = _peak_memory_gb(module.device)
        self._last_log, self._last_step = now, step
        return row

    def _errors(self, module: PINNTraining, stage: Stage | None = None) -> dict[str, float]:
        """Errors against the reference on rank 0; all ranks come here, for their parameters."""
        with module.evaluation() as pinn:
            return {} if self._watch is None else self._watch.errors(pinn, stage)

    def _errors_on_grid(self, trainer: Trainer, module: PINNTraining) -> dict[str, float]:
        """Errors on the reference's whole grid, as the report gives them; on rank 0."""
        axes = None if self._watch is None else axes_of(self._watch.reference, module.problem)
        predictions = self._predict_together(trainer, module, axes)
        if self._watch is None or predictions is None:
            return {}
        return evaluate(predictions, module.problem, self._watch.reference).errors

    def _log(self, trainer: Trainer, row: dict[str, float]) -> None:
        assert self._logbook is not None
        self._logbook.log(row)
        bar = trainer.progress_bar_callback
        if isinstance(bar, TrainingProgress):
            bar.shown["loss"] = row["loss/total"]
            errors = {k: v for k, v in row.items() if k.startswith("error/")}
            bar.shown |= {k.replace("/", " "): v for k, v in errors.items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was reached, from the checkpoint as anybody else would load it."""
        self._ended = True
        if trainer.global_step < trainer.max_steps:
            self._stop_early(trainer)
            return
        self.interruption.waits = False
        assert isinstance(pl_module, PINNTraining)
        predictions = self._predict_on_report_axes(trainer, pl_module)
        _leave(trainer)
        if trainer.is_global_zero:
            self._report(trainer, pl_module, predictions)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a run that was killed after its last step: Lightning skips a finished training.

        It has taken the module off its device by now, so rank 0 does this alone.
        """
        if self._ended or not trainer.global_step >= trainer.max_steps > 0:
            return
        self._ended = True
        _leave(trainer)
        if trainer.is_global_zero:
            assert isinstance(pl_module, PINNTraining)
            self._open(trainer, pl_module, self._device)
            self._report(trainer, pl_module, None)

    def _report(
        self, trainer: Trainer, module: LightningModule, predictions: dict[str, Array] | None
    ) -> None:
        assert self._logbook is not None
        assert isinstance(module, PINNTraining)
        self.result = self._logbook.report(module, predictions, self.figures, trainer.global_step)

    def _predict_on_report_axes(
        self, trainer: Trainer, module: PINNTraining
    ) -> dict[str, Array] | None:
        """What several ranks predict for the report, which rank 0 would be long about."""
        if trainer.world_size == 1:
            return None
        reference = None if self._watch is None else self._watch.reference
        axes = report_axes(module.problem, reference) if trainer.is_global_zero else None
        return self._predict_together(trainer, module, axes)

    def _predict_together(
        self, trainer: Trainer, module: PINNTraining, axes: dict[str, Array] | None
    ) -> dict[str, Array] | None:
        """What all ranks predict on the grid of rank 0's axes; None without any."""
        axes = trainer.strategy.broadcast(axes)
        if not axes:
            return None
        with module.evaluation() as pinn:
            whole = module.course.whole(pinn)
            return predict_together(
                whole, module.problem, axes, trainer.global_rank, trainer.world_size
            )

    def _stop_early(self, trainer: Trainer) -> None:
        """Keep what was reached when a signal ends a run, or trainer.max_time."""
        assert self.folder is not None
        self._checkpoints.save(trainer, self.folder)
        _leave(trainer)
        if self._logbook is not None:
            again = self.stopped is Request.REQUEUE or is_preempted(job_id(os.environ))
            self._logbook.finish("SCHEDULED" if again else "KILLED")
            to = " to be queued again" if again else ""
            on = f"; go on with: {self._logbook.again}"
            print(f"stopped at step {trainer.global_step}{to}{on}", flush=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the MLflow run with the status that fits."""
        _leave(trainer)
        if self._logbook is None:
            return  # it is not rank 0, or has not begun
        stopped = isinstance(exception, (KeyboardInterrupt, SystemExit))
        self._logbook.finish("KILLED" if stopped else "FAILED")
        folder = self._logbook.folder
        if not lost_contact(exception) and (folder / CHECKPOINT).exists():  # else it has said so
            print(f"resume with: {self._logbook.again}", file=sys.stderr)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _leave(trainer: Trainer) -> None:
    """Tell who watches the other ranks that this one goes on without them."""
    if isinstance(trainer.strategy.launcher, WatchingLauncher):
        trainer.strategy.launcher.leaving.set()


def _peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024 / 1e9
