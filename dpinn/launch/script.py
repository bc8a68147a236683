"""The batch script of a training, for people to read and to edit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from dpinn.errors import DpinnError
from dpinn.launch.slurm import seconds_of
from dpinn.launch.tasks import Task

HEAD = """\
#!/usr/bin/env bash
# Written by `dpinn submit`. Given to sbatch once more, it goes on from the last checkpoint.
{options}

# The job has the environment of the shell that submits it (sbatch --export=ALL), with
# MLFLOW_TRACKING_URI and the like; none of it is written here.
set -u
export PATH={path}:$PATH
run={run}
"""

TASKS = """\
case $SLURM_ARRAY_TASK_ID in
{cases}
    *) echo "task $SLURM_ARRAY_TASK_ID is none of this array" >&2; exit 2 ;;
esac
command=(dpinn fit --config "$run/config.yaml" --run "$run/$task" "${{options[@]}}")
"""

TRAINING = 'command=(dpinn fit --config "$run/config.yaml" --run "$run")\n'


OPTION = re.compile(r"(-[^\s=]+)(?:(=|[ \t]+(?!-))([^\n]*))?")
"""An option of sbatch: its name, what separates it from its value, and the value."""

LEAST = {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "grace": 30}
"""Saving, the ranks' leaving and the requeue must fit into the grace."""


@dataclass(frozen=True)
class Resources:
    """What a job asks SLURM for; None leaves it to the site.

    Attributes:
        job_name: shown by squeue.
        nodes: number of nodes.
        gpus_per_node: on each node; 0 for nodes without any.
        tasks_per_node: ranks on each node, one a GPU.
        cpus_per_task: CPUs, and threads, of each rank.
        grace: seconds before the end of its time in which the ranks save.
        time: of the job, in SLURM's notation.
        mem: memory of each node, such as 64G.
        partition: or several with commas.
        account: that pays.
        qos: quality of service.
        constraint: features of nodes.
        further: other options of sbatch.
    """

    job_name: str
    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int | None = None
    grace: int = 120
    time: str | None = None
    mem: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    further: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise DpinnError(f"--{option} {value} must be at least {least}")
        if self.gpus_per_node and self.tasks_per_node != self.gpus_per_node:
            raise DpinnError(
                f"--tasks-per-node {self.tasks_per_node} with --gpus-per-node {self.gpus_per_node}:"
                " a rank drives one GPU; leave --tasks-per-node out"
            )
        seconds = None if self.time is None else seconds_of(self.time)
        if seconds is not None and seconds <= self.grace:
            raise DpinnError(
                f"--time {self.time} is {seconds} s, no longer than --grace {self.grace}, the "
                "seconds at its end in which the training saves; ask for more time"
            )
        for option in self.further:
            if not OPTION.fullmatch(option):
                raise DpinnError(
                    f"--sbatch {option!r} is no option such as --sbatch=--exclusive; repeat "
                    "--sbatch for several"
                )

    @property
    def ranks(self) -> int:
        """On all nodes."""
        return self.nodes * self.tasks_per_node

    def options(self, log: Path, chdir: Path, array: str | None) -> list[str]:
        """The options of sbatch.

        Args:
            log: where the job prints, with SLURM's ``%j`` in it.
            chdir: the folder in which it runs.
            array: indices of the tasks; None is no array.
        """
        given = {
            "job-name": self.job_name,
            "array": array,
            "nodes": self.nodes,
            # Not --ntasks nor --gpus-per-task: with them tasks do not see the GPUs of their node.
            "ntasks-per-node": self.tasks_per_node,
            "gpus-per-node": self.gpus_per_node or None,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.mem,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "signal": f"USR1@{self.grace}",
            "requeue": "",
            "open-mode": "append",
            "output": log,
            "chdir": chdir,
        }
        named = [
            f"--{name}" + (f"={_quoted(str(value))}" if value != "" else "")
            for name, value in given.items()
            if value is not None
        ]
        return [*named, *map(_further, self.further)]


def batch_script(
    resources: Resources,
    run: Path,
    chdir: Path,
    python: Path,
    tasks: Sequence[Task] = (),
    array: str | None = None,
) -> str:
    """The text of the script.

    Args:
        resources: of the job.
        run: folder of the run, or of the runs of an array.
        chdir: the folder in which it trains, where a problem of the user's own is found.
        python: folder with the commands of the Python environment.
        tasks: of an array.
        array: their indices, as sbatch takes them.
    """
    # In a file name of SLURM's, % begins a placeholder.
    log = Path(str(run).replace("%", "%%")) / f"slurm-{'%A_%a' if tasks else '%j'}.log"
    options = "\n".join(f"#SBATCH {o}" for o in resources.options(log, chdir, array))
    head = HEAD.format(
        options=options,
        path=shlex.quote(str(python)),
        run=shlex.quote(str(run)),
    )
    cases = "\n".join(f"    {task.shell_case}" for task in tasks)
    return "\n".join([head + (TASKS.format(cases=cases) if tasks else TRAINING), body()])


def body() -> str:
    """What every job does with ``command``: meet, train, and come back if it has to."""
    return files("dpinn.launch").joinpath("body.sh").read_text()


def _further(option: str) -> str:
    """An option of the user's in a line of ``#SBATCH``: the shell has taken its quotes away."""
    found = OPTION.fullmatch(option)
    assert found is not None  # `Resources` has checked it
    name, separator, value = found.groups(default="")
    return f"{name}{separator}{_quoted(value)}"


def _quoted(value: str) -> str:
    """A value in a line of ``#SBATCH``, which knows double quotes and backslashes."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    if is_quoted or re.fullmatch(r"[^\s\"'#\\]*", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
