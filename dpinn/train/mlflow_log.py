"""What a training puts into its MLflow run at the beginning and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from dpinn.run_files import CHECKPOINT, CONFIG, EVALUATION
from dpinn.track import MLflowRun, device_description, environment, open_run
from dpinn.train.module import PINNTraining

CLOCK = "time/unix_s"
"""When a line of a history was measured; in MLflow every value has its time."""

NO_METRICS = ("step", CLOCK, "layers")
"""What a line of a history holds besides."""


def start_run(
    experiment: str, folder: Path, run_id: str | None, config: str, trainer: Trainer,
    module: PINNTraining, device: str,
) -> MLflowRun:  # fmt: skip
    """Open a run, or go on with one, and say what is trained, how and on what.

    Args:
        experiment: its name.
        folder: of the run's files; gives the run its name.
        run_id: of the run to go on with; if None that of the folder, or else a new one.
        config: the whole configuration, YAML.
        trainer: that trains.
        module: that is trained.
        device: that trains, for a person.
    """
    run = open_run(experiment, folder, run_id)
    run.log_params(yaml.safe_load(config) or {})
    data = trainer.datamodule.collocation  # type: ignore[attr-defined]
    tags = environment() | {
        "device": device,
        "problem": module.problem.name,
        "precision": str(trainer.precision),
        "precision/matmul": torch.get_float32_matmul_precision(),
        "world_size": str(trainer.world_size),
        "global_batch": str(data.batch),
        "compiled": str(module.compiled).lower(),
        "run_folder": str(folder),
    }
    run.set_tags(tags)
    run.log_text(config, CONFIG)
    return run


def log_row(run: MLflowRun, row: Mapping[str, Any]) -> None:
    """Log a line of a history."""
    metrics = {name: value for name, value in row.items() if name not in NO_METRICS}
    run.log_metrics(metrics, step=int(row["step"]), time_s=row.get(CLOCK))


def log_again(
    run: MLflowRun, rows: Iterable[Mapping[str, Any]], initial_errors: Mapping[str, float]
) -> None:
    """Offer a run all that its files hold; what the store has already is not sent again.

    The store may have been away when it was measured, and the process is no more that kept it.
    """
    log_initial_errors(run, initial_errors)
    for row in rows:
        log_row(run, row)


def log_initial_errors(run: MLflowRun, errors: Mapping[str, float]) -> None:
    """Log the errors before the first step, by field."""
    run.log_metrics({f"initial_error/{name}": e for name, e in errors.items()}, step=0)


def log_result(run: MLflowRun, result: dict[str, Any], folder: Path, step: int) -> None:
    """Put the report of a finished training into its run: final numbers, figures, checkpoint."""
    finals = {k: v for k, v in result.items() if k.startswith("residual/")}
    finals |= {
        k.replace("error/", "final_error/"): v for k, v in result.items() if k.startswith("error/")
    }
    finals["reference_error"] = result.get("reference_error")
    run.log_metrics({k: v for k, v in finals.items() if v is not None}, step=step)
    for name, errors in result.get("window_errors", {}).items():
        for window, error in enumerate(errors):
            if error is not None:
                run.log_metrics({f"window_error/{name}": error}, step=window)
    for figure in result["figures"]:
        run.log_file(figure, "figures")
    run.log_file(folder / EVALUATION)
    run.log_file(folder / CHECKPOINT, "checkpoints")


def device_of(module: PINNTraining) -> str:
    """The device that trains, as a person would name it."""
    if module.device.type == "cuda":
        return device_description()
    threads = torch.get_num_threads()
    return f"{device_description()}, {threads} thread{'s' if threads > 1 else ''}"
