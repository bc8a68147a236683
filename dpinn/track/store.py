"""Where the runs are kept: an MLflow server, or a database in the current folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dpinn.errors import DpinnError, first_line, shown_uri
from dpinn.track.database import (
    create_database,
    database_file,
    require_file,
    sqlite_uri,
    uri_for_mlflow,
)
from dpinn.track.failures import StoreAwayError, is_lasting, reason

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

REQUEST_TIMEOUT_S = 10  # MLflow waits 120 s and tries 8 times: minutes lost at every outage
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # where a URI names none
SLOWEST_UPLOAD = 10_000_000  # bytes a second
START_PATIENCE_S = 4.0  # a server that was started beside the job may still be opening its port


def resolve_tracking_uri(tracking_uri: str | None = None) -> str:
    """Return the given URI, else ``MLFLOW_TRACKING_URI``, else the database in this folder."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return uri or sqlite_uri(Path.cwd() / "mlflow.db")


def connect(tracking_uri: str) -> MlflowClient:
    """Open a client that is quiet and gives up within seconds; dpinn repeats what failed.

    The limits go through MLflow's environment variables, its only way to set them; a value that
    the user has set stands.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # compute nodes are often offline
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if not os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        # With an empty one, as of a variable that is not set, MLflow would trust any server.
        os.environ.pop("MLFLOW_TRACKING_SERVER_CERT_PATH", None)
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow.store.db.utils", "mlflow.tracking", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(
        logging.ERROR
    )  # of GPUs without a wattmeter
    database = database_file(tracking_uri)
    if database is not None:
        require_file(database)
        if not database.exists():
            create_database(database)
    _require_listening(tracking_uri)
    try:
        return MlflowClient(tracking_uri=uri_for_mlflow(tracking_uri))
    except DpinnError:
        raise
    except Exception as error:
        raise DpinnError(
            f"MLflow cannot open the store {shown_uri(tracking_uri)}: {first_line(error)}; "
            "set MLFLOW_TRACKING_URI to http://HOST:PORT or sqlite:////FOLDER/mlflow.db"
        ) from error


def _require_listening(tracking_uri: str) -> None:
    """Look whether a database server is there, for which MLflow would wait minutes."""
    port = DATABASE_PORTS.get(tracking_uri.partition(":")[0].partition("+")[0])
    if port is None:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(tracking_uri)
    except ArgumentError:
        return  # MLflow says what is wrong with it
    if url.host is None:
        return  # by way of a socket on this machine
    try:
        socket.create_connection((url.host, url.port or port), REQUEST_TIMEOUT_S).close()
    except OSError as error:
        raise StoreAwayError(
            f"the MLflow store {shown_uri(tracking_uri)} does not answer ({reason(error)}); start "
            "it, or set MLFLOW_TRACKING_URI to http://HOST:PORT or sqlite:////FOLDER/mlflow.db"
        ) from error


@contextlib.contextmanager
def time_to_upload(size: int) -> Iterator[None]:
    """Give the store the time to take a file of so many bytes, inside of this context.

    Its answer comes once it has put the file in its place, which may be another server.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = str(int(before) + size // SLOWEST_UPLOAD)
    try:
        yield
    finally:
        os.environ[name] = before


def connect_existing(tracking_uri: str, wanted: str) -> MlflowClient:
    """Open a store to read from it, without making one; return once it answers.

    Raises:
        DpinnError: there is no store, or it does not answer; ``wanted`` says what is looked for.
    """
    database = database_file(tracking_uri)
    if database is not None and not database.exists():
        raise DpinnError(
            f"there is no {wanted}: {database} does not exist; set MLFLOW_TRACKING_URI "
            "or go to the folder where it was trained"
        )
    client = connect(tracking_uri)
    await_store(client, tracking_uri)
    return client


def await_store(
    client: MlflowClient, tracking_uri: str, patience_s: float = START_PATIENCE_S
) -> None:
    """Return once the store, at ``tracking_uri``, answers.

    Raises:
        DpinnError: it stays away for ``patience_s``, or refuses the login.
    """
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.search_experiments(max_results=1)
            return
        except MlflowException as error:
            where = shown_uri(tracking_uri)
            if is_lasting(error):
                raise DpinnError(
                    f"the MLflow store {where} takes nothing: {reason(error)}"
                ) from error
            if time.monotonic() >= deadline:
                raise DpinnError(
                    f"the MLflow store {where} does not answer ({reason(error)}); start it, "
                    "or unset MLFLOW_TRACKING_URI to keep the runs in this folder"
                ) from error
        time.sleep(0.5)
