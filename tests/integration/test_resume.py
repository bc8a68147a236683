"""A run that is killed and resumed is bitwise the run that was never killed (invariant 3)."""

import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .trajectories import SLOW_WEIGHTS, Pair, assert_same_run, rows_of

LONG = {
    "model.causal_tolerance": 1.0e-3,
    "trainer.max_steps": 60,
    "tracking.evaluate_every": 20,
    "tracking.checkpoint_every": 20,
    "model.weights": {"class_path": "slow.SlowWeights", "init_args": {"every": 10}},
    "model.schedule": {"warmup_steps": 10, "decay_rate": 0.9, "decay_steps": 10},
}

SCHEDULE_FREE = {
    "class_path": "dpinn.optim.ScheduleFree",
    "init_args": {
        "base": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": 3.0e-3, "betas": [0, 0.95]}}
    },
}


def windows(count: int) -> dict[str, Any]:
    return {"class_path": "dpinn.train.TimeWindows", "init_args": {"count": count}}


VARIANTS: dict[str, dict[str, Any]] = {
    # A checkpoint at step 20 is all that is left: of the end of a window, or of the middle of one.
    "soap, from the seam of two windows": {"model.stages": windows(3)},
    "schedule-free, from the midst of the second window": {
        "model.stages": windows(4),
        "model.optimizer": SCHEDULE_FREE,
        "model.alignment": {"every": 10},
    },
    "soap": {},
    "adam, by the path of the checkpoint": {
        "model.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.0e-3}},
    },
    "soap in float64": {"trainer.precision": "64-true", "data.sequence": "sobol"},
}


