"""Which ranks divide SOAP's state among them."""

from __future__ import annotations

from typing import Literal

from torch import distributed as dist
from torch.optim import Optimizer

from dpinn.errors import DpinnError
from dpinn.optim import soap_of
from dpinn.train.distributed import is_distributed
from dpinn.train.strategies.lost_rank import collective_timeout

Shard = Literal["world", "node", "off"]


def share_out(optimizer: Optimizer, group: dist.ProcessGroup | None) -> None:
    """Divide the state of a SOAP, or of the one that is wrapped, before it has any.

    Args:
        optimizer: any; only SOAP can be divided.
        group: from `shard_group`.
    """
    soap = soap_of(optimizer)
    if soap is not None and group is not None:
        soap.shard_over(group)


def shard_group(shard: Shard, ranks_per_node: int) -> dist.ProcessGroup | None:
    """The ranks that divide SOAP's state with this one; None where nothing is divided.

    Args:
        shard: over all ranks; over those of each node, which then hold a copy each; or not at
            all, so that every rank holds everything.
        ranks_per_node: alike on all nodes.

    Raises:
        DpinnError: the ranks are not spread evenly over nodes.
    """
    if shard == "off" or not is_distributed():
        return None
    if shard == "world":
        return dist.group.WORLD
    if dist.get_world_size() % ranks_per_node:
        raise DpinnError(
            f"model.shard is node, but {dist.get_world_size()} ranks do not divide into nodes of "
            f"{ranks_per_node}; use world"
        )
    own, _ = dist.new_subgroups(group_size=ranks_per_node, timeout=collective_timeout())
    return own
