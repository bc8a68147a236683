"""A server that dies, hangs or is away to the end costs training nothing and loses no step."""

import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..mlflow_server import MLflowServer

pytestmark = pytest.mark.slow

GATED_WEIGHTS = """
import time
from pathlib import Path
from dpinn.loss import GradientNormWeights

class GatedWeights(GradientNormWeights):
    \"\"\"Weights that wait at the step that the file ``gate`` holds, for the test to act.\"\"\"

    def due(self, step):
        while step >= int(Path("gate").read_text()):
            time.sleep(0.01)
        return super().due(step)
"""

CHANGES = {
    "tracking.mlflow": True,
    "tracking.figures": True,
    "trainer.max_steps": 60,
    "tracking.checkpoint_every": 20,
    "model.alignment": {"every": 10},
    "model.weights": {"class_path": "gated.GatedWeights", "init_args": {"every": 10}},
}


@dataclass
class Training:
    """A training behind a gate, tracked by a server."""

    work: Any
    uri: str
    wait_until: Callable[..., None]

    def open_gate(self, step: int) -> None:
        """Let it go on up to a step."""
        part = self.work.folder / "gate.part"
        part.write_text(str(step))
        part.rename(self.work.folder / "gate")

    def start(self, *arguments: Any) -> Any:
        return self.work.start("fit", *arguments, MLFLOW_TRACKING_URI=self.uri)

    def go_to(self, step: int) -> None:
        """Return once all lines up to a step are written; it waits there."""
        self.open_gate(step)

        def is_there() -> bool:
            rows = rows_of(self.run) if any(self.work.folder.glob("runs/*/metrics.jsonl")) else []
            return bool(rows) and rows[-1]["step"] >= step

        self.wait_until(is_there, f"step {step}")

    @property
    def run(self) -> Path:
        return self.work.run_folder()

    @property
    def run_id(self) -> str:
        return (self.run / "mlflow_run_id").read_text().strip()


def told(outcome: Any) -> list[str]:
    """What dpinn said on standard error, libraries left out."""
    return [line for line in outcome.stderr.splitlines() if line.startswith("dpinn: ")]


def rows_of(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def stored(server: MLflowServer, run_id: str) -> list[tuple[str, int, float, int]]:
    """Name, step, value and time of all that the database holds of a run."""
    with sqlite3.connect(server.folder / "mlflow.db") as database:
        query = "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ?"
        return database.execute(query, [run_id]).fetchall()


def statuses(server: MLflowServer, run: Path) -> list[str]:
    """Of all MLflow runs that this run folder has ever had."""
    with sqlite3.connect(server.folder / "mlflow.db") as database:
        query = "SELECT status FROM runs WHERE name = ?"
        return [status for (status,) in database.execute(query, [run.name])]


def assert_nothing_is_lost(server: MLflowServer, training: Training) -> None:
    """Each value of the files is in the database once, with its time, and no other of its name."""
    rows = rows_of(training.run) + rows_of(training.run, "alignment.jsonl")
    expected = [
        (name, row["step"], value, round(1e3 * row["time/unix_s"]))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "time/unix_s", "layers")
    ]
    names = {name for name, *_ in expected}
    held = stored(server, training.run_id)
    assert Counter(h for h in held if h[0] in names) == Counter(expected)
    assert [row["step"] for row in rows_of(training.run)] == list(range(5, 65, 5))
    once = [h[:2] for h in held if h[0].startswith(("initial_error/", "final_error/"))]
    assert sorted(once) == [("final_error/u", 60), ("initial_error/u", 0)]
    assert statuses(server, training.run) == ["FINISHED"]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path_factory.mktemp("served"))
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: MLflowServer) -> MLflowServer:
    if shared_server.process.poll() is not None:
        shared_server.start()
    shared_server.wait()
    return shared_server


@pytest.fixture
def training(work: Any, server: MLflowServer, wait_until: Any) -> Training:
    work.file("gated.py", GATED_WEIGHTS)
    work.config(CHANGES)
    return Training(work, server.url, wait_until)


@pytest.mark.parametrize("how", ["killed", "held"])
def test_a_server_that_is_away_for_a_while_misses_no_step(
    how: str, server: MLflowServer, training: Training, wait_until: Any
) -> None:
    training.open_gate(0)
    running = training.start("--config", "tiny.yaml")
    training.go_to(20)
    wait_until(lambda: len(stored(server, training.run_id)) > 20, "the first metrics")
    if how == "killed":
        server.stop()
    else:
        server.send(signal.SIGSTOP)
    training.go_to(50)  # past a checkpoint
    assert max(step for _, step, *_ in stored(server, training.run_id)) <= 20
    if how == "killed":
        server.start()
        server.wait()
    else:
        server.send(signal.SIGCONT)
    training.open_gate(1000)
    outcome = running.wait()
    assert outcome.returncode == 0, outcome.stderr
    assert_nothing_is_lost(server, training)


def test_what_was_not_delivered_at_the_end_is_delivered_when_the_run_is_resumed(
    server: MLflowServer, training: Training
) -> None:
    training.open_gate(0)
    running = training.start("--config", "tiny.yaml")
    training.go_to(20)
    server.stop()
    training.open_gate(1000)
    outcome = running.wait()
    assert outcome.returncode == 0
    first, last = told(outcome)
    assert first.startswith(f"dpinn: warning: nothing reaches the MLflow store {server.url} (")
    assert first.endswith("training goes on, and what is logged is kept and sent later")
    assert f"values and files of the MLflow run {training.run_id} did not reach" in last
    assert last.endswith(f"; deliver them with: dpinn fit --resume runs/{training.run.name}")
    assert statuses(server, training.run) == ["RUNNING"]
    lines, checkpoint = (
        (training.run / name).read_bytes() for name in ("metrics.jsonl", "checkpoints/last.ckpt")
    )

    server.start()
    server.wait()
    training.open_gate(0)  # it must not train
    outcome = training.start("--resume", f"runs/{training.run.name}").wait()
    assert (outcome.returncode, told(outcome)) == (0, [])
    assert_nothing_is_lost(server, training)
    assert (training.run / "metrics.jsonl").read_bytes() == lines
    assert (training.run / "checkpoints/last.ckpt").read_bytes() == checkpoint
    artifacts = server.folder.glob(f"mlartifacts/*/{training.run_id}/artifacts/**/*")
    names = {file.name for file in artifacts if file.is_file()}
    assert names >= {"config.yaml", "alignment.jsonl", "evaluation.json", "last.ckpt"}
    assert any(name.endswith(".png") for name in names)


def test_a_run_that_is_killed_while_the_server_is_away_loses_nothing(
    server: MLflowServer, training: Training, wait_until: Any
) -> None:
    training.open_gate(0)
    running = training.start("--config", "tiny.yaml")
    training.go_to(20)
    wait_until(lambda: len(stored(server, training.run_id)) > 20, "the first metrics")
    server.stop()
    training.go_to(50)
    running.kill(signal.SIGKILL)
    running.wait()
    server.start()
    server.wait()
    training.open_gate(1000)
    outcome = training.start("--resume").wait()
    assert (outcome.returncode, told(outcome)) == (0, [])
    assert "at step 40" in outcome.stdout
    assert_nothing_is_lost(server, training)
