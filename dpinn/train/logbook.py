"""What rank 0 writes of a run: its metrics and its report, into its folder and to MLflow."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpinn.analysis import Array
from dpinn.report import report, summary
from dpinn.run_files import (
    ALIGNMENT,
    CHECKPOINT,
    CONFIG,
    METRICS,
    History,
    read_checkpoint,
    write_atomically,
)
from dpinn.solution import load, restored
from dpinn.track import MLflowRun, Status
from dpinn.train.alignment import Reading
from dpinn.train.mlflow_log import CLOCK, log_again, log_initial_errors, log_result, log_row
from dpinn.train.module import PINNTraining


class Logbook:
    """The files of a run, open for writing, and its MLflow run where there is one.

    Args:
        folder: of the run.
        config: the whole configuration, YAML; empty where a trainer of the user's own trains.
        step: from which the run goes on; what was logged after it is taken out of the files.

    Raises:
        DpinnError: the folder cannot be written.
    """

    def __init__(self, folder: Path, config: str, step: int):
        self.folder = folder
        self._config = config
        text = config.encode()
        write_atomically(folder / CONFIG, lambda file: file.write(text))
        self._metrics = History(folder / METRICS, until=step)
        self._alignment = History(folder / ALIGNMENT, until=step)
        self._run: MLflowRun | None = None

    @property
    def again(self) -> str:
        """What to call for the run to go on from its checkpoint."""
        if self._config:
            return f"dpinn fit --resume {self.folder}"
        return f"trainer.fit(..., ckpt_path={str(self.folder / CHECKPOINT)!r})"

    def track(self, run: MLflowRun, initial_errors: Mapping[str, float]) -> None:
        """Log to MLflow as well, from what the files hold already."""
        self._run = run
        log_again(run, [*self._metrics.rows, *self._alignment.rows], initial_errors)

    def log_initial_errors(self, errors: Mapping[str, float]) -> None:
        """Log the errors before the first step; a checkpoint keeps them, not a file."""
        if self._run is not None:
            log_initial_errors(self._run, errors)

    def log(self, row: Mapping[str, float]) -> None:
        """Log the metrics of a step, which the row holds as well."""
        row = {**row, CLOCK: _now()}
        self._metrics.append(row)
        if self._run is not None:
            log_row(self._run, row)

    def log_alignment(self, reading: Reading) -> None:
        """In a file of its own, since it is of the first step of a batch, and has layers."""
        if reading.scores:
            row = {"step": reading.step, CLOCK: _now(), **reading.scores, "layers": reading.layers}
            self._alignment.append(row)
            if self._run is not None:
                log_row(self._run, row)

    def log_system_metrics(self, step: int) -> None:
        """Log how busy the machine is, when it is time."""
        if self._run is not None:
            self._run.log_system_metrics(step)

    def report(
        self,
        module: PINNTraining,
        predictions: Mapping[str, Array] | None,
        figures: bool,
        step: int,
    ) -> dict[str, Any]:
        """Evaluate the run from its checkpoint, as anybody else would load it; print what it says.

        Args:
            module: that was trained; a run without configuration is not loaded without it.
            predictions: where several ranks have computed them together.
            figures: whether to draw them.
            step: the last one.
        """
        if self._config:
            solution = load(self.folder)
        else:
            checkpoint = read_checkpoint(self.folder / CHECKPOINT)
            solution = restored(checkpoint, module.problem, lambda: copy.deepcopy(module.pinn))
        result = report(solution, self.folder, predictions=predictions, figures=figures)
        if self._run is not None:
            log_result(self._run, result, self.folder, step)
            self.finish("FINISHED")
        print(summary(result), flush=True)
        if self._run is not None:
            print(f"  MLflow      {self._run.url}", flush=True)
        return result

    def finish(self, status: Status) -> None:
        """Close the MLflow run, with the layers' alignment as one artifact."""
        if self._run is not None:
            if self._alignment.rows:
                self._run.log_file(self._alignment.path)
            is_kept = (self.folder / CHECKPOINT).exists()
            later = f"; deliver them with: {self.again}" if is_kept else ""
            self._run.finish(status, later)


def _now() -> float:
    return round(time.time(), 3)
