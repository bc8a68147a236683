"""Time windows and curricula: what is handed on, and what begins anew."""

import itertools
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

import dpinn
from dpinn.nn import PINN, WindowedPINN

WINDOWS = {
    "model.stages": {"class_path": "dpinn.train.TimeWindows", "init_args": {"count": 3}},
    "model.schedule": {"warmup_steps": 5, "decay_rate": 0.5, "decay_steps": 5},
    "trainer.max_steps": 60,
    "tracking.mlflow": True,
}

SLOW = """
import os, time
from dpinn.loss import FixedWeights

class Slow(FixedWeights):
    def due(self, step):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return super().due(step)
"""

DECAY = """
import torch
from dpinn import Box, Problem

class Decay(Problem):
    domain = Box(t=(0.0, 2.0), x=(0.0, 1.0))
    fields = ("u",)

    def __init__(self, rate: float = 2.0):
        self.rate = rate

    def residual(self, u):
        return {"pde": u.t + self.rate * u}

    def initial(self, u, x):
        return {"ic": u - torch.cos(x)}
"""


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def marched(workplace: Any) -> Path:
    """A run of three windows."""
    work = workplace()
    outcome = work("fit", "--config", work.config(WINDOWS))
    assert outcome.returncode == 0, outcome.stderr
    return work.run_folder()


def test_the_solution_picks_its_window_by_time(marched: Path) -> None:
    solution = dpinn.load(marched)
    checkpoint = torch.load(marched / "checkpoints/last.ckpt")
    assert isinstance(solution.pinn, WindowedPINN)
    ends = [end for _, end in solution.windows]
    assert ends == pytest.approx([1 / 3, 2 / 3, 1])
    states = [*checkpoint["course"]["finished"], checkpoint["solution"]]
    for t, state in zip((0.2, 0.5, 0.9), states, strict=True):
        alone = dpinn.load(marched).pinn.pinns[0]
        assert isinstance(alone, PINN)
        alone.load_state_dict(state)
        points = torch.tensor([[t, 0.3], [t, 0.7]])
        u = solution(t=points[:, 0], x=points[:, 1])["u"]
        assert u.value.equal(alone(points)[:, 0])
    names = ["network.last.weight"]
    assert all(not a[n].equal(b[n]) for n in names for a, b in itertools.pairwise(states))


def test_each_window_begins_with_a_new_schedule_and_optimizer(marched: Path) -> None:
    rows = rows_of(marched)
    rates = [row["learning_rate"] for row in rows]
    assert rates[:4] == rates[4:8] == rates[8:]
    assert rates[0] > rates[3]
    assert [row["stage"] for row in rows] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    # SOAP counts its steps itself.
    state = torch.load(marched / "checkpoints/last.ckpt")["optimizer_states"][0]
    assert state["counters"]["steps"] == 20


def test_errors_are_reported_for_each_window_and_for_the_whole(marched: Path) -> None:
    result = json.loads((marched / "evaluation.json").read_text())
    assert len(result["window_errors"]["u"]) == 3
    assert result["error/u"] < 10
    assert 0.5 < result["initial_error/u"] < 3
    ends = {row["step"]: row["error/u"] for row in rows_of(marched) if "error/u" in row}
    for step, error in zip((20, 40, 60), result["window_errors"]["u"], strict=True):
        # Watched on fewer points.
        assert ends[step] == pytest.approx(error, rel=0.05)