def killed(start: Callable[..., Any], folder: Path, *, wait_until: Any) -> Path:
    """Start a slow run in a folder; kill it between its first two checkpoints, steps later."""
    running = start(PAUSE="0.03")

    def in_between() -> bool:
        metrics = list(folder.glob("runs/*/metrics.jsonl"))
        rows = metrics[0].read_text().splitlines() if metrics else []
        return len(rows) >= 6 and any(folder.glob("runs/*/checkpoints/last.ckpt"))

    wait_until(in_between, "a checkpoint and steps beyond it")
    running.kill(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    (run,) = (folder / "runs").iterdir()
    assert torch.load(run / "checkpoints/last.ckpt")["global_step"] < rows_of(run)[-1]["step"] < 60
    return run


@pytest.fixture(scope="module")
def pair_of(
    tmp_path_factory: pytest.TempPathFactory, workplace: Any, wait_until: Any
) -> Callable[..., Pair]:
    def make(changes: dict[str, Any], resume: str = "--resume") -> Pair:
        whole, broken = workplace(), workplace()
        for work in (whole, broken):
            work.file("slow.py", SLOW_WEIGHTS)
            work.config(LONG | changes)
        outcome = whole("fit", "--config", "tiny.yaml")
        assert outcome.returncode == 0, outcome.stderr

        def start(**environment: str) -> Any:
            return broken.start("fit", "--config", "tiny.yaml", **environment)

        run = killed(start, broken.folder, wait_until=wait_until)
        step = torch.load(run / "checkpoints/last.ckpt")["global_step"]
        # What a kill within a write leaves behind.
        (run / "checkpoints/.last.ckpt.1.part").write_bytes(b"half")
        if resume == "--resume":
            outcome = broken("fit", "--resume", run)
            assert f"at step {step}" in outcome.stdout
        else:
            outcome = broken("fit", "-c", "tiny.yaml", resume, run / "checkpoints/last.ckpt")
        assert outcome.returncode == 0, outcome.stderr
        assert broken.run_folder() == run
        assert not list(run.rglob("*.part"))
        return Pair(whole.run_folder(), run, step)

    return make


@pytest.fixture(scope="module")
def schedule_free(pair_of: Callable[..., Pair]) -> Pair:
    return pair_of({"model.optimizer": SCHEDULE_FREE, "tracking.mlflow": True})


def test_schedule_free_soap_killed_and_resumed_is_bitwise_the_run_never_killed(
    schedule_free: Pair,
) -> None:
    assert 0 < schedule_free.continued_from < 60
    assert_same_run(schedule_free)


def test_the_run_under_test_has_everything_on(schedule_free: Pair) -> None:
    checkpoint = torch.load(schedule_free.resumed / "checkpoints/last.ckpt")
    averaged, trained = checkpoint["solution"], checkpoint["state_dict"]
    name = "network.last.weight"
    assert not averaged[name].equal(trained[f"pinn.{name}"])
    rows = rows_of(schedule_free.resumed)
    assert len({row["weight/ic"] for row in rows}) > 3
    assert 0 < rows[-1]["causal/min"] < 0.999
    assert [row["step"] for row in rows] == list(range(5, 65, 5))


def mlflow_metrics(run: Path) -> dict[tuple[str, int], list[float]]:
    """Every value by metric and step, read from the database itself."""
    with sqlite3.connect(run.parent.parent / "mlflow.db") as database:
        found: dict[tuple[str, int], list[float]] = {}
        for key, step, value in database.execute("SELECT key, step, value FROM metrics"):
            found.setdefault((key, step), []).append(value)
    return found


def test_a_resumed_run_is_one_finished_mlflow_run(schedule_free: Pair) -> None:
    with sqlite3.connect(schedule_free.resumed.parent.parent / "mlflow.db") as database:
        runs = database.execute("SELECT run_uuid, status, name FROM runs").fetchall()
    assert len(runs) == 1
    assert runs[0][1:] == ("FINISHED", schedule_free.resumed.name)


def test_a_resumed_run_logs_every_metric_once_and_as_the_run_never_killed(
    schedule_free: Pair,
) -> None:
    whole, resumed = mlflow_metrics(schedule_free.whole), mlflow_metrics(schedule_free.resumed)
    assert {
        k: n for k, n in Counter({k: len(v) for k, v in resumed.items()}).items() if n > 1
    } == {}
    assert whole.keys() == resumed.keys()
    clocks = ("time/", "memory/", "system/")  # what was going on in the machine
    assert {k: v for k, v in whole.items() if not k[0].startswith(clocks)} == {
        k: v for k, v in resumed.items() if not k[0].startswith(clocks)
    }
    steps = {step for key, step in resumed if key == "loss/total"}
    assert steps == set(range(5, 65, 5))


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_after_sigkill_is_bitwise(variant: str, pair_of: Callable[..., Pair]) -> None:
    resume = "--ckpt_path" if variant == "adam, by the path of the checkpoint" else "--resume"
    assert_same_run(pair_of(VARIANTS[variant], resume))


@pytest.mark.slow
def test_a_compiled_run_in_real_processes_resumes_compiled_and_bitwise(
    workplace: Any, wait_until: Any
) -> None:
    dpinn = Path(sys.executable).with_name("dpinn")
    changes = {
        "model.optimizer": SCHEDULE_FREE,
        "model.compile": "on",
        "model.network": {"class_path": "dpinn.nn.MLP", "init_args": {"width": 8, "depth": 2}},
    }
    whole, broken = workplace(), workplace()
    for work in (whole, broken):
        work.file("slow.py", SLOW_WEIGHTS)
        work.config(LONG | changes)
    assert whole.real(dpinn, "fit", "--config", "tiny.yaml").returncode == 0

    def start(**environment: str) -> Any:
        return broken.start_real(dpinn, "fit", "--config", "tiny.yaml", **environment)

    run = killed(start, broken.folder, wait_until=wait_until)
    step = torch.load(run / "checkpoints/last.ckpt")["global_step"]
    # Whether it compiles was decided once: what is asked for now makes no difference.
    resumed = broken.real(dpinn, "fit", "--resume", "--model.compile", "off")
    assert resumed.returncode == 0, resumed.stderr
    assert torch.load(run / "checkpoints/last.ckpt")["compiled"] is True
    assert_same_run(Pair(whole.run_folder(), run, step))


def test_inner_steps_change_no_bit_of_a_trajectory(workplace: Any) -> None:
    runs = []
    for inner in (1, 5):
        work = workplace()
        changes = {"data.inner_steps": inner, "model.optimizer": SCHEDULE_FREE}
        work.config(changes | {"model.weights": "dpinn.loss.GradientNormWeights"})
        extra = ("--model.weights.every", "10")
        outcome = work("fit", "--config", "tiny.yaml", *extra)
        assert outcome.returncode == 0, outcome.stderr
        runs.append(work.run_folder())
    assert_same_run(Pair(*runs, continued_from=0))


def test_an_interrupted_run_says_so_and_how_to_go_on(workplace: Any, wait_until: Any) -> None:
    work = workplace()
    work.file("slow.py", SLOW_WEIGHTS)
    work.config(LONG | {"tracking.mlflow": True})
    running = work.start("fit", "--config", "tiny.yaml", PAUSE="0.03")
    wait_until(
        lambda: any(work.folder.glob("runs/*/checkpoints/last.ckpt")), "the first checkpoint"
    )
    running.kill(signal.SIGINT)
    outcome = running.wait()
    run = work.run_folder()
    assert outcome.returncode == 130
    assert outcome.stderr.splitlines() == [
        f"resume with: dpinn fit --resume runs/{run.name}",
        "dpinn: interrupted",
    ]
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("KILLED",)]


def test_a_finished_run_goes_on_where_more_steps_are_asked_for(workplace: Any) -> None:
    work = workplace()
    assert work("fit", "-c", work.config()).returncode == 0
    outcome = work("fit", "--resume", "--trainer.max_steps", 30)
    assert outcome.returncode == 0, outcome.stderr
    assert [row["step"] for row in rows_of(work.run_folder())] == [5, 10, 15, 20, 25, 30]


def test_a_run_that_its_time_limit_ends_can_be_resumed(workplace: Any) -> None:
    work = workplace()
    work.file("slow.py", SLOW_WEIGHTS)
    work.config(LONG | {"tracking.checkpoint_every": 60, "tracking.mlflow": True})
    limit = ("--trainer.max_time", "00:00:00:02")
    outcome = work("fit", "-c", "tiny.yaml", *limit, PAUSE="0.1")
    assert outcome.returncode == 0
    run = work.run_folder()
    step = torch.load(run / "checkpoints/last.ckpt")["global_step"]
    assert 0 < step < 60
    assert f"stopped at step {step}" in outcome.stdout
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("KILLED",)]
