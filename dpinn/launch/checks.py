"""What is found wrong with a job before it is queued, and what it will cost its ranks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from dpinn.bench.configured import Configured
from dpinn.bench.constants import load_constants
from dpinn.bench.plan import MEBIBYTE, predict
from dpinn.errors import DpinnError, DpinnWarning
from dpinn.launch.script import Resources
from dpinn.launch.slurm import Partition, seconds_of
from dpinn.optim import soap_of


def require_points(settings: Configured, ranks: int) -> None:
    """Refuse more ranks than points in the interior; warn of conditions with fewer points.

    Raises:
        DpinnError: some ranks would have nothing to do.
    """
    collocation = settings.data.collocation
    if collocation.batch < ranks:
        raise DpinnError(
            f"data.batch {collocation.batch} is less than a point for each of the {ranks} ranks; "
            f"ask for fewer ranks, or set data.batch to {ranks} or more"
        )
    sampled = [c for c in collocation.problem.conditions if not c.listed]
    few = [c.name for c in sampled if collocation.count(c) < ranks]
    if few:
        warnings.warn(
            f"{', '.join(few)}: fewer points than the {ranks} ranks, some of which have none; that "
            f"is slower, not wrong (data.points.{few[0]} sets their number)",
            DpinnWarning,
            stacklevel=2,
        )


def soap_summary(settings: Configured, resources: Resources) -> str | None:
    """SOAP's state on the ranks in one line; None where there is nothing to share.

    Warns where some ranks would own none of it.
    """
    soap = soap_of(settings.optimizer())
    if soap is None or resources.ranks == 1:
        return None
    groups = {"world": None, "node": resources.tasks_per_node, "none": 1}
    ranks_per_group = groups[settings.module.shard]
    plan = predict(soap, resources.ranks, load_constants(), ranks_per_group).plan
    idle = plan.world_size - len(set(plan.owners))
    if idle:
        warnings.warn(
            f"{idle} of the {plan.world_size} ranks that share SOAP's {len(plan.units)} units own "
            "none; fewer ranks, or --model.shard node, take no longer (`dpinn plan` shows why)",
            DpinnWarning,
            stacklevel=2,
        )
    return (
        f"{len(plan.units)} units shared by {plan.world_size} ranks, at most "
        f"{plan.state_bytes_max / MEBIBYTE:.2f} of {sum(plan.state_bytes) / MEBIBYTE:.2f} MiB on "
        f"one, imbalance {plan.imbalance:.2f} (bound {plan.imbalance_bound:.2f})"
    )


def require_partition(resources: Resources, known: Sequence[Partition]) -> None:
    """Refuse what no partition that the job may go to can ever give.

    Raises:
        DpinnError: saying what there is.
    """
    if resources.partition is None:
        chosen = [p for p in known if p.is_default]  # a site may have none; sbatch says so
    else:
        by_name = {p.name: p for p in known}
        for name in resources.partition.split(","):
            if name not in by_name:
                raise DpinnError(
                    f"there is no partition {name}; use one of {', '.join(sorted(by_name))}"
                )
        chosen = [by_name[name] for name in resources.partition.split(",")]
    complaints = [_shortage(resources, partition) for partition in chosen]
    if complaints and all(complaints):
        raise DpinnError(str(complaints[0]))


def _shortage(resources: Resources, partition: Partition) -> str | None:
    """What this partition lacks, as a sentence."""
    allowed = seconds_of(partition.limit)
    asked = allowed if resources.time is None else seconds_of(resources.time)
    if allowed is not None and (asked is None or asked > allowed):
        return (
            f"--time {resources.time} is more than the {partition.limit} that partition "
            f"{partition.name} allows; a training goes on in its next job, so ask for less, or "
            "choose another --partition"
        )
    available = partition.nodes_with(resources.gpus_per_node)
    if available < resources.nodes:
        kind = f" with {resources.gpus_per_node} GPUs" if resources.gpus_per_node else ""
        return (
            f"--nodes {resources.nodes}: partition {partition.name} has {available} nodes{kind}; "
            "ask for less, or choose another --partition"
        )
    return None
