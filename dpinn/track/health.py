"""Whether a store would take a run, found out without leaving anything in it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from dpinn.errors import DpinnError, shown_uri
from dpinn.track.database import database_file, sqlite_uri
from dpinn.track.failures import reason

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NO_RUN = "0" * 32
"""An id that no run has."""

VERSION = re.compile(r"\d+\.\d+[\w.]{,12}")

BUSY_S = 5.0
"""How long another writer of the database is waited for; MLflow itself waits about as long."""


def server_version(client: MlflowClient) -> str | None:
    """Ask a server for its MLflow version; None for a database, or where it does not tell."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if not client.tracking_uri.startswith("http"):
        return None
    answer = http_request(get_default_host_creds(client.tracking_uri), "/version", "GET")
    version = answer.text.strip()
    return version if answer.ok and VERSION.fullmatch(version) else None


def require_writable(client: MlflowClient) -> None:
    """Go as far as a write goes that is then not done.

    A change of a database is taken back before it is there (a lock alone would be given on a
    read-only file system too). A server is asked to change a run that does not
    exist, which it can only refuse: there is no way to take a run back for good.

    Raises:
        DpinnError: it takes no run.
    """
    database = database_file(client.tracking_uri)
    try:
        if database is not None:
            with contextlib.closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("CREATE TABLE dpinn_doctor (x)")
                connection.rollback()
            return
        client.set_tag(NO_RUN, "dpinn", "doctor")
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
            uri = sqlite_uri(database.resolve()) if database else shown_uri(client.tracking_uri)
            raise DpinnError(
                f"the MLflow store {uri} takes no run "
                f"({reason(error)}); make it writable, or set MLFLOW_TRACKING_URI to another one"
            ) from error


def unreachable_artifacts(client: MlflowClient) -> Path | None:
    """Return the server's own folder of artifacts where runs' files cannot go from this machine.

    A server that was started without --serve-artifacts lets each client write there itself. It
    is told by the experiments: the newest one is looked at.
    """
    if not client.tracking_uri.startswith("http"):
        return None
    for experiment in client.search_experiments(max_results=1):
        parts = urlsplit(experiment.artifact_location)
        folder = Path(unquote(parts.path)).parent
        if parts.scheme in ("", "file") and not folder.is_dir():
            return folder
    return None
