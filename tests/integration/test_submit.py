"""``dpinn submit`` and ``dpinn jobs`` with a real SLURM of two nodes."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

LONG = {"trainer.max_steps": 1_000_000, "tracking.checkpoint_every": 10}

FAILING = """
from dpinn import Box, Problem

class Mine(Problem):
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)

    def residual(self, u, t, x):
        return {"pde": u.t / (x - x)}
"""

ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

NOWHERE = "/nonexistent"
"""A PATH without SLURM."""


@pytest.fixture
def work(work: Any, slurm: Any) -> Any:
    """A folder in which jobs can be submitted; other tests' jobs are gone."""
    work.environment = work.environment | slurm.environment
    yield work
    slurm.run("scancel", "--full", "--signal=KILL", "--user=root")
    slurm.run("scancel", "--user=root")


def submitted(work: Any, *options: Any, nodes: int = 1, gpus: int = 0) -> dict[str, Any]:
    given = ("--nodes", nodes, "--gpus-per-node", gpus, "--trainer.accelerator", "cpu", "--json")
    outcome = work("submit", *given, *options)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def jobs(work: Any, **environment: str) -> list[dict[str, Any]]:
    outcome = work("jobs", "--json", **environment)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)["jobs"]


def queued(slurm: Any) -> str:
    return slurm.run("squeue", "--noheader", "--format=%i %j %T")


# --- jobs that run ------------------------------------------------------------------------


def test_a_job_trains_on_two_nodes_with_the_configuration_that_was_submitted(
    work: Any, slurm: Any
) -> None:
    config = work.config()
    job = submitted(work, "--config", config, "--time", "10:00", nodes=2, gpus=2)
    config.write_text("an edited file does not change a queued job")
    assert slurm.wait_for(job["job_id"], ENDS) == "COMPLETED", slurm.log(job["job_id"])
    run = Path(job["run"])
    assert run == work.run_folder()
    assert json.loads((run / "evaluation.json").read_text())["finished"]
    trainer = yaml.safe_load((run / "config.yaml").read_text())["trainer"]
    assert (trainer["num_nodes"], trainer["devices"]) == (2, 2)
    assert Path(job["log"]).read_text() == slurm.log(job["job_id"])
    (status,) = jobs(work)
    assert status == {
        "job": job["job_id"],
        "run": run.name,
        "state": "COMPLETED",
        "restarts": 0,
        "step": 20,
        "max_steps": 20,
        "error": None,
    }
    forgotten = work("jobs", PATH=NOWHERE)
    assert f"{job['job_id']}" in forgotten.stdout
    assert "COMPLETED" in forgotten.stdout
    assert "states are from the runs' files: there is no SLURM here" in forgotten.stdout


def test_a_job_that_fails_is_listed_with_its_sentence(work: Any, slurm: Any) -> None:
    work.file("my_pde.py", FAILING)
    job = submitted(work, "--config", work.config({"problem": "my_pde.Mine"}))
    assert slurm.wait_for(job["job_id"], ENDS) == "FAILED"
    for environment in ({}, {"PATH": NOWHERE}):
        (status,) = jobs(work, **environment)
        assert (status["job"], status["state"]) == (job["job_id"], "FAILED")
        assert "loss term 'pde' is" in status["error"]
        assert "at step 0" in status["error"]


