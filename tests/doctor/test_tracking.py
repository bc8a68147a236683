import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpinn.doctor.finding import examine
from dpinn.track.store import connect


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and nothing said about MLflow."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose connections are taken and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def look() -> tuple[str, str, str]:
    found = examine("MLflow store", "tracking.mlflow_store")
    return found.state, found.text, found.remedy


def test_no_store_yet_is_absent_and_none_is_made(folder: Path) -> None:
    assert look() == ("absent", f"none yet: the first run makes {folder}/mlflow.db", "")
    assert list(folder.iterdir()) == []


def test_a_store_that_cannot_be_made_is_a_problem(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/file/mlflow.db")
    state, text, remedy = look()
    assert state == "problem"
    assert f"none can be made at {folder}/file/mlflow.db: Not a directory" in text
    assert "MLFLOW_TRACKING_URI" in remedy


def test_the_database_of_this_folder_is_ok_and_stays_as_it_is(folder: Path) -> None:
    connect(f"sqlite:///{folder}/mlflow.db")
    before = (folder / "mlflow.db").read_bytes()
    text = f"sqlite:///{folder}/mlflow.db answers and takes runs"
    assert look() == ("ok", text, "")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    assert (folder / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    ("uri", "fragment"),
    [
        ("httpx://me:secret@head:5000", "unsupported URI 'httpx://head:5000'"),
        ("file:///tmp/mlruns", "file:///tmp/mlruns"),
        ("postgresql://me:secret@127.0.0.1:1/runs", "postgresql://127.0.0.1:1/runs"),
    ],
)
def test_a_uri_that_mlflow_does_not_take_is_a_problem_without_its_password(
    uri: str, fragment: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    state, text, remedy = look()
    assert state == "problem"
    assert fragment in text
    assert "secret" not in text
    assert "http://HOST:PORT" in remedy


def test_a_server_that_never_answers_is_given_up(
    silent: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{silent}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    state, text, remedy = look()
    assert state == "problem"
    assert text == f"the MLflow store http://127.0.0.1:{silent} does not answer (timed out)"
    assert remedy.startswith("start it")
