"""Jobs of a real SLURM that are interrupted in every way come back and lose nothing."""

import contextlib
import json
import re
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from .trajectories import SLOW_WEIGHTS, Pair, assert_same_run, rows_of

pytestmark = pytest.mark.slow

ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

CONFIG = {
    "model.causal_tolerance": 1.0e-3,
    "model.weights": {"class_path": "slow.SlowWeights", "init_args": {"every": 10}},
    "trainer": {"max_steps": 200, "accelerator": "cpu"},
    "tracking": {
        "log_every": 10,
        "evaluate_every": 50,
        "checkpoint_every": 100,
    },
}


@pytest.fixture
def cluster(slurm: Any) -> Any:
    """Without jobs, and with all nodes, before and after."""
    yield slurm
    slurm.run("scancel", "--full", "--signal=KILL", "--user=root")
    slurm.run("scancel", "--user=root")
    bring_back(slurm, "n2")


def bring_back(slurm: Any, node: str) -> None:
    """Let a node be used again, if it has not registered by itself meanwhile."""
    with contextlib.suppress(AssertionError):
        slurm.scontrol("update", f"NodeName={node}", "State=RESUME")


def prepared(work: Any, slurm: Any) -> Any:
    work.environment = work.environment | slurm.environment
    work.file("slow.py", SLOW_WEIGHTS)
    work.config(CONFIG)
    return work


def submit(work: Any, *options: Any, pause: str = "0.1") -> dict[str, Any]:
    command = ("submit", "--config", "tiny.yaml", "--json", *options)
    outcome = work(*command, PAUSE=pause)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def step_logged(run: Path) -> int:
    rows = rows_of(run) if (run / "metrics.jsonl").exists() else []
    return int(rows[-1]["step"]) if rows else 0


def step_saved(run: Path) -> int:
    path = run / "checkpoints/last.ckpt"
    return torch.load(path)["global_step"] if path.exists() else 0


def mlflow_runs(work: Any) -> list[str]:
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        return [status for (status,) in database.execute("SELECT status FROM runs")]


def assert_every_step_is_there_once(work: Any) -> None:
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        query = "SELECT step FROM metrics WHERE key = 'loss/total'"
        steps = Counter(step for (step,) in database.execute(query))
    assert steps == Counter(range(10, 210, 10))


def restarted(slurm: Any, job: str, times: int, *changes: str, wait_until: Any) -> None:
    """Wait until the job is queued again, and change it."""
    wait_until(lambda: int(slurm.field(job, "Restarts")) == times, f"restart {times} of {job}")
    if changes:
        slurm.scontrol("update", f"JobId={job}", *changes)


def test_a_job_that_is_told_to_save_and_comes_back_is_bitwise_the_uninterrupted_run(
    cluster: Any, workplace: Any, wait_until: Any
) -> None:
    """Two nodes with two ranks each; what it is compared with was started as torchrun does."""
    whole = prepared(workplace(), cluster)
    started = whole.start_ranks(4, "fit", "--config", "tiny.yaml", "--tracking.mlflow", "false")
    work = prepared(workplace(), cluster)
    tasks = ("--nodes", 2, "--gpus-per-node", 2)
    submitted = submit(work, *tasks, "--tracking.mlflow", "true")
    job, run = submitted["job_id"], Path(submitted["run"])
    assert mlflow_runs(work) == ["SCHEDULED"]
    wait_until(lambda: step_logged(run) >= 30, "some steps")
    assert mlflow_runs(work) == ["RUNNING"]
    cluster.run("scancel", f"--signal={signal.SIGUSR1.name}", job)
    restarted(cluster, job, 1, wait_until=wait_until)
    stopped_at = step_saved(run)
    assert 0 < stopped_at < 200
    assert stopped_at % 100 != 0, "this is not the checkpoint that the signal asked for"
    assert cluster.wait_for(job, ENDS) == "COMPLETED", cluster.log(job)
    log = cluster.log(job)
    assert f"stopped at step {stopped_at} to be queued again" in log
    assert f"resuming {run} at step {stopped_at}" in log
    assert mlflow_runs(work) == ["FINISHED"]
    assert_every_step_is_there_once(work)
    for rank in started:
        assert rank.wait().returncode == 0
    assert work.run_folder() == run
    assert_same_run(Pair(whole.run_folder(), run, stopped_at))


def test_a_job_outlives_its_time_limit_preemption_and_a_node_and_goes_on_with_less(
    cluster: Any, workplace: Any, wait_until: Any
) -> None:
    work = prepared(workplace(), cluster)
    options = ("--nodes", 2, "--gpus-per-node", 1, "--partition", "low", "--grace", 130)
    submitted = submit(work, *options, "--tracking.mlflow", "true", "--time", "30:00", pause="0.5")
    job, run = submitted["job_id"], Path(submitted["run"])

    # Its time is nearly up: SLURM itself sends the signal.
    wait_until(lambda: step_logged(run) >= 10, "the first steps")
    hours, minutes, _ = cluster.field(job, "RunTime").split(":")
    nearly = 60 * int(hours) + int(minutes) + 2  # at most two minutes are left
    cluster.scontrol("update", f"JobId={job}", f"TimeLimit={nearly}")
    restarted(cluster, job, 1, "TimeLimit=30", wait_until=wait_until)
    assert mlflow_runs(work) == ["SCHEDULED"]
    saved = [step_saved(run)]
    assert saved[0] % 100 != 0

    # A job of more importance takes its nodes.
    wait_until(lambda: step_logged(run) > saved[0], "steps after the first return")
    high = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
    other = cluster.run("sbatch", "--parsable", *high, "--wrap=sleep 600")
    restarted(cluster, job, 2, wait_until=wait_until)
    assert mlflow_runs(work) == ["SCHEDULED"]
    saved.append(step_saved(run))
    assert saved[1] > saved[0]
    cluster.run("scancel", other)

    # A node dies, and with it whatever was not saved.
    wait_until(lambda: step_logged(run) > saved[1], "steps after the second return")
    cluster.scontrol("update", "NodeName=n2", "State=DOWN", "Reason=test")
    restarted(cluster, job, 3, wait_until=wait_until)
    assert step_saved(run) >= saved[1]
    bring_back(cluster, "n2")

    # Its user has enough.
    wait_until(lambda: "restarts: 3" in cluster.log(job), "its third return")
    third = step_saved(run)
    wait_until(lambda: step_logged(run) > third, "steps after the third return")
    cluster.run("scancel", job)
    assert cluster.wait_for(job, ENDS) == "CANCELLED"
    wait_until(lambda: mlflow_runs(work) == ["KILLED"], "the end of its run")
    saved.append(step_saved(run))
    assert saved[2] > third

    # It is submitted once more, with one rank instead of two.
    more = submit(work, "--nodes", 1, "--gpus-per-node", 1, "--run", run, pause="0")
    assert cluster.wait_for(more["job_id"], ENDS) == "COMPLETED", cluster.log(more["job_id"])
    assert f"resuming {run} at step {saved[2]}" in cluster.log(more["job_id"])
    assert mlflow_runs(work) == ["FINISHED"]
    assert_every_step_is_there_once(work)
    assert [row["step"] for row in rows_of(run)] == list(range(10, 210, 10))
    assert len(re.findall("restarts: ", cluster.log(job))) == 4
