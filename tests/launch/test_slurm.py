import os
import stat
from pathlib import Path

import pytest

from dpinn.errors import DpinnError
from dpinn.launch import slurm


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("10:30", 630),
        ("24:00:00", 86400),
        ("1-0", 86400),
        ("2-12", 216000),
        ("1-01:30", 91800),
        ("1-00:00:05", 86405),
        ("infinite", None),
        ("UNLIMITED", None),
    ],
)
def test_times_are_those_of_slurm(time: str, seconds: int | None) -> None:
    assert slurm.seconds_of(time) == seconds


def test_a_task_of_an_array_is_not_taken_for_the_whole() -> None:
    first = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert slurm.job_id(first) == "7_3"
    assert slurm.job_id({"SLURM_JOB_ID": "7"}) == "7"
    assert slurm.job_id({}) is None


@pytest.mark.parametrize("time", ["", "1h", "24:00:00:00", "1-", "-5", "1.5", "1-2-3"])
def test_other_times_are_refused(time: str) -> None:
    with pytest.raises(DpinnError, match="24:00:00"):
        slurm.seconds_of(time)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", 0),
        ("gpu:2", 2),
        ("gpu:h100:8", 8),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2(S:0),gpu:v100:1(S:1)", 3),
        ("gpu:a100:8,shard:a100:80(S:0-1)", 8),
        ("nvme:1,gpu:3", 3),
        ("mygpu:3", 0),
    ],
)
def test_gpus_of_a_node_are_read_from_its_resources(gres: str, gpus: int) -> None:
    assert slurm.gpus_of(gres) == gpus


def test_lines_of_one_partition_are_added_up() -> None:
    cpu, gpu = slurm.read_partitions(
        "cpu*|2-00:00:00|10|(null)\ngpu|infinite|3|gpu:a100:4\ngpu|infinite|2|gpu:a100:8(S:0-1)\n"
    )
    assert (cpu.name, cpu.is_default, cpu.limit) == ("cpu", True, "2-00:00:00")
    assert (gpu.name, gpu.is_default, gpu.limit) == ("gpu", False, "infinite")
    assert [gpu.nodes_with(n) for n in (0, 4, 5, 8, 9)] == [5, 5, 2, 2, 0]
    assert [cpu.nodes_with(n) for n in (0, 1)] == [10, 0]


def test_what_sbatch_complains_of_is_told_without_its_decoration() -> None:
    said = (
        "sbatch: error: invalid partition specified: gpu\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert slurm.reason(said) == (
        "invalid partition specified: gpu; Invalid partition name specified"
    )


def test_without_slurm_one_sentence_says_where_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not slurm.is_here()
    with pytest.raises(DpinnError, match=r"no SLURM here: sinfo is not on the PATH.*dpinn fit"):
        slurm.partitions()


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_states_come_from_the_queue_and_older_ones_from_the_accounting(commands: Path) -> None:
    command(commands, "squeue", "echo '12|RUNNING'; echo '13_0|PENDING'")
    command(commands, "sacct", "echo '11|CANCELLED by 1000'; echo '12|PENDING'")
    assert slurm.job_states(["11", "12", "13"]) == {
        "11": "CANCELLED",
        "12": "RUNNING",
        "13_0": "PENDING",
    }


def test_a_single_job_that_slurm_has_forgotten_has_no_state(commands: Path) -> None:
    command(
        commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    )
    command(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.job_states(["11"]) == {}


def test_a_controller_that_does_not_answer_is_told(commands: Path) -> None:
    command(commands, "squeue", "echo 'squeue: error: Unable to contact controller' >&2; exit 1")
    with pytest.raises(DpinnError, match="SLURM refuses: Unable to contact controller"):
        slurm.job_states(["11", "12"])
