"""Signals to the scripts of ``launch/``, and ranks that die below them."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .trajectories import SLOW_WEIGHTS

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
RUN = "runs/mine"
STEPS = 400

CONFIG = {
    "model.weights": {"class_path": "slow.SlowWeights", "init_args": {"every": 10}},
    "trainer": {"max_steps": STEPS, "accelerator": "cpu"},
}


def begun(work: Any, script: str, wait_until: Callable[..., None]) -> Any:
    """A training of two ranks that has written its first checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    work.file("slow.py", SLOW_WEIGHTS)
    running = work.start_real(
        *(LAUNCH / script, work.config(CONFIG), "--run", RUN),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu", "MASTER_PORT": port, "PAUSE": "0.05"},
    )
    wait_until((work.folder / RUN / "checkpoints/last.ckpt").exists, "a checkpoint")
    return running


def ranks_of(pid: int) -> dict[int, int]:
    """The processes below a launcher, by rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [v.partition(b"=")[2] for v in variables if v.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0])] = int(child)
    return found


def assert_saved(work: Any, outcome: Any) -> None:
    step = torch.load(work.folder / RUN / "checkpoints/last.ckpt")["global_step"]
    assert 0 < step < STEPS
    assert f"stopped at step {step}" in outcome.stdout
    assert outcome.stderr == ""


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_torchrun_hands_signals_on_and_keeps_the_exit_code(
    sign: signal.Signals, code: int, work: Any, wait_until: Callable[..., None]
) -> None:
    running = begun(work, "torchrun.sh", wait_until)
    running.kill(sign)
    outcome = running.wait()
    assert outcome.returncode == code, outcome
    assert_saved(work, outcome)


def test_a_signal_to_one_rank_of_torchrun_ends_all(
    work: Any, wait_until: Callable[..., None]
) -> None:
    """So it is where the other ranks are on another node."""
    running = begun(work, "torchrun.sh", wait_until)
    os.kill(ranks_of(running.pid)[1], signal.SIGUSR1)
    outcome = running.wait()
    assert outcome.returncode == 75, outcome
    assert_saved(work, outcome)


def test_torchrun_tells_of_a_rank_that_was_killed(
    work: Any, wait_until: Callable[..., None]
) -> None:
    running = begun(work, "torchrun.sh", wait_until)
    os.kill(ranks_of(running.pid)[1], signal.SIGKILL)
    outcome = running.wait()
    assert outcome.returncode == 128 + signal.SIGKILL, outcome
    *others, last = outcome.stderr.splitlines()
    assert last == "dpinn: rank 1 was ended by SIGKILL"
    assert all(line.startswith("dpinn: rank 0 lost contact") for line in others)


def test_deepspeed_hands_sigterm_on(work: Any, wait_until: Callable[..., None]) -> None:
    running = begun(work, "deepspeed.sh", wait_until)
    running.kill(signal.SIGUSR1)  # is not handed on, but does no harm
    running.kill(signal.SIGTERM)
    outcome = running.wait()
    assert outcome.returncode == 1, outcome  # of DeepSpeed's launcher
    assert_saved(work, outcome)


def test_sigusr1_to_one_rank_of_deepspeed_ends_all(
    work: Any, wait_until: Callable[..., None]
) -> None:
    running = begun(work, "deepspeed.sh", wait_until)
    os.kill(ranks_of(running.pid)[1], signal.SIGUSR1)
    outcome = running.wait()
    assert outcome.returncode == 75, outcome
    assert_saved(work, outcome)
