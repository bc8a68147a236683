"""Signals end a run at a step on which all ranks agree; it goes on bitwise as if unheard."""

import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from .trajectories import SLOW_WEIGHTS, Pair, assert_same_run

RUN = Path("runs/mine")

STEPS = {
    "model.causal_tolerance": 1.0e-3,
    "model.weights": {"class_path": "slow.SlowWeights", "init_args": {"every": 10}},
    "trainer.max_steps": 60,
    "trainer.accelerator": "cpu",
    "tracking.evaluate_every": 20,
    "tracking.checkpoint_every": 20,
}

FIT = ("fit", "--config", "tiny.yaml", "--run", RUN)


def prepared(work: Any, changes: dict[str, Any] | None = None) -> Any:
    work.file("slow.py", SLOW_WEIGHTS)
    work.config(STEPS | (changes or {}))
    return work


def step_of(work: Any, name: str = "last") -> int:
    return torch.load(work.folder / RUN / f"checkpoints/{name}.ckpt")["global_step"]


def has_begun(work: Any) -> bool:
    rows = work.folder / RUN / "metrics.jsonl"
    return rows.exists() and len(rows.read_text().splitlines()) > 1


def statuses(work: Any) -> list[str]:
    with sqlite3.connect(work.folder / "mlflow.db") as database:
        return [status for (status,) in database.execute("SELECT status FROM runs")]


@pytest.fixture(scope="module")
def whole(workplace: Any) -> Any:
    """The run that no signal reached."""
    work = prepared(workplace())
    assert work(*FIT).returncode == 0
    return work


@pytest.mark.parametrize(
    ("sign", "code", "status"),
    [(signal.SIGUSR1, 75, "SCHEDULED"), (signal.SIGTERM, 143, "KILLED")],
    ids=["SIGUSR1", "SIGTERM"],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    sign: signal.Signals, code: int, status: str, whole: Any, workplace: Any, wait_until: Any
) -> None:
    work = prepared(workplace(), {"tracking.mlflow": True, "tracking.checkpoint_every": 60})
    running = work.start(*FIT, PAUSE="0.03")
    wait_until(lambda: has_begun(work), "the first steps")
    running.kill(sign)
    outcome = running.wait()
    assert outcome.returncode == code, outcome.stderr
    step = step_of(work)
    assert 0 < step < 60
    assert f"stopped at step {step}" in outcome.stdout
    assert outcome.stdout.strip().endswith(f"; go on with: dpinn fit --resume {RUN}")
    assert statuses(work) == [status]
    outcome = work(*FIT)
    assert outcome.returncode == 0, outcome.stderr
    assert f"resuming {RUN} at step {step}" in outcome.stdout
    assert statuses(work) == ["FINISHED"]
    assert_same_run(Pair(whole.folder / RUN, work.folder / RUN, step))


def test_the_ranks_agree_when_one_of_them_hears_a_signal(workplace: Any, wait_until: Any) -> None:
    runs = []
    for interrupted in (False, True):
        work = prepared(workplace())
        ranks = work.start_ranks(3, *FIT, PAUSE="0.03" if interrupted else "0")
        if interrupted:
            wait_until(lambda work=work: has_begun(work), "the first steps")
            ranks[2].kill(signal.SIGUSR1)
            outcomes = [rank.wait() for rank in ranks]
            assert [outcome.returncode for outcome in outcomes] == [75] * 3, outcomes
            assert 0 < step_of(work) < 60
            ranks = work.start_ranks(3, *FIT)
        for outcome in [rank.wait() for rank in ranks]:
            assert outcome.returncode == 0, outcome.stderr
        runs.append(work.folder / RUN)
    assert_same_run(Pair(*runs, continued_from=0))


