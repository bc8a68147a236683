"""Experiment records: MLflow runs, the environment of a run, figures. Only this imports MLflow."""

from dpinn.track.animation import animation
from dpinn.track.artifacts import download_artifact
from dpinn.track.environment import device_description, environment, git_state, versions
from dpinn.track.error_over_time import error_over_time_figure
from dpinn.track.figures import snapshots_figure, solution_figure
from dpinn.track.flow_figures import flow_figure, streamlines_figure
from dpinn.track.mlflow_run import MLflowRun, Status
from dpinn.track.run_id import open_run, read_run_id, schedule_run
from dpinn.track.training_figure import curves_figure

__all__ = [
    "MLflowRun",
    "Status",
    "animation",
    "curves_figure",
    "device_description",
    "download_artifact",
    "environment",
    "error_over_time_figure",
    "flow_figure",
    "git_state",
    "open_run",
    "read_run_id",
    "schedule_run",
    "snapshots_figure",
    "solution_figure",
    "streamlines_figure",
    "versions",
]
