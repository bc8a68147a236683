import json
import math
import shutil
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from dpinn.errors import DpinnError, DpinnWarning
from dpinn.track import MLflowRun, curves_figure, download_artifact
from dpinn.track.experiment import Experiment
from dpinn.track.naming import flatten, key_of, shorten

from ..mlflow_server import free_port
from .conftest import Line, Server


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, made_database: Path) -> None:
    """Start from a store that is there: making one takes seconds (see test_store.py)."""
    shutil.copyfile(made_database, tmp_path / "mlflow.db")


def client(uri: str | None = None) -> MlflowClient:
    return MlflowClient(tracking_uri=uri or f"sqlite:///{Path.cwd()}/mlflow.db")


def stored(run_id: str, uri: str | None = None) -> Run:
    return client(uri).get_run(run_id)


def steps(run_id: str, metric: str, uri: str | None = None) -> list[int]:
    return [m.step for m in client(uri).get_metric_history(run_id, metric)]


def test_what_is_logged_is_stored(tmp_path: Path) -> None:
    run = MLflowRun.start("burgers", "first")
    run.set_tags({"world_size": 4})
    run.log_params({"model": {"width": 256, "layers": [1, 2]}, "seed": 0})
    run.log_metrics({"loss/pde": 0.5, "time/step_ms": 12.0}, 10)
    run.log_metrics({"loss/pde": 0.25}, 20)
    run.log_text("seed: 0", "config/run.yaml")
    (tmp_path / "notes.txt").write_text("notes")
    run.log_file(tmp_path / "notes.txt", "files")
    run.log_figure(curves_figure([{"step": 0, "loss/pde": 1.0}]), "figures/curves.png")
    run.finish()
    run.finish("FAILED")  # a second call does nothing

    kept = stored(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "first"
    assert kept.info.experiment_id == run.experiment_id
    assert kept.data.params == {"model.width": "256", "model.layers": "[1, 2]", "seed": "0"}
    assert kept.data.tags["world_size"] == "4"
    assert kept.data.metrics == {"loss/pde": 0.25, "time/step_ms": 12.0}
    assert steps(run.run_id, "loss/pde") == [10, 20]
    assert run.url == f"sqlite:///{tmp_path}/mlflow.db"
    assert download_artifact(run.run_id, "config/run.yaml", "got").read_text() == "seed: 0"
    assert download_artifact(run.run_id, "files/notes.txt", "got").read_text() == "notes"
    picture = download_artifact(run.run_id, "figures/curves.png", "got")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_continued_run_has_no_step_twice_and_keeps_its_parameters() -> None:
    first = MLflowRun.start("e", "n")
    first.log_params({"batch": 64})
    for step in range(0, 100, 10):
        first.log_metrics({"loss/pde": 1.0 / (1 + step)}, step)
    first.log_metrics({"error/u": 0.5}, 50)
    first.finish("KILLED")

    # Resumed from the checkpoint of step 60: 70, 80 and 90 come again, error/u at 100 is new.
    again = MLflowRun.start("e", "n", run_id=first.run_id)
    assert stored(first.run_id).info.status == "RUNNING"
    assert again.experiment_id == first.experiment_id
    again.log_params({"batch": 128, "nodes": 2})
    for step in range(70, 130, 10):
        again.log_metrics({"loss/pde": 7.0}, step)
    again.log_metrics({"error/u": 0.25, "loss/new": 1.0}, 100)
    again.finish()

    history = client().get_metric_history(first.run_id, "loss/pde")
    assert [m.step for m in history] == list(range(0, 130, 10))
    assert [m.value == 7.0 for m in history] == [m.step >= 100 for m in history]
    assert steps(first.run_id, "error/u") == [50, 100]
    assert steps(first.run_id, "loss/new") == [100]
    assert stored(first.run_id).data.params == {"batch": "64", "nodes": "2"}
    assert stored(first.run_id).info.status == "FINISHED"


def test_values_keep_the_time_at_which_they_were_measured() -> None:
    run = MLflowRun.start("e", "n")
    run.log_metrics({"loss/pde": 1.0}, 1, time_s=1.7e9 + 0.123)
    run.finish()
    (value,) = client().get_metric_history(run.run_id, "loss/pde")
    assert value.timestamp == 1_700_000_000_123


def test_nan_and_infinite_values_are_kept() -> None:
    run = MLflowRun.start("e", "n")
    for step, value in enumerate([math.nan, math.inf, -math.inf, float(np.float32(1.5))]):
        run.log_metrics({"loss/pde": value}, step)
    run.finish()
    values = [m.value for m in client().get_metric_history(run.run_id, "loss/pde")]
    assert math.isnan(values[0])
    assert values[1] > 1e308
    assert values[2] < -1e308
    assert values[3] == 1.5


def test_a_value_that_mlflow_refuses_costs_only_itself() -> None:
    run = MLflowRun.start("e", "n")
    run.log_metrics({"loss/pde": 1.0}, 1)
    run.log_metrics({"loss/bc": 2.0}, 1, time_s=-1.0)
    run.log_metrics({"loss/ic": 3.0}, 1)
    with pytest.warns(DpinnWarning, match=r"refused to log something.*Invalid"):
        run.finish()
    assert stored(run.run_id).data.metrics == {"loss/pde": 1.0, "loss/ic": 3.0}
    assert stored(run.run_id).info.status == "FINISHED"


NAMES = (
    "loss/u(0,x)", "loss/u[0,x]", "loss/bc@0", "loss/u[x=1]", "loss/∂u/∂t=Δu", "loss/50% mass",
    "loss//", "loss/../pde", "loss/./pde", "/pde", "pde/", "loss/a\nb", "loss/a\n", "loss/ü 1:2-3.",
    "loss/" + "k" * 300, "loss/" + "k" * 301, "loss/é", "loss/e\u0301", "loss/😀", "loss/(=)" * 99,
)  # fmt: skip


def test_every_metric_and_parameter_arrives_whatever_its_name() -> None:
    run = MLflowRun.start("e", "n" * 255)
    run.log_params({"problem": {name: str(k) for k, name in enumerate(NAMES)}, "plain": 1})
    run.log_metrics({name: float(k) for k, name in enumerate(NAMES)}, 1)
    run.log_metrics({name: float(-k) for k, name in enumerate(NAMES)}, 2)
    run.finish()
    (found,) = Experiment.read("e").runs
    shown = {shorten(name): float(k) for k, name in enumerate(NAMES)}
    assert found.last == {name: -k for name, k in shown.items()}
    assert found.params == {"plain": "1"} | {
        shorten(f"problem.{name}"): str(k) for k, name in enumerate(NAMES)
    }
    losses = {name: k for name, k in shown.items() if name.startswith("loss/")}
    assert {n: list(s.values) for n, s in found.histories.items()} == {
        name: [k, -k] for name, k in losses.items()
    }


def test_a_name_that_mlflow_takes_stays_and_others_are_readable() -> None:
    for name in ("loss/pde", "a b-c_d.e:f/g", "loss/Δu", "x" * 200):
        assert key_of(name) == name
    assert key_of("loss/u(0,x)").startswith("loss/u_0_x_-")
    assert len({key_of(name) for name in NAMES}) == len(NAMES)


def test_long_values_are_cut_and_stay_distinct() -> None:
    flat = flatten({"a": {"b*": "x" * 400, "empty": {}}, "fits": "y" * 250})
    assert flat["a.b*"].startswith("x" * 240)
    assert len(flat["a.b*"]) == 250
    assert flat["a.empty"] == "{}"
    assert flat["fits"] == "y" * 250
    assert shorten("x" * 400) != shorten("x" * 401)
    run = MLflowRun.start("e", "n")
    run.log_params({"a": {"b*": "x" * 400}, "k" * 300: 1, **{f"p{i}": i for i in range(250)}})
    run.set_tags({"long": "z" * 9000})
    run.finish()
    kept = stored(run.run_id).data
    assert len(kept.params) == 252
    assert kept.params[key_of("a.b*")] == flat["a.b*"]
    assert len(kept.tags["long"]) == 250


def test_logging_leaves_the_requests_to_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    run = MLflowRun.start("e", "n")
    threads: set[int] = set()
    send = MlflowClient.log_batch

    def noted(*args: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return send(*args, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", noted)
    for step in range(500):
        run.log_metrics({f"loss/{i}": 1.0 for i in range(15)}, step)
    run.finish()
    assert steps(run.run_id, "loss/14") == list(range(500))
    assert threads
    assert threading.get_ident() not in threads


def test_an_unknown_run_is_an_error() -> None:
    MLflowRun.start("e", "n").finish()
    unknown = "0123456789abcdef0123456789abcdef"
    with pytest.raises(DpinnError, match=f"has no run {unknown}"):
        MLflowRun.start("e", "n", run_id=unknown)
    with pytest.raises(DpinnError, match=f"has no run {unknown}"):
        download_artifact(unknown, "last.ckpt", "got")


def test_an_unknown_artifact_names_those_there() -> None:
    run = MLflowRun.start("e", "n")
    run.log_text("", "checkpoints/last.ckpt")
    run.finish()
    with pytest.raises(DpinnError, match=r"no artifact checkpoints/x, only checkpoints/last\.ckpt"):
        download_artifact(run.run_id, "checkpoints/x", "got")


def test_deleted_runs_and_experiments_are_named() -> None:
    run = MLflowRun.start("e", "n")
    run.finish()
    client().delete_run(run.run_id)
    with pytest.raises(DpinnError, match=f"run {run.run_id} is deleted"):
        MLflowRun.start("e", "n", run_id=run.run_id)
    client().delete_experiment(str(run.experiment_id))
    with pytest.raises(DpinnError, match="experiment e is deleted; restore it"):
        MLflowRun.start("e", "n")


def test_an_experiment_name_that_mlflow_refuses_is_one_sentence() -> None:
    with pytest.raises(DpinnError, match="cannot open a run of experiment 'eee"):
        MLflowRun.start("e" * 600, "n")


def test_a_missing_file_is_told_at_once() -> None:
    run = MLflowRun.start("e", "n")
    with pytest.raises(DpinnError, match="no such file"):
        run.log_file("nowhere.txt")
    run.finish()


def test_a_server_started_in_the_folder_shows_the_embedded_run(server: Server) -> None:
    asked = urllib.request.urlopen(f"{server.url}/api/2.0/mlflow/runs/get?run_id={server.run_id}")
    run = json.load(asked)["run"]
    assert run["info"]["run_name"] == "embedded"
    assert run["data"]["metrics"][0]["value"] == 0.5
    picture = urllib.request.urlopen(
        f"{server.url}/get-artifact?path=figures/u.png&run_uuid={server.run_id}"
    ).read()
    assert picture.startswith(b"\x89PNG")


def test_a_run_on_a_server_has_a_page_and_artifacts(server: Server) -> None:
    run = MLflowRun.start("served", "n", tracking_uri=server.url)
    run.log_metrics({"loss/pde": math.nan, "loss/ic": math.inf}, 1)
    run.log_text("seed: 0", "config/run.yaml")
    run.finish()
    assert run.url == f"{server.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert steps(run.run_id, "loss/pde", server.url) == [1]
    assert steps(run.run_id, "loss/ic", server.url) == [1]
    got = download_artifact(run.run_id, "config/run.yaml", "got", server.url)
    assert got.read_text() == "seed: 0"
    with pytest.raises(DpinnError, match="has no run"):
        download_artifact("0" * 32, "config/run.yaml", "got", server.url)


def test_a_server_that_goes_and_returns_gets_everything_once(line: Line, server: Server) -> None:
    run = MLflowRun.start("outage", "n", tracking_uri=line.url)
    run.log_metrics({"loss/pde": 1.0}, 0)
    assert run.flush()
    line.cut()
    run.log_metrics({"loss/pde": 1.0}, 1)
    run.log_text("kept", "kept.txt")
    with pytest.warns(DpinnWarning, match="training goes on"):
        assert not run.flush()
    for step in range(2, 50):
        run.log_metrics({"loss/pde": 1.0}, step)
    line.lose_answers = True  # the server stores the batch, but the answer does not come back
    line.mend()
    assert not run.flush()
    assert line.answers_lost > 0
    line.lose_answers = False
    run.log_metrics({"loss/pde": 1.0}, 50)
    run.finish()
    assert steps(run.run_id, "loss/pde", server.url) == list(range(51))
    assert stored(run.run_id, server.url).info.status == "FINISHED"
    got = download_artifact(run.run_id, "kept.txt", "got", server.url)
    assert got.read_text() == "kept"


def test_a_requeued_run_goes_on_while_the_server_is_away(line: Line, server: Server) -> None:
    first = MLflowRun.start("requeued", "n", tracking_uri=line.url)
    first.log_params({"batch": 64})
    for step in range(5):
        first.log_metrics({"loss/pde": 1.0}, step)
    first.finish("KILLED")
    line.cut()
    with pytest.warns(DpinnWarning, match="goes on, and what it logs is kept"):
        again = MLflowRun.start("requeued", "n", first.run_id, line.url)
    again.log_params({"batch": 128})
    for step in range(3, 8):
        again.log_metrics({"loss/pde": 1.0}, step)
    assert again.url == line.url
    line.mend()
    again.finish()
    assert steps(first.run_id, "loss/pde", server.url) == list(range(8))
    assert stored(first.run_id, server.url).data.params == {"batch": "64"}
    assert again.url.endswith(f"/runs/{first.run_id}")


def test_a_server_that_stays_away_ends_with_a_warning_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpinn.track.mlflow_run.STOP_TIMEOUT_S", 1.0)
    with pytest.warns(DpinnWarning, match="goes on"):
        run = MLflowRun.start("e", "n", "0" * 32, f"http://127.0.0.1:{free_port()}")
    run.log_metrics({"loss/pde": 1.0}, 1)
    with pytest.warns(DpinnWarning, match="nothing reaches"):
        run.flush()
    lost = (
        r"3 values and files of the MLflow run 0+ did not reach .* .connection refused.; call again"
    )
    with pytest.warns(DpinnWarning, match=lost):
        run.finish("KILLED", "; call again")
