"""The sqlite database of runs that need no server: its file, and how MLflow reaches it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

from dpinn.errors import DpinnError

SQLITE = "sqlite:///"

HANDLES = Path("/proc/self/fd")
"""Where Linux shows each open file and folder of a process under its number."""


def sqlite_uri(database: Path) -> str:
    """The URI of a database file; ``%``, ``?`` and ``#`` in its path are quoted."""
    return SQLITE + _quoted(str(database))


def database_file(tracking_uri: str) -> Path | None:
    """Return the file behind an sqlite URI, or None for another kind of store."""
    if not tracking_uri.startswith(SQLITE) or ":memory:" in tracking_uri:
        return None
    return Path(unquote(_path_in(tracking_uri))).absolute()


def uri_for_mlflow(tracking_uri: str) -> str:
    """The URI by which MLflow, in this process, reaches the same store.

    MLflow makes the folders above a database from the URI as it is written: of a path with quoted
    characters it would make a second one. Such a folder is named by an open handle on it.

    Raises:
        DpinnError: this system has no such names.
    """
    database = database_file(tracking_uri)
    if database is None or "%" not in _path_in(tracking_uri):
        return tracking_uri
    if not HANDLES.is_dir():
        raise DpinnError(
            f"MLflow cannot keep a database at {database}, whose path has %, ? or #; set "
            "MLFLOW_TRACKING_URI to a server or to sqlite:////FOLDER/mlflow.db without them"
        )
    folder = HANDLES / str(_handle(database.parent))
    return sqlite_uri(folder / database.name) + tracking_uri[len(SQLITE + _path_in(tracking_uri)) :]


def artifact_location(folder: Path) -> str | None:
    """Where artifacts lie in a folder whose path MLflow would misread; None: where it likes."""
    return folder.as_uri() if _quoted(str(folder)) != str(folder) else None


def require_file(database: Path) -> None:
    """Refuse a folder in place of a database, as a URI with a plain ``?`` in its path names one.

    Raises:
        DpinnError: saying how to write the path.
    """
    if database.is_dir():
        raise DpinnError(
            f"{database} is a folder, not an MLflow database; set MLFLOW_TRACKING_URI to "
            "sqlite:////FOLDER/mlflow.db, with %25, %3F and %23 for %, ? and # in its path"
        )


def create_database(database: Path) -> None:
    """Make a fresh store elsewhere and put it in place whole.

    MLflow guards its migration by a lock on this machine only: on a shared file system two jobs
    that start together would spoil each other's database.

    Raises:
        DpinnError: the folder cannot be written.
    """
    from mlflow.tracking import MlflowClient

    with tempfile.TemporaryDirectory(prefix="dpinn-mlflow-") as scratch:
        made = Path(scratch) / "mlflow.db"
        client = MlflowClient(tracking_uri=uri_for_mlflow(sqlite_uri(made)))
        client.search_experiments(max_results=1)
        artifacts = database.parent / "mlruns" / "0"
        with contextlib.closing(sqlite3.connect(made)) as connection:
            # The default experiment was given the scratch folder for its artifacts.
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0",
                (artifact_location(artifacts) or str(artifacts),),
            )
            connection.commit()
        beside = database.with_name(f".{database.name}.{os.uname().nodename}.{os.getpid()}")
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, beside)
            with contextlib.suppress(FileExistsError):  # another job was first: use its database
                os.link(beside, database)
        except OSError as error:
            raise DpinnError(
                f"no MLflow store can be made at {database}: {error.strerror or error}; "
                "set MLFLOW_TRACKING_URI to a server or a writable place"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


def _path_in(tracking_uri: str) -> str:
    return tracking_uri.removeprefix(SQLITE).partition("?")[0]


def _quoted(path: str) -> str:
    return "".join(quote(c) if c in "%?#" else c for c in path)


@cache
def _handle(folder: Path) -> int:
    """An open handle on a folder, kept as long as the process: MLflow keeps engines by URI."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