def test_a_job_is_followed_then_cancelled_and_goes_on_when_submitted_once_more(
    work: Any, slurm: Any, wait_until: Callable[..., None]
) -> None:
    job = submitted(work, "--config", work.config(LONG))
    wait_until(lambda: jobs(work)[0]["step"] > 0, "the first logged step")
    (status,) = jobs(work)
    assert (status["state"], status["max_steps"]) == ("RUNNING", 1_000_000)
    refused = work(
        "submit", "--config", "tiny.yaml", "--nodes", 1, "--gpus-per-node", 0, "--run", job["run"]
    )
    assert f"belongs to job {job['job_id']}, which is RUNNING" in refused.sentence
    slurm.run("scancel", job["job_id"])
    assert slurm.wait_for(job["job_id"], ENDS) == "CANCELLED"
    saved = jobs(work)[0]["step"]
    steps = (saved // 10 + 2) * 10
    more = ("--run", job["run"], "--trainer.max_steps", steps)
    again = submitted(work, "--config", "tiny.yaml", *more)
    assert slurm.wait_for(again["job_id"], ENDS) == "COMPLETED", slurm.log(again["job_id"])
    assert f"resuming {job['run']} at step" in slurm.log(again["job_id"])
    (status,) = jobs(work)
    assert (status["job"], status["state"]) == (again["job_id"], "COMPLETED")
    assert (status["step"], status["max_steps"]) == (steps, steps)


def test_an_array_trains_each_seed_in_a_folder_of_its_own(work: Any, slurm: Any) -> None:
    job = submitted(work, "--config", work.config(), "--array", "3,5")
    for seed in (3, 5):
        task = f"{job['job_id']}_{seed}"
        assert slurm.wait_for(task, ENDS) == "COMPLETED", slurm.log(task)
    run = Path(job["run"])
    seeds = {
        folder.name: json.loads((folder / "evaluation.json").read_text())["seed"]
        for folder in run.glob("seed-*")
    }
    assert seeds == {"seed-3": 3, "seed-5": 5}
    found = [(status["job"], status["run"], status["state"]) for status in jobs(work)]
    assert found == [
        (f"{job['job_id']}_{seed}", f"{run.name}/seed-{seed}", "COMPLETED") for seed in (3, 5)
    ]


# --- what is refused before anything is queued --------------------------------------------

REFUSED: dict[str, tuple[list[Any], list[str]]] = {
    "no nodes": (["--nodes", 0], ["--nodes 0 must be at least 1"]),
    "an unknown partition": (
        ["--partition", "gpus"],
        ["no partition gpus", "use one of high, low, main, short"],
    ),
    "more time than a partition gives": (
        ["--partition", "short", "--time", "1:00:00"],
        ["--time 1:00:00", "10:00", "partition short"],
    ),
    "more nodes than a partition has": (["--nodes", 3], ["--nodes 3", "main has 2 nodes"]),
    "more GPUs than a node has": (
        ["--gpus-per-node", 3],
        ["partition main has 0 nodes with 3 GPUs"],
    ),
    "a time that is none": (["--time", "soon"], ["time 'soon'", "24:00:00"]),
    "fewer points than ranks": (
        ["--tasks-per-node", 80],
        ["data.batch 64", "each of the 80 ranks"],
    ),
    "a configuration that is none": (["--config", "none.yaml"], ["none.yaml"]),
    "an unknown key": (["--model.netwrok", 1], ["model.netwrok"]),
    "no number of steps": (["--trainer.max_steps", -1], ["trainer.max_steps is -1"]),
    "an interval that ends within a batch": (
        ["--tracking.log_every", 7],
        ["tracking.log_every is 7", "multiple of data.inner_steps, 5"],
    ),
    "a batch in a sweep that no interval fits": (
        ["--sweep", "data.inner_steps=5,4"],
        ["multiple of data.inner_steps, 4"],
    ),
    "a strategy that is none": (["--trainer.strategy", "ddq"], ["trainer.strategy is 'ddq'"]),
    "an optimizer that a strategy spoils": (
        ["--trainer.strategy", "deepspeed_stage_2"],
        ["deepspeed_stage_2", "SOAP"],
    ),
    "an option of Lightning's that is not for PINNs": (
        ["--trainer.gradient_clip_val", 1.0],
        ["use model.clip"],
    ),
    "seeds in another notation": (["--array", "a-b"], ["--array a-b", "0-4"]),
    "a wrong value in a sweep": (["--sweep", "model.clip=1,x"], ["model.clip", "x"]),
    "seeds and a sweep": (["--array", "0-1", "--sweep", "model.clip=1"], ["seed_everything=0,1"]),
    "what SLURM itself refuses": (["--sbatch=--nodelist=n9"], ["SLURM refuses", "node"]),
}


@pytest.mark.parametrize(("options", "told"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    work: Any, slurm: Any, options: list[Any], told: list[str]
) -> None:
    before = queued(slurm)
    given = ["--config", work.config(), "--nodes", 1, "--gpus-per-node", 0, *options]
    sentence = work("submit", *given).sentence
    assert all(word in sentence for word in told), sentence
    assert work.left == set()
    assert queued(slurm) == before


def test_a_refused_job_leaves_a_run_as_it_was(work: Any, slurm: Any) -> None:
    run = work.folder / "mine"
    run.mkdir()
    (run / "config.yaml").write_text("as it was")
    given = ["--config", work.config(), "--nodes", 1, "--gpus-per-node", 0, "--run", run]
    assert "SLURM refuses" in work("submit", *given, "--sbatch=--nodelist=n9").sentence
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    assert (run / "config.yaml").read_text() == "as it was"


def test_a_job_whose_mlflow_runs_cannot_be_begun_is_taken_back(work: Any, slurm: Any) -> None:
    run = work.folder / "mine"
    run.mkdir()
    (run / "seed-1").write_text("in the way of the second run's folder")
    config = work.config({"tracking.mlflow": True})
    options = ["--nodes", 1, "--gpus-per-node", 0, "--run", run, "--array", "0-2"]
    assert "seed-1" in work("submit", "--config", config, *options).sentence
    assert [path.name for path in run.iterdir()] == ["seed-1"]
    assert "wave" not in queued(slurm)
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        runs = database.execute("SELECT name, lifecycle_stage FROM runs").fetchall()
    assert {stage for _, stage in runs} == {"deleted"}


def test_each_run_of_a_sweep_belongs_to_its_own_experiment(work: Any, slurm: Any) -> None:
    config = work.config({"tracking.mlflow": True})
    sweep = ("--sweep", "tracking.experiment=first,second")
    job = submitted(work, "--config", config, *sweep, "--sbatch=--begin=now+1hour")
    slurm.run("scancel", job["job_id"])
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        query = "SELECT e.name, r.status FROM runs r JOIN experiments e USING (experiment_id)"
        found = sorted(database.execute(query).fetchall())
    assert found == [("first", "SCHEDULED"), ("second", "SCHEDULED")]
    assert job["experiment"] == "first, second"


def test_a_read_only_output_folder_is_named(
    work: Any, slurm: Any, mounted: Callable[..., Path]
) -> None:
    disk = mounted("ro")
    given = ["--config", work.config(), "--nodes", 1, "--gpus-per-node", 0]
    for place in (["--tracking.output", disk / "runs"], ["--run", disk / "run"]):
        sentence = work("submit", *given, *place).sentence
        assert f"cannot create {disk}/run" in sentence
        assert f"Read-only file system; choose another {place[0]}" in sentence
    assert "wave" not in queued(slurm)


# --- without SLURM ------------------------------------------------------------------------


def test_a_dry_run_prints_the_script_and_writes_nothing_where_there_is_no_slurm(work: Any) -> None:
    given = ["--config", work.config(), "--nodes", 2, "--gpus-per-node", 2]
    outcome = work("submit", *given, "--dry-run", PATH=NOWHERE)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("#!/usr/bin/env bash\n")
    assert "#SBATCH --ntasks-per-node=2\n" in outcome.stdout
    assert work.left == set()
    sentence = work("submit", *given, PATH=NOWHERE).sentence
    assert sentence.startswith("there is no SLURM here")
    assert work.left == set()


def test_the_script_to_edit_by_hand_trains_too(work: Any, slurm: Any) -> None:
    script = Path(__file__).parents[2] / "launch/slurm.sbatch"
    resources = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1")
    given = ("--parsable", *resources, script, work.config(), "--trainer.accelerator", "cpu")
    outcome = work.real("sbatch", *given)
    assert outcome.returncode == 0, outcome.stderr
    number = outcome.stdout.strip()
    assert slurm.wait_for(number, ENDS) == "COMPLETED", slurm.log(number)
    result = json.loads((work.folder / f"runs/tiny-{number}/evaluation.json").read_text())
    assert result["finished"]