def test_signals_in_the_midst_of_a_save_change_nothing(
    whole: Any, workplace: Any, wait_until: Any
) -> None:
    work = prepared(workplace())
    running = work.start(*FIT, PAUSE="0.03")
    wait_until(lambda: has_begun(work), "the first steps")
    ended = threading.Event()

    def storm() -> None:
        while not ended.is_set():
            for sign in (signal.SIGUSR1, signal.SIGTERM):
                os.kill(running.pid, sign)
            time.sleep(0.0005)

    thread = threading.Thread(target=storm)
    thread.start()
    # The fork server has not waited for it yet, so its number stays taken.
    state = Path(f"/proc/{running.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", "its end")
    ended.set()
    thread.join()
    outcome = running.wait()
    assert outcome.returncode == 143, outcome.stderr
    assert outcome.stderr == ""
    assert work(*FIT).returncode == 0
    assert_same_run(Pair(whole.folder / RUN, work.folder / RUN, step_of(work)))


def test_a_run_that_is_queued_again_goes_on_as_it_began(work: Any) -> None:
    """What the file of the configuration says by then does not matter."""
    work.config(STEPS | {"model.weights": None, "trainer.max_steps": 20})
    assert work(*FIT).returncode == 0
    work.config({"data.batch": 32})
    outcome = work(*FIT, "--trainer.max_steps", 30)
    assert outcome.returncode == 0, outcome.stderr
    assert step_of(work) == 30
    assert "batch: 64" in (work.folder / RUN / "config.yaml").read_text()


def damage_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_in_the_middle, cut_off, Path.unlink])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(
    damage: Any, whole: Any, workplace: Any
) -> None:
    work = prepared(workplace())
    assert work(*FIT, "--trainer.max_steps", 40).returncode == 0
    assert (step_of(work, "previous"), step_of(work)) == (20, 40)
    damage(work.folder / RUN / "checkpoints/last.ckpt")
    outcome = work(*FIT, "--trainer.max_steps", 60)
    assert outcome.returncode == 0, outcome.stderr
    assert f"resuming {RUN} at step 20" in outcome.stdout
    assert f"{RUN}/checkpoints/previous.ckpt is used instead" in outcome.stderr
    assert (step_of(work, "previous"), step_of(work)) == (40, 60)
    assert_same_run(Pair(whole.folder / RUN, work.folder / RUN, 20))


def a_page_turned_over(path: Path) -> None:
    """Of the right length; a single bit might lie between two tensors."""
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 4096)
    content[middle] = bytes(byte ^ 1 for byte in content[middle])
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_off, a_page_turned_over])
def test_shards_may_be_damaged_as_well(damage: Any, work: Any) -> None:
    prepared(work, {"tracking.sharded_checkpoints": True})
    for outcome in work.ranks(2, *FIT, "--trainer.max_steps", 40):
        assert outcome.returncode == 0, outcome.stderr
    shards = work.folder / RUN / "checkpoints"
    assert {s.name for s in shards.glob("shards-*")} == {"shards-20", "shards-40"}
    largest = max((shards / "shards-40").glob("*.distcp"), key=lambda p: p.stat().st_size)
    damage(largest)
    outcomes = work.ranks(2, *FIT, "--trainer.max_steps", 60)
    for outcome in outcomes:
        assert outcome.returncode == 0, outcome.stderr
    assert f"resuming {RUN} at step 20" in outcomes[0].stdout
    assert "previous.ckpt is used instead" in outcomes[0].stderr
    assert {s.name for s in shards.glob("shards-*")} == {"shards-40", "shards-60"}


def test_where_both_are_damaged_nothing_is_trained(work: Any) -> None:
    prepared(work)
    assert work(*FIT, "--trainer.max_steps", 40).returncode == 0
    for name in ("last", "previous"):
        cut_off(work.folder / RUN / f"checkpoints/{name}.ckpt")
    outcome = work(*FIT)
    assert "last.ckpt is damaged or no checkpoint" in outcome.sentence


def test_a_report_is_ended_by_sigterm_and_made_by_the_next_start(
    work: Any, wait_until: Any
) -> None:
    prepared(work, {"tracking.mlflow": True})
    running = work.start(*FIT)
    wait_until(lambda: (work.folder / RUN / "checkpoints/last.ckpt").exists(), "a checkpoint")
    wait_until(lambda: step_of(work) == 60, "the last step")
    running.kill(signal.SIGTERM)
    assert running.wait().returncode in (143, 0)  # it may just have been done
    assert work(*FIT).returncode == 0
    assert (work.folder / RUN / "evaluation.json").exists()
    assert statuses(work) == ["FINISHED"]
