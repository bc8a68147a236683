"""A PostgreSQL as the store: behind a server, and without one."""

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ..mlflow_server import MLflowServer, free_port

pytestmark = pytest.mark.slow

PASSWORD = "Pg8-horse-battery-3wZ"
UNPRIVILEGED = "nobody"
"""PostgreSQL does not run as root."""


def program(name: str) -> str | None:
    """One of PostgreSQL's, which Debian keeps out of the path."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(kept[-1]) if kept else None)


@dataclass
class Database:
    """A PostgreSQL of the test's own."""

    port: int
    start: Callable[[], None]
    stop: Callable[[], None]

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://dpinn:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="dpinn", password=PASSWORD, dbname="postgres"
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            found = cursor.fetchall()
        connection.close()
        return found


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL here (apt-get install postgresql)")
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="dpinn-postgresql-"))
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, UNPRIVILEGED)
        other = {"user": UNPRIVILEGED, "cwd": folder}
    data, port = folder / "data", free_port()

    def run(*command: Any) -> None:
        subprocess.run(
            [str(c) for c in command], check=True, stdout=subprocess.DEVNULL, timeout=300, **other
        )

    password = folder / "password"
    password.write_text(PASSWORD)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    login = ("--username", "dpinn", "--pwfile", password, "--auth", "scram-sha-256")
    log = ("--log", folder / "log", "--timeout", "240")

    def start() -> None:
        run(pg_ctl, "start", "--wait", "--pgdata", data, *log, "--options", options)

    def stop() -> None:
        run(pg_ctl, "stop", "--pgdata", data, "--mode", "immediate")

    try:
        run(initdb, "--pgdata", data, "--encoding", "UTF8", "--no-sync", *login)
        start()
        try:
            yield Database(port, start, stop)
        finally:
            stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def assert_all_is_stored(database: Database, run: Path) -> None:
    """Each value of the run's lines once, and the run closed."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [
        (name, row["step"], value)
        for row in rows
        for name, value in row.items()
        if name not in ("step", "time/unix_s")
    ]
    assert len(rows) == 4
    run_id = (run / "mlflow_run_id").read_text().strip()
    held = database.ask("SELECT key, step, value FROM metrics WHERE run_uuid = %s", run_id)
    names = {name for name, *_ in expected}
    assert Counter(h for h in held if h[0] in names) == Counter(expected)
    runs = database.ask("SELECT status FROM runs WHERE name = %s", run.name)
    assert runs == [("FINISHED",)]


def assert_no_password(folder: Path, *texts: str) -> None:
    contents = [f.read_bytes() for f in folder.rglob("*") if f.is_file()]
    assert not any(PASSWORD.encode() in c for c in [*contents, *(t.encode() for t in texts)])


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    folder = tmp_path_factory.mktemp("served")
    server = MLflowServer(folder, "--backend-store-uri", database.uri)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def test_a_server_over_postgresql_gets_every_value_once(
    server: MLflowServer, database: Database, work: Any
) -> None:
    config = work.config({"tracking.mlflow": True})
    outcome = work("fit", "--config", config, MLFLOW_TRACKING_URI=server.url)
    assert outcome.returncode == 0, outcome.stderr
    assert_all_is_stored(database, work.run_folder())
    assert_no_password(work.folder, outcome.stdout, outcome.stderr)


def test_postgresql_itself_may_be_the_store_and_its_password_is_shown_nowhere(
    server: MLflowServer, database: Database, work: Any
) -> None:
    # The experiment of the other test has its files behind the server.
    config = work.config({"tracking.mlflow": True, "tracking.experiment": "direct"})
    outcome = work("fit", "--config", config, MLFLOW_TRACKING_URI=database.uri)
    assert outcome.returncode == 0, outcome.stderr
    assert_all_is_stored(database, work.run_folder())
    shown = f"MLflow      postgresql+psycopg2://127.0.0.1:{database.port}/postgres"
    assert shown in outcome.stdout
    dump = [database.ask(f"SELECT value FROM {table}") for table in ("params", "tags")]
    assert PASSWORD not in str(dump)
    assert_no_password(work.folder, outcome.stdout, outcome.stderr)


def test_a_run_that_goes_on_while_the_database_is_away_is_delivered_later(
    database: Database, work: Any, wait_until: Callable[..., None]
) -> None:
    config = work.config({"tracking.mlflow": True, "tracking.experiment": "direct"})
    store = {"MLFLOW_TRACKING_URI": database.uri}
    outcome = work("fit", "--config", config, "--trainer.max_steps", 10, **store)
    assert outcome.returncode == 0, outcome.stderr
    lines = work.run_folder() / "metrics.jsonl"
    database.stop()
    try:
        running = work.start("fit", "--resume", "--trainer.max_steps", 20, **store)
        wait_until(lambda: len(lines.read_text().splitlines()) == 4, "the last step")
    finally:
        database.start()
    outcome = running.wait()
    assert outcome.returncode == 0, outcome.stderr
    assert "goes on, and what it logs is kept and sent later" in outcome.stderr
    assert_all_is_stored(database, work.run_folder())
