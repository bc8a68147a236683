"""Which MLflow run a run folder belongs to: a text file in it, there before any checkpoint."""

from __future__ import annotations

from pathlib import Path

from dpinn.errors import DpinnError
from dpinn.run_files import RUN_ID, write_atomically
from dpinn.track.mlflow_run import MLflowRun


def read_run_id(folder: Path) -> str | None:
    """The id of the folder's MLflow run, or None where it has none yet."""
    path = folder / RUN_ID
    return path.read_text().strip() or None if path.is_file() else None


def open_run(experiment: str, folder: Path, run_id: str | None = None) -> MLflowRun:
    """Open the MLflow run of a run folder, the same one however often it is called.

    Args:
        experiment: in which a run is begun where the folder has none.
        folder: of the run; gives the MLflow run its name and keeps its id.
        run_id: of the run to go on with, as a checkpoint has it; the folder's if left out.

    Raises:
        DpinnError: see `MLflowRun.start`; or the folder cannot be written.
    """
    run = MLflowRun.start(experiment, folder.name, run_id or read_run_id(folder))
    text = f"{run.run_id}\n".encode()
    try:
        write_atomically(folder / RUN_ID, lambda file: file.write(text))
    except DpinnError:
        run.take_back()
        raise
    return run


def schedule_run(experiment: str, folder: Path) -> MLflowRun:
    """Open the MLflow run of a job that goes into a queue; the job itself then needs no server.

    Returns:
        The run, closed as scheduled, with its `url`.
    """
    run = open_run(experiment, folder)
    run.finish("SCHEDULED")
    return run
