"""Files of MLflow runs, fetched."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from dpinn.errors import DpinnError
from dpinn.track.failures import reason
from dpinn.track.mlflow_run import unknown_run
from dpinn.track.store import connect_existing, resolve_tracking_uri


def download_artifact(
    run_id: str, name: str, folder: str | Path, tracking_uri: str | None = None
) -> Path:
    """Fetch an artifact of a run, such as ``checkpoints/last.ckpt``, into a folder.

    Raises:
        DpinnError: no such run, no such artifact, or no store.
    """
    uri = resolve_tracking_uri(tracking_uri)
    client = connect_existing(uri, f"MLflow run {run_id}")
    try:
        client.get_run(run_id)
    except Exception as error:
        raise unknown_run(uri, run_id) from error
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    parent = str(PurePosixPath(name).parent)
    try:
        there = sorted(
            a.path for a in client.list_artifacts(run_id, None if parent == "." else parent)
        )
        if name not in there:
            raise DpinnError(
                f"the MLflow run {run_id} has no artifact {name}, only {', '.join(there) or 'none'}"
            )
        return Path(client.download_artifacts(run_id, name, str(target)))
    except DpinnError:
        raise
    except Exception as error:
        raise DpinnError(
            f"the artifact {name} of the MLflow run {run_id} cannot be fetched: {reason(error)}"
        ) from error
