import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from dpinn.errors import DpinnError, shown_uri
from dpinn.track import MLflowRun, download_artifact
from dpinn.track.database import database_file, sqlite_uri
from dpinn.track.experiment import Experiment
from dpinn.track.store import resolve_tracking_uri

from ..mlflow_server import free_port

BOUND_S = 15.0

START = """
import sys
from dpinn.track import MLflowRun
assert not {"mlflow", "matplotlib.figure"} & set(sys.modules), "slow imports"
run = MLflowRun.start("burgers", sys.argv[1])
run.log_metrics({"loss/pde": 1.0}, 1)
run.log_text("a: 1", "config.yaml")
run.finish()
print(run.run_id)
"""


def test_the_uri_is_the_argument_then_the_environment_then_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert resolve_tracking_uri() == "http://server:5000"
    assert resolve_tracking_uri("sqlite:///other.db") == "sqlite:///other.db"


def test_passwords_are_not_shown() -> None:
    assert shown_uri("https://me:secret@host:5000/x") == "https://host:5000/x"


def test_only_a_file_is_a_database_file(tmp_path: Path) -> None:
    assert database_file("sqlite:////data/m.db") == Path("/data/m.db")
    assert database_file("sqlite:///m.db") == tmp_path / "m.db"
    assert database_file("http://host") is None


@pytest.mark.parametrize("path", ["/data/50%20/m.db", "/what?/m#1.db", "/a b/ü.db", "/%3F%/m.db"])
def test_the_uri_of_a_database_leads_back_to_its_file(path: str) -> None:
    assert database_file(sqlite_uri(Path(path))) == Path(path)
    assert make_url(sqlite_uri(Path(path))).database == path


@pytest.mark.parametrize("name", ["50%20", "what?", "a#b", "two words", "größe", "100%", "a?b=c&d"])
def test_a_folder_of_any_name_holds_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name / "inner"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    run = MLflowRun.start("burgers", "a run")
    run.log_metrics({"loss/pde": 1.0}, 1)
    run.log_text("a: 1", "figures/config.yaml")
    run.finish()
    assert download_artifact(run.run_id, "figures/config.yaml", "got").read_text() == "a: 1"
    continued = MLflowRun.start("burgers", "a run", run.run_id, run.url)
    continued.finish()
    assert Experiment.read("burgers").runs[0].last == {"loss/pde": 1.0}
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert {path.name for path in folder.parent.iterdir()} == {"inner"}
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlruns", "got"}


def test_a_folder_in_place_of_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "what").mkdir()
    with pytest.raises(DpinnError, match=r"what is a folder, not an MLflow database.*%3F"):
        MLflowRun.start("burgers", "a", tracking_uri=f"sqlite:///{tmp_path}/what?/mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["what"]


def test_jobs_that_open_a_fresh_folder_together_share_one_quiet_store(tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-c", START, f"job{i}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [job.communicate(timeout=120) for job in jobs]
    assert [errors for _, errors in said] == ["", ""]
    run_ids = {output.strip() for output, _ in said}  # nothing but the id on stdout either
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        held = {row[0] for row in database.execute("SELECT run_uuid FROM runs")}
        artifacts = {row[0] for row in database.execute("SELECT artifact_uri FROM runs")}
        experiments = dict(database.execute("SELECT name, artifact_location FROM experiments"))
    assert held == run_ids
    assert len(run_ids) == 2
    assert experiments == {
        "Default": f"{tmp_path}/mlruns/0",
        "burgers": f"{tmp_path}/mlruns/1",
    }
    assert all(Path(folder, "config.yaml").is_file() for folder in artifacts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow.db", "mlruns"]


def test_a_closed_port_is_one_sentence_within_the_bound() -> None:
    before = time.monotonic()
    with pytest.raises(
        DpinnError, match=r"does not answer \(connection refused\); start it"
    ) as caught:
        MLflowRun.start("e", "n", tracking_uri=f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - before < BOUND_S
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_one_sentence_within_the_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = time.monotonic()
        with pytest.raises(DpinnError, match=r"does not answer \(timed out\)"):
            MLflowRun.start("e", "n", tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - before < BOUND_S


def test_a_store_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DpinnError, match="set MLFLOW_TRACKING_URI to a server or a writable place"):
        MLflowRun.start("e", "n", tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_uri_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DpinnError, match="cannot open the store nonsense://x"):
        MLflowRun.start("e", "n", tracking_uri="nonsense://x")


def test_looking_for_a_run_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(DpinnError, match="does not exist; set MLFLOW_TRACKING_URI"):
        download_artifact("0" * 32, "last.ckpt", "got")
    assert list(tmp_path.iterdir()) == []
