"""Experiment records: MLflow runs, the environment of a run, figures. Only this imports MLflow."""

from dpinn.track.environment import device_description, environment, git_state, versions
from dpinn.track.figures import curves_figure, snapshots_figure, solution_figure
from dpinn.track.mlflow_run import MLflowRun, download_artifact

__all__ = [
    "MLflowRun",
    "curves_figure",
    "device_description",
    "download_artifact",
    "environment",
    "git_state",
    "snapshots_figure",
    "solution_figure",
    "versions",
]
