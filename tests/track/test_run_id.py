import shutil
import sqlite3
from pathlib import Path

import pytest

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.track import open_run, read_run_id, schedule_run

from ..mlflow_server import free_port


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, made_database: Path) -> None:
    shutil.copyfile(made_database, tmp_path / "mlflow.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "wave-1"
    folder.mkdir(parents=True)
    return folder


def runs() -> list[tuple[str, str, int | None]]:
    with sqlite3.connect("mlflow.db") as database:
        return database.execute("SELECT name, status, end_time FROM runs").fetchall()


def test_a_folder_has_one_mlflow_run_however_often_it_is_opened(folder: Path) -> None:
    assert read_run_id(folder) is None
    first = open_run("wave", folder)
    first.log_metrics({"loss/pde": 1.0}, 5)
    first.flush()
    del first  # killed before its first checkpoint: nothing else knows of it
    again = open_run("wave", folder)
    assert again.run_id == read_run_id(folder)
    again.finish()
    ((name, status, end_time),) = runs()
    assert (name, status) == (folder.name, "FINISHED")
    assert end_time is not None


def test_a_job_finds_the_run_that_was_scheduled_for_it(folder: Path) -> None:
    scheduled = schedule_run("wave", folder)
    assert runs() == [("wave-1", "SCHEDULED", None)]
    job = open_run("wave", folder)
    assert job.run_id == scheduled.run_id
    assert runs() == [("wave-1", "RUNNING", None)]
    job.finish("SCHEDULED")  # requeued
    assert runs() == [("wave-1", "SCHEDULED", None)]


def test_a_scheduled_run_needs_no_server_at_its_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_run("wave", folder)
    monkeypatch.setattr("dpinn.track.mlflow_run.STOP_TIMEOUT_S", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.warns(DpinnWarning, match="goes on, and what it logs is kept and sent later"):
        job = open_run("wave", folder)
    with pytest.warns(DpinnWarning, match="did not reach"):
        job.finish("KILLED")


def test_a_database_that_is_away_costs_seconds_not_minutes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has an id goes on without it, a new one is refused."""
    monkeypatch.setattr("dpinn.track.mlflow_run.STOP_TIMEOUT_S", 0.1)
    uri = f"postgresql://ada:secret@127.0.0.1:{free_port()}/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        DpinnError, match=r"does not answer \(connection refused\); start it"
    ) as told:
        open_run("wave", folder)
    assert "secret" not in str(told.value)
    with pytest.warns(DpinnWarning, match=r"nothing reaches .*\(connection refused\); run 0+ goes"):
        job = open_run("wave", folder, "0" * 32)
    with pytest.warns(DpinnWarning, match="did not reach"):
        job.finish("KILLED")


def test_what_was_begun_can_be_taken_back(folder: Path) -> None:
    schedule_run("wave", folder).take_back()
    with sqlite3.connect("mlflow.db") as database:
        assert database.execute("SELECT lifecycle_stage FROM runs").fetchall() == [("deleted",)]


def test_a_run_that_was_there_before_is_as_it_was(folder: Path) -> None:
    for status in ("KILLED", "SCHEDULED"):
        open_run("wave", folder).finish(status)
        before = runs()
        schedule_run("wave", folder).take_back()
        assert runs() == before


def test_the_id_of_a_checkpoint_goes_before_that_of_the_folder(folder: Path) -> None:
    first = schedule_run("wave", folder)
    other = folder.with_name("wave-2")
    other.mkdir()
    schedule_run("wave", other)
    assert open_run("wave", other, first.run_id).run_id == first.run_id
    assert read_run_id(other) == first.run_id


def test_a_run_of_another_store_is_named(folder: Path) -> None:
    unknown = "0123456789abcdef0123456789abcdef"
    (folder / "mlflow_run_id").write_text(unknown)
    with pytest.raises(DpinnError, match=f"has no run {unknown}; set MLFLOW_TRACKING_URI to"):
        open_run("wave", folder)
