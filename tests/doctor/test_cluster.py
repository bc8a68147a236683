"""Against programs that answer as SLURM 22.05 does; `tests/integration` has a real one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dpinn.doctor import cluster
from dpinn.doctor.cluster import slurm
from dpinn.doctor.finding import examine

UP = "echo 'Slurmctld(primary) at head is UP'"
SINFO = """
case "$*" in
  *--version*) echo 'slurm-wlm 22.05.8' ;;
  *) printf '%s' "$PARTITIONS" ;;
esac
"""

Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Puts programs of these names, shell scripts, before all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(partitions: str = "", **scripts: str) -> None:
        monkeypatch.setenv("PARTITIONS", partitions)
        for name, script in scripts.items():
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    return put


def test_no_slurm_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = slurm("SLURM")
    assert (found.state, found.remedy) == ("absent", "")


def test_version_and_partitions_of_a_cluster_that_answers(programs: Programs) -> None:
    partitions = [
        "gpu*|up|3/1/0/4|gpu:a100:8",
        "long|down|0/2/1/3|(null)",
        "huge|up|1.5K/2K/0/3.5K|(null)",
    ]
    programs("\n".join(partitions), scontrol=UP, sinfo=SINFO)
    found = slurm("SLURM")
    assert found.state == "ok"
    assert found.text == (
        "22.05.8, controller answers; partitions gpu* (1 of 4 nodes idle, gpu:a100:8), "
        "long (2 of 3 nodes idle, down), huge (2000 of 3500 nodes idle)"
    )


def test_nodes_that_are_all_down_are_a_warning(programs: Programs) -> None:
    programs("debug*|up|0/0/2/2|(null)\n", scontrol=UP, sinfo=SINFO)
    found = slurm("SLURM")
    assert found.state == "warning"
    assert "no node takes jobs" in found.text
    assert "sinfo -R" in found.remedy


def test_a_controller_that_is_down_is_a_problem(programs: Programs) -> None:
    programs(scontrol="echo 'Slurmctld(primary) at head is DOWN'; exit 1", sinfo=SINFO)
    found = slurm("SLURM")
    assert found.state == "problem"
    assert "head is DOWN" in found.text
    assert "slurmctld" in found.remedy


def test_programs_without_a_cluster_are_a_warning(programs: Programs) -> None:
    programs(
        scontrol="echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1"
    )
    found = slurm("SLURM")
    assert found.state == "warning"
    assert "SLURM_CONF" in found.remedy


def test_a_controller_that_never_answers_is_given_up(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "LIMIT_S", 0.5)
    programs(scontrol=f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    found = examine("SLURM", "cluster.slurm")
    assert found.state == "problem"
    assert found.text == "`scontrol ping` did not answer within 0.5 s"
    assert found.remedy
    waiting = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{waiting}/stat")
    assert not state.exists() or ") Z " in state.read_text(), os.listdir(tmp_path)
