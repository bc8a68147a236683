"""The SLURM of these tests is a real one: ranks on two nodes, arrays, requeue, preemption."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def submit(slurm: Any, tmp_path: Any, script: str, *options: str) -> str:
    path = tmp_path / "job.sh"
    path.write_text("#!/bin/bash\n" + script)
    output = f"--output={tmp_path}/%j.log"
    return slurm.run("sbatch", "--parsable", "--open-mode=append", output, *options, str(path))


def test_a_step_runs_on_two_nodes_with_two_tasks_and_gpus_each(slurm: Any, tmp_path: Any) -> None:
    script = "srun bash -c 'echo $SLURM_NODEID $SLURM_PROCID $CUDA_VISIBLE_DEVICES'"
    job = submit(slurm, tmp_path, script, "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2")
    assert slurm.wait_for(job, ("COMPLETED", "FAILED")) == "COMPLETED", slurm.log(job)
    lines = [line for line in slurm.log(job).splitlines() if line[:1].isdigit()]
    assert sorted(lines) == ["0 0 0,1", "0 1 0,1", "1 2 0,1", "1 3 0,1"]


def test_a_job_requeues_itself(slurm: Any, tmp_path: Any) -> None:
    script = """
        echo restarts ${SLURM_RESTART_COUNT:-0}
        [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && scontrol requeue $SLURM_JOB_ID
        sleep 1
    """
    job = submit(slurm, tmp_path, script)
    assert slurm.wait_for(job, ("COMPLETED", "FAILED")) == "COMPLETED", slurm.log(job)
    told = [line for line in slurm.log(job).splitlines() if line.startswith("restarts")]
    assert told == ["restarts 0", "restarts 1"]
    assert slurm.field(job, "Restarts") == "1"


PREEMPTED = """
    scontrol show job $SLURM_JOB_ID | grep --quiet 'PreemptTime=[0-9]' && preempted=yes
    echo restarts ${SLURM_RESTART_COUNT:-0} preempted ${preempted:-no}
"""

STEPS = """
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0
    trap 'true' TERM
    srun bash -c 'trap "echo warned; exit 3" TERM; echo begun; while :; do sleep 0.1; done' &
    while kill -0 $!; do wait $!; done
"""


def test_a_job_of_low_priority_is_warned_and_requeues_itself_within_its_grace(
    slurm: Any, tmp_path: Any, wait_until: Callable[..., None]
) -> None:
    script = PREEMPTED + STEPS + PREEMPTED + "scontrol requeue $SLURM_JOB_ID; sleep 9"
    low = submit(slurm, tmp_path, script, "--partition=low", "--nodes=2", "--exclusive")
    wait_until(lambda: "begun" in slurm.log(low), "its tasks")
    high = submit(slurm, tmp_path, "true", "--partition=high", "--nodes=2", "--exclusive")
    assert slurm.wait_for(high, ("COMPLETED", "FAILED")) == "COMPLETED"
    assert slurm.wait_for(low, ("COMPLETED", "FAILED", "PREEMPTED")) == "COMPLETED"
    assert slurm.log(low).count("warned") == 2
    told = [line for line in slurm.log(low).splitlines() if line.startswith("restarts")]
    assert told == [
        "restarts 0 preempted no",
        "restarts 0 preempted yes",
        "restarts 1 preempted no",
    ]
