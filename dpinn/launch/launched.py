"""Which launcher started this process, and as which rank: torchrun, srun, DeepSpeed's or none."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from dpinn.errors import DpinnError

DEEPSPEED = "the DeepSpeed launcher"

RANKS = frozenset({"RANK", "LOCAL_RANK", "JSM_NAMESPACE_RANK"})

FIRST_PORT, PORTS = 10_000, 20_000
"""Below the range from which Linux takes ports for outgoing connections; as in launch/body.sh."""


@dataclass(frozen=True)
class Launched:
    """One of several ranks that something else has started.

    Attributes:
        by: what started it, for a person.
        rank: among all.
        local_rank: among those of this node.
        node_rank: of this node.
        world_size: the number of ranks.
        local_world_size: the number of ranks on each node.
        address: host name or address of rank 0's node.
        port: at which rank 0 is met there.
    """

    by: str
    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    address: str
    port: int

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return self.world_size // self.local_world_size


def launched(variables: Mapping[str, str]) -> Launched | None:
    """What the variables of the environment say; None where no launcher has set any.

    torchrun goes before SLURM, in whose jobs it may run.

    Raises:
        DpinnError: some are missing or contradict each other.
    """
    variables = with_values(variables)
    if "TORCHELASTIC_RUN_ID" in variables:
        return _from_torch("torchrun", variables, "LOCAL_WORLD_SIZE", "GROUP_RANK")
    if "RANK" in variables and "CROSS_RANK" in variables:
        return _from_torch(DEEPSPEED, variables, "LOCAL_SIZE", "CROSS_RANK")
    if _is_srun_task(variables):
        return _from_slurm(variables)
    return None


def unused_tasks(variables: Mapping[str, str]) -> int:
    """How many tasks a SLURM job has where ``srun`` was forgotten, so that one process runs; or 0.

    Of a job's shell in which a single process is meant to run, as ``salloc`` gives it, too.
    """
    if launched(variables) is not None:
        return 0
    tasks = _number({"SLURM_NTASKS": "1"} | with_values(variables), "SLURM_NTASKS")
    return tasks if tasks > 1 else 0


def with_values(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that have a value: one that is exported empty counts as not set."""
    return {name: value for name, value in variables.items() if value.strip()}


def forget_empty(environment: MutableMapping[str, str]) -> None:
    """Remove the variables of launchers that are empty; Lightning takes each for a number."""
    for name in environment.keys() - with_values(environment).keys():
        if name.startswith("SLURM_") or name in RANKS:
            del environment[name]


def _from_torch(by: str, variables: Mapping[str, str], local_size: str, node: str) -> Launched:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", local_size, node, "MASTER_ADDR", "MASTER_PORT")
    absent = [name for name in names if name not in variables]
    if absent:
        raise DpinnError(
            f"{by} has started this process, but {', '.join(absent)} is not set; start all ranks "
            "with launch/torchrun.sh or launch/deepspeed.sh"
        )
    return _checked(
        Launched(
            by=by,
            rank=_number(variables, "RANK"),
            local_rank=_number(variables, "LOCAL_RANK"),
            node_rank=_number(variables, node),
            world_size=_number(variables, "WORLD_SIZE"),
            local_world_size=_number(variables, local_size),
            address=variables["MASTER_ADDR"],
            port=_number(variables, "MASTER_PORT"),
        ),
        "start as many ranks on each node",
    )


def _is_srun_task(variables: Mapping[str, str]) -> bool:
    # A job's own shell has a rank as well, but is no step. A shell by hand is one, of a single task
    # with a terminal, whose variable is inherited by all that it starts, further steps too.
    tasks = variables.get("SLURM_STEP_NUM_TASKS")
    return tasks is not None and not (tasks == "1" and "SLURM_PTY_PORT" in variables)


def _from_slurm(variables: Mapping[str, str]) -> Launched:
    tasks = variables.get("SLURM_STEP_TASKS_PER_NODE", variables["SLURM_STEP_NUM_TASKS"])
    counts = tasks_per_node(tasks)
    if len(set(counts)) > 1:
        raise DpinnError(
            f"SLURM has spread the tasks unevenly over the nodes, {tasks}; ask for "
            "--ntasks-per-node instead of --ntasks"
        )
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
    job = re.sub(r"\D", "", variables.get("SLURM_JOB_ID", "0"))
    port = variables.get("MASTER_PORT") or str(FIRST_PORT + int(job) % PORTS)
    return _checked(
        Launched(
            by="srun",
            rank=_number(variables, "SLURM_PROCID"),
            local_rank=_number(variables, "SLURM_LOCALID"),
            node_rank=_number(variables, "SLURM_NODEID"),
            world_size=_number(variables, "SLURM_STEP_NUM_TASKS"),
            local_world_size=counts[0],
            address=variables.get("MASTER_ADDR") or first_node(nodes),
            port=_number({"MASTER_PORT": port}, "MASTER_PORT"),
        ),
        "ask for --ntasks-per-node instead of --ntasks",
    )


def first_node(nodes: str) -> str:
    """The first name in SLURM's list of nodes.

    Example:
        >>> first_node("rack[0-1]_blade[03-05,9],login")
        'rack0_blade03'
    """
    group = re.match(r"(?:[^\[,]|\[[^\]]*\])*", nodes.strip())
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", group[0] if group else "")


def tasks_per_node(text: str) -> list[int]:
    """Unfold SLURM's list of tasks.

    Example:
        >>> tasks_per_node("4(x2),3")
        [4, 4, 3]

    Raises:
        DpinnError: it is none.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise DpinnError(f"SLURM's tasks per node are {text!r}, which is no list of numbers")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name, "")
    if not text.isascii() or not text.isdigit():
        raise DpinnError(f"{name} is {text!r}; the launcher must set it to a number")
    return int(text)


def _checked(launched: Launched, remedy: str) -> Launched:
    sizes, rank = (launched.world_size, launched.local_world_size), launched.rank
    if not 0 < sizes[1] <= sizes[0] or sizes[0] % sizes[1]:
        raise DpinnError(
            f"{launched.by} says that there are {sizes[0]} ranks in all and {sizes[1]} on this "
            f"node; {remedy}"
        )
    if rank >= sizes[0] or launched.local_rank >= sizes[1]:
        raise DpinnError(
            f"{launched.by} says that this is rank {rank} of {sizes[0]}, and {launched.local_rank} "
            f"of {sizes[1]} on this node; {remedy}"
        )
    if not launched.address:
        raise DpinnError("export MASTER_ADDR, the name or address of the first node")
    return launched
