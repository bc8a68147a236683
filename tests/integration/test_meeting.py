"""Ranks that do not meet, or do not belong together, end soon, each mistake with one sentence."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

FIT = ("fit", "--config", "tiny.yaml", "--trainer.accelerator", "cpu")


def torch_variables(rank: int, port: int, **others: str) -> dict[str, str]:
    """What torchrun tells one of two ranks."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DPINN_COLLECTIVE_TIMEOUT_S": "3",
    } | others


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_launcher_says_how_many_ranks_there_are(work: Any) -> None:
    work.config({"trainer.devices": 7})
    for outcome in work.ranks(2, *FIT):
        assert outcome.returncode == 0, outcome.stderr
    saved = (work.run_folder() / "config.yaml").read_text()
    assert "devices: 2\n" in saved


def test_another_number_of_devices_on_the_command_line_is_a_mistake(work: Any) -> None:
    work.config()
    for outcome in work.ranks(2, *FIT, "--trainer.devices", 4):
        assert outcome.sentence == (
            "--trainer.devices 4, but torchrun has started 2 ranks, 2 on each node; leave it out"
        )
    assert work.left == set()


def test_other_nodes_do_not_start_by_themselves(work: Any) -> None:
    work.config()
    outcome = work(*FIT, "--trainer.num_nodes", 2)
    assert "trainer.num_nodes is 2, but nothing has started ranks on other nodes" in (
        outcome.sentence
    )
    assert work.left == set()


def test_a_run_of_two_nodes_goes_on_without_the_other(work: Any, port: int) -> None:
    work.config({"trainer.max_steps": 10})
    nodes = [
        torch_variables(
            rank,
            port,
            LOCAL_RANK="0",
            LOCAL_WORLD_SIZE="1",
            GROUP_RANK=str(rank),
            DPINN_COLLECTIVE_TIMEOUT_S="120",
        )
        for rank in range(2)
    ]
    for started in [work.start(*FIT, **variables) for variables in nodes]:
        outcome = started.wait()
        assert outcome.returncode == 0, outcome.stderr
    assert "num_nodes: 2\n" in (work.run_folder() / "config.yaml").read_text()
    outcome = work("fit", "--resume", work.run_folder(), "--trainer.max_steps", 20)
    assert outcome.returncode == 0, outcome.stderr
    assert "num_nodes: 1\n" in (work.run_folder() / "config.yaml").read_text()


def test_an_address_that_nobody_knows(work: Any, port: int) -> None:
    work.config()
    outcome = work(*FIT, **torch_variables(1, port, MASTER_ADDR="nowhere.invalid"))
    assert "rank 1 on " in outcome.sentence
    assert "nowhere.invalid; export MASTER_ADDR" in outcome.sentence


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_never_come_are_not_waited_for_for_ever(rank: int, work: Any, port: int) -> None:
    work.config()
    outcome = work(*FIT, **torch_variables(rank, port))
    assert f"rank {rank} of 2 did not meet the others at 127.0.0.1:{port} within 3 s" in (
        outcome.sentence
    )
    assert work.left == set()


def test_a_job_in_which_srun_was_forgotten_is_remarked_on(work: Any) -> None:
    work.config()
    outcome = work(*FIT, SLURM_JOB_ID="1", SLURM_NTASKS="8", SLURM_PROCID="0")
    assert outcome.returncode == 0
    assert "8 tasks, but one process trains; put srun before dpinn" in outcome.stderr


def test_gpus_that_slurm_gave_and_torch_does_not_see(work: Any) -> None:
    work.config()
    task = {
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_GPUS_ON_NODE": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    outcome = work("fit", "--config", "tiny.yaml", **task)
    assert "SLURM gave this node 2 GPUs but torch sees none" in outcome.sentence


@pytest.mark.slow
def test_nodes_with_other_versions_are_named(work: Any, port: int) -> None:
    work.config()
    other = work.folder / "other" / "scipy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 0.0.1\n")
    dpinn = Path(sys.executable).with_name("dpinn")
    variables = [torch_variables(rank, port, DPINN_COLLECTIVE_TIMEOUT_S="120") for rank in range(2)]
    variables[1]["PYTHONPATH"] = str(other.parent)
    ranks = [work.start_real(dpinn, *FIT, **each) for each in variables]
    outcomes = [rank.wait() for rank in ranks]
    host = socket.gethostname()
    assert f"rank 1 on {host} runs scipy 0.0.1, rank 0 on {host} scipy " in outcomes[0].sentence
    assert (outcomes[1].returncode, outcomes[1].stderr) == (1, "")
    assert not (work.folder / "runs").exists()