def test_all_windows_are_one_mlflow_run(marched: Path) -> None:
    with sqlite3.connect(marched.parent.parent / "mlflow.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
        keys = {row[0] for row in database.execute("SELECT DISTINCT key FROM metrics")}
        stored = database.execute(
            "SELECT step, value FROM metrics WHERE key = 'window_error/u' ORDER BY step"
        ).fetchall()
    assert {"stage", "initial_error/u", "final_error/u"} <= keys
    result = json.loads((marched / "evaluation.json").read_text())
    assert stored == list(enumerate(result["window_errors"]["u"]))


@pytest.mark.slow
def test_windows_march_to_the_solution(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """u = exp(-2t) cos x by e⁻⁴: a window that did not start where the last ended would miss it."""
    work = workplace()
    work.file("decay.py", DECAY)
    monkeypatch.syspath_prepend(work.folder)
    work.config(
        {
            "problem": "decay.Decay",
            "model.network": {"class_path": "dpinn.nn.MLP", "init_args": {"width": 16, "depth": 2}},
            "model.optimizer": {"class_path": "dpinn.optim.SOAP", "init_args": {"lr": 5.0e-3}},
            "model.schedule": {"warmup_steps": 20, "decay_rate": 0.9, "decay_steps": 30},
            "model.weights": {
                "class_path": "dpinn.loss.FixedWeights", "init_args": {"weights": {"ic": 100}},
            },
            "model.stages": {"class_path": "dpinn.train.TimeWindows", "init_args": {"count": 4}},
            "model.initialize": False,
            "data": {"batch": 64, "inner_steps": 5},
            "trainer.max_steps": 2400,
            "trainer.precision": "64-true",
            "tracking.log_every": 100,
        }
    )  # fmt: skip
    outcome = work("fit", "--config", "tiny.yaml")
    assert outcome.returncode == 0, outcome.stderr
    solution = dpinn.load(work.run_folder())
    x = torch.linspace(0, 1, 21, dtype=torch.float64)
    for t in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
        exact = torch.exp(torch.tensor(-2.0 * t)) * torch.cos(x)
        error = (solution(t=t, x=x)["u"].value - exact).norm() / exact.norm()
        assert error < 0.05, t
    # Both sides of a seam, which rounding does not leave.
    left, same, right = (solution(t=t, x=x)["u"].value for t in (0.5, 0.5 + 1e-12, 0.5 + 1e-6))
    assert (left - same).abs().max() < 1e-9
    assert 0 < (left - right).abs().max() < 0.02


@pytest.mark.slow
def test_windows_on_two_ranks_follow_those_of_one(workplace: Any) -> None:
    changes = WINDOWS | {
        "model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0e-3}},
        "trainer": {"max_steps": 30, "precision": "64-true", "accelerator": "cpu"},
        "data": {"batch": 63, "chunks": 3, "inner_steps": 5, "points": {"initial": 9, "ends": 5}},
        "tracking.mlflow": False,
    }
    runs = []
    for ranks in (1, 2):
        work = workplace()
        for outcome in work.ranks(
            ranks, "fit", "--config", work.config(changes), "--trainer.devices", ranks
        ):
            assert outcome.returncode == 0, outcome.stderr
        runs.append(work.run_folder())
    one, two = (rows_of(run) for run in runs)
    for a, b in zip(one, two, strict=True):
        for name in a:
            if not name.startswith(("time/", "memory/")):
                assert b[name] == pytest.approx(a[name], rel=1e-10, abs=1e-10), (a["step"], name)
    # The ranks evaluate together what one does alone.
    errors = [json.loads((run / "evaluation.json").read_text()) for run in runs]
    assert errors[1]["error/u"] == pytest.approx(errors[0]["error/u"], rel=1e-9)
    assert errors[1]["window_errors"]["u"] == pytest.approx(errors[0]["window_errors"]["u"])


def test_a_curriculum_trains_each_value_and_is_measured_against_the_last(
    workplace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workplace()
    work.file("decay.py", DECAY)
    monkeypatch.syspath_prepend(work.folder)
    curriculum = {
        "class_path": "dpinn.train.Curriculum",
        "init_args": {"parameter": "rate", "values": [0.5, 2.0], "steps": [10, 10]},
    }
    work.config({"problem": "decay.Decay", "model.stages": curriculum})
    outcome = work("fit", "--config", "tiny.yaml")
    assert outcome.returncode == 0, outcome.stderr
    run = work.run_folder()
    solution = dpinn.load(run)
    assert isinstance(solution.pinn, PINN)
    assert solution.problem.rate == 2.0
    # The loss of the first stage is that of its own rate: 0.5 times u0 at the start held at all t.
    rows = rows_of(run)
    assert rows[2]["loss/pde"] > 3 * rows[1]["loss/pde"]
    assert [row["stage"] for row in rows] == [0, 0, 1, 1]


def test_a_checkpoint_of_other_stages_is_refused(marched: Path, workplace: Any) -> None:
    work = workplace()
    work.config(WINDOWS | {"model.stages.init_args.count": 2})
    outcome = work("fit", "-c", "tiny.yaml", "--ckpt_path", marched / "checkpoints/last.ckpt")
    assert "written with other stages of training" in outcome.sentence


def test_a_checkpoint_of_stages_is_refused_without_them_and_the_other_way_round(
    marched: Path, workplace: Any
) -> None:
    work = workplace()
    work.config(WINDOWS | {"model.stages": None})
    outcome = work("fit", "-c", "tiny.yaml", "--ckpt_path", marched / "checkpoints/last.ckpt")
    assert "written with other stages of training" in outcome.sentence
    plain = workplace()
    assert plain("fit", "-c", plain.config()).returncode == 0
    work.config(WINDOWS)
    checkpoint = plain.run_folder() / "checkpoints/last.ckpt"
    outcome = work("fit", "-c", "tiny.yaml", "--ckpt_path", checkpoint)
    assert "written with other stages of training" in outcome.sentence


def test_a_run_that_is_not_finished_says_so_and_is_reported_once_it_is(workplace: Any) -> None:
    work = workplace()
    work.file("slow.py", SLOW)
    work.config(WINDOWS | {"tracking.checkpoint_every": 60, "model.weights": "slow.Slow"})
    outcome = work("fit", "-c", "tiny.yaml", "--trainer.max_time", "00:00:00:02", PAUSE="0.1")
    assert outcome.returncode == 0, outcome.stderr
    run = work.run_folder()
    evaluated = work("evaluate", run)
    assert "the training is not finished" in evaluated.stdout
    assert " of 60 steps in " in evaluated.stdout
    assert json.loads((run / "evaluation.json").read_text())["finished"] is False
    assert work("fit", "--resume", run, "--trainer.max_time", "null").returncode == 0
    assert json.loads((run / "evaluation.json").read_text())["finished"] is True
    # As if it had been killed between its last checkpoint and its report.
    (run / "evaluation.json").unlink()
    outcome = work("fit", "--resume", run, "--trainer.max_time", "null")
    assert outcome.returncode == 0, outcome.stderr
    assert "relative L2 error of u" in outcome.stdout
    assert json.loads((run / "evaluation.json").read_text())["steps"] == 60
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]


def test_ranks_that_come_back_to_a_finished_training_report_it(workplace: Any) -> None:
    work = workplace()
    arguments = ("--trainer.devices", 2, "--trainer.accelerator", "cpu")
    for outcome in work.ranks(2, "fit", "-c", work.config(WINDOWS), *arguments):
        assert outcome.returncode == 0, outcome.stderr
    run = work.run_folder()
    told = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").unlink()
    # As if the report had been lost on a machine that is known by another name.
    checkpoint = torch.load(run / "checkpoints/last.ckpt")
    checkpoint["run"]["device"] = "one GPU"
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    for outcome in work.ranks(2, "fit", "--resume", run, *arguments):
        assert outcome.returncode == 0, outcome.stderr
    again = json.loads((run / "evaluation.json").read_text())
    assert again["error/u"] == pytest.approx(told["error/u"], rel=1e-6)
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        tags = database.execute("SELECT value FROM tags WHERE key = 'device'").fetchall()
    assert tags == [("one GPU",)]


FLOODED = """
import torch
from dpinn import Box, Problem
from dpinn.loss import FixedWeights
from dpinn.train import Stage, Stages

class Flooded(Problem):
    domain = Box(t=(0.0, 3.0), x=(0.0, 1.0))
    fields = ("u",)
    limit = 3.0

    def residual(self, u, t):
        return {"pde": u.t + torch.sqrt(self.limit - t)}

    def initial(self, u, x):
        return {"ic": u - x}

class Days(Stages):
    def plan(self, problem, max_steps):
        return [
            Stage(k, 20 * k, 20 * k + 20, (float(k), k + 1.0), {"limit": k + 1.0})
            for k in range(3)
        ]

class Interrupted(FixedWeights):
    calls = 0

    def due(self, step):
        self.calls += 1
        if self.calls == 35:
            raise KeyboardInterrupt
        return False
"""


def test_a_window_is_looked_at_where_it_is_trained(
    workplace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond each window this residual is no number; a start and a resumption look inside."""
    work = workplace()
    work.file("flooded.py", FLOODED)
    monkeypatch.syspath_prepend(work.folder)
    work.config(
        {
            "problem": "flooded.Flooded",
            "model.stages": "flooded.Days",
            "model.weights": "flooded.Interrupted",
            "trainer.max_steps": 60,
        }
    )
    assert "resume with" in work("fit", "-c", "tiny.yaml").stderr
    run = work.run_folder()
    assert torch.load(run / "checkpoints/last.ckpt")["global_step"] == 30
    outcome = work("fit", "--resume", run)
    assert outcome.returncode == 0, outcome.stderr
    assert [row["stage"] for row in rows_of(run)] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


def test_deepspeed_is_refused_for_stages(work: Any) -> None:
    work.config(WINDOWS | {"trainer.strategy": "deepspeed_stage_0"})
    outcome = work("fit", "-c", "tiny.yaml")
    assert "model.stages begins each stage with a new optimizer" in outcome.sentence
