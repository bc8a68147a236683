import sqlite3
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from dpinn.doctor.finding import Finding, examine
from dpinn.errors import DpinnError
from dpinn.track.health import require_writable, server_version, unreachable_artifacts
from dpinn.track.store import connect

from .conftest import Server


def rows(database: Path) -> dict[str, int]:
    """How many rows each table has."""
    with sqlite3.connect(database) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")
                  if not row[0].startswith(("sqlite_", "ix_", "index_"))]  # fmt: skip
        counted = {}
        for table in tables:
            try:
                [(counted[table],)] = connection.execute(f'SELECT COUNT(*) FROM "{table}"')
            except sqlite3.OperationalError:  # an index
                continue
    return counted


class Refusing(BaseHTTPRequestHandler):
    """A server before which somebody must log in."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(401)

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:secret@127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_server_tells_its_version_and_takes_writes_that_leave_nothing(server: Server) -> None:
    import mlflow

    client = connect(server.url)
    database = next(Path(f"/proc/{server.process.pid}/cwd").glob("mlflow.db"))
    before = rows(database)
    assert before["runs"] >= 1
    require_writable(client)
    assert server_version(client) == mlflow.__version__
    assert rows(database) == before


def test_the_doctor_finds_a_server_well_and_does_not_show_the_password(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("://", "://me:secret@"))
    assert examine("MLflow store", "tracking.mlflow_store") == Finding(
        "MLflow store", "ok", f"{server.url} answers and takes runs, MLflow {mlflow.__version__}"
    )


def test_a_database_takes_writes_that_leave_nothing(own_store: Path, made_database: Path) -> None:
    database = own_store / "mlflow.db"
    database.write_bytes(made_database.read_bytes())
    client = connect(f"sqlite:///{database}")
    before = database.read_bytes()
    require_writable(client)
    assert server_version(client) is None
    assert database.read_bytes() == before


def test_a_database_that_another_process_holds_is_told(
    own_store: Path, made_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpinn.track.health.BUSY_S", 0.1)
    database = own_store / "mlflow.db"
    database.write_bytes(made_database.read_bytes())
    client = connect(f"sqlite:///{database}")
    with sqlite3.connect(database) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DpinnError, match=r"takes no run \(database is locked\); make it"):
            require_writable(client)


def test_a_server_that_refuses_writes_is_told_without_the_password(refusing: str) -> None:
    client = connect(refusing)
    with pytest.raises(DpinnError, match=r"takes no run .*set MLFLOW_TRACKING_USERNAME") as told:
        require_writable(client)
    assert "secret" not in str(told.value)
    assert server_version(client) is None


class Elsewhere:
    """A client of a server whose experiments keep their artifacts in this place."""

    def __init__(self, location: str, tracking_uri: str = "http://head:5000"):
        self.tracking_uri, self.artifact_location = tracking_uri, location

    def search_experiments(self, max_results: int) -> list["Elsewhere"]:
        return [self]


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        ("mlflow-artifacts:/0", None),
        ("s3://bucket/0", None),
        ("/srv/of the server/mlruns/0", "/srv/of the server/mlruns"),
        ("file:///srv/of%20the%20server/mlruns/0", "/srv/of the server/mlruns"),
        ("/tmp/0", None),
    ],
)
def test_artifacts_in_a_folder_of_the_server_alone_are_told(
    location: str, folder: str | None
) -> None:
    found = unreachable_artifacts(Elsewhere(location))  # type: ignore[arg-type]
    assert found == (None if folder is None else Path(folder))
    local = Elsewhere(location, "sqlite:////data/mlflow.db")
    assert unreachable_artifacts(local) is None  # type: ignore[arg-type]
