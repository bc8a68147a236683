"""What SLURM's commands are asked, and their answers as plain values."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dpinn.errors import DpinnError

PATIENCE_S = 60
"""SLURM's commands give up on a controller that is away before that."""

ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "TIMEOUT",
    }
)  # fmt: skip
"""States of a job that does not come back by itself."""

UNLIMITED = ("infinite", "unlimited")

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Partition:
    """A partition as ``sinfo`` shows it.

    Attributes:
        name: of the partition.
        is_default: whether jobs come here that name none.
        limit: the longest time of a job, in SLURM's notation.
        nodes: number of nodes by the GPUs that each of them has.
    """

    name: str
    is_default: bool
    limit: str
    nodes: dict[int, int]

    def nodes_with(self, gpus: int) -> int:
        """How many nodes have at least so many GPUs."""
        return sum(count for has, count in self.nodes.items() if has >= gpus)


def is_here() -> bool:
    """Whether SLURM's commands are installed on this machine."""
    return shutil.which("sbatch") is not None


def partitions() -> list[Partition]:
    """All partitions that this user sees.

    Raises:
        DpinnError: SLURM does not answer.
    """
    return read_partitions(_run("sinfo", "--noheader", "--format=%P|%l|%D|%G"))


def read_partitions(printed: str) -> list[Partition]:
    """Partitions from lines ``name|limit|nodes|gres``, in which like nodes are one line."""
    found: dict[str, Partition] = {}
    for line in printed.splitlines():
        name, limit, count, gres = line.strip().split("|", 3)
        partition = found.setdefault(
            name.rstrip("*"),
            Partition(name.rstrip("*"), name.endswith("*"), limit, {}),
        )
        gpus = gpus_of(gres)
        partition.nodes[gpus] = partition.nodes.get(gpus, 0) + int(count)
    return list(found.values())


def gpus_of(gres: str) -> int:
    """The GPUs in SLURM's list of a node's generic resources, ``gpu:h100:8(S:0-1),shard:80``."""
    return sum(int(n) for n in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", gres))


def seconds_of(time: str) -> int | None:
    """The seconds of a time in SLURM's notation; None is unlimited.

    Minutes, ``minutes:seconds``, ``hours:minutes:seconds``; after days and a hyphen ``hours``,
    ``hours:minutes``, ``hours:minutes:seconds``.

    Raises:
        DpinnError: it is none of these.
    """
    if time.lower() in UNLIMITED:
        return None
    found = TIME.fullmatch(time)
    if found is None:
        raise DpinnError(
            f"time {time!r} is none of SLURM's; use hours:minutes:seconds such as 24:00:00, or "
            "days-hours such as 2-12"
        )
    parts = [int(part) for part in found["clock"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(found["days"]) * 86400 + hours * 3600 + minutes * 60 + seconds
    hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return hours * 3600 + minutes * 60 + seconds


def sbatch(script: Path) -> str:
    """Submit a script and return the job's id; it waits for `release`.

    Raises:
        DpinnError: SLURM refuses it.
    """
    # A job in a cluster of several is ``id;cluster``.
    return _run("sbatch", "--parsable", "--hold", str(script)).strip().split(";")[0]


def release(job: str) -> None:
    """Let a job begin when there is room for it.

    Raises:
        DpinnError: SLURM refuses.
    """
    _run("scontrol", "release", job)


def scancel(job: str) -> None:
    """Cancel a job.

    Raises:
        DpinnError: SLURM refuses.
    """
    _run("scancel", job)


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """The states of jobs that SLURM still knows, of an array's tasks as ``id_index``.

    Those that have ended long ago come from SLURM's accounting where there is one.

    Raises:
        DpinnError: SLURM does not answer.
    """
    wanted = ",".join(jobs)
    if not wanted:
        return {}
    ask = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
    try:
        queued = _run(*ask, f"--jobs={wanted}")
    except DpinnError as error:
        # So it answers where only one is asked for; unknown ones among several are left out.
        if "Invalid job id" not in str(error):
            raise
        queued = ""
    try:
        recorded = _run(
            "sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State",
            f"--jobs={wanted}",
        )  # fmt: skip
    except DpinnError:
        recorded = ""  # no accounting
    lines = [*recorded.splitlines(), *queued.splitlines()]
    pairs = (line.strip().split("|", 1) for line in lines if "|" in line)
    return {job: state.split()[0] for job, state in pairs if state}


def job_id(variables: Mapping[str, str]) -> str | None:
    """The id of the job that has these variables, an array's task as ``id_index``; None outside.

    SLURM_JOB_ID of an array's first task is that of the whole array.
    """
    array, task = (variables.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else variables.get("SLURM_JOB_ID") or None


def is_preempted(job: str | None) -> bool:
    """Whether a running job is being ended for another one, and will be queued again.

    Args:
        job: id of it; None, as where no SLURM is, is not.
    """
    if not job:
        return False
    try:
        return re.search(r"\bPreemptTime=\d", _run("scontrol", "show", "job", job)) is not None
    except DpinnError:
        return False  # within a container, say


def _run(*command: str) -> str:
    """What a command prints; its refusal becomes one sentence."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    except FileNotFoundError:
        raise DpinnError(
            f"there is no SLURM here: {command[0]} is not on the PATH; call dpinn where jobs are "
            "submitted, or train here with `dpinn fit` or launch/torchrun.sh"
        ) from None
    except subprocess.TimeoutExpired:
        raise DpinnError(f"SLURM does not answer: {command[0]} took over {PATIENCE_S} s") from None
    if done.returncode:
        raise DpinnError(f"SLURM refuses: {reason(done.stderr) or command[0]}")
    return done.stdout


def reason(printed: str) -> str:
    """What SLURM's lines ``sbatch: error: ...`` say, as one sentence."""
    lines = [re.sub(r"^\w+: (?:error: |fatal: )?", "", line) for line in printed.splitlines()]
    said = [re.sub(r"^Batch job submission failed: ", "", line).strip() for line in lines]
    return "; ".join(dict.fromkeys(line for line in said if line))
