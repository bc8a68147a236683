"""Whether the MLflow store answers and takes runs."""

from __future__ import annotations

from dpinn.doctor.finding import Finding
from dpinn.doctor.storage import trouble_writing
from dpinn.errors import shown_uri
from dpinn.track.database import database_file
from dpinn.track.health import require_writable, server_version, unreachable_artifacts
from dpinn.track.store import connect_existing, resolve_tracking_uri

CHOOSE = "set MLFLOW_TRACKING_URI to a server or a writable place"


def mlflow_store(name: str) -> Finding:
    """The store that a training of this folder would write to; none is made."""
    uri = resolve_tracking_uri()
    database = database_file(uri)
    if database is not None and not database.exists():
        if trouble := trouble_writing(database.parent):
            text = f"none yet, and none can be made at {database}: {trouble}"
            return Finding(name, "problem", text, CHOOSE)
        return Finding(name, "absent", f"none yet: the first run makes {database}")
    client = connect_existing(uri, "store")
    require_writable(client)
    text = f"{shown_uri(uri)} answers and takes runs"
    if uri.startswith("http"):
        text += f", MLflow {server_version(client) or 'of unknown version'}"
    if folder := unreachable_artifacts(client):
        return Finding(
            name,
            "warning",
            f"{text}; but it has figures and checkpoints written to its own folder {folder}, "
            "which is not on this machine",
            "start the server with --serve-artifacts and --artifacts-destination, in a fresh "
            "store or a new experiment",
        )
    return Finding(name, "ok", text)
