"""Optimizers that need whole parameters refuse those of which each rank holds a part."""

from collections.abc import Iterable

from torch import Tensor

from dpinn.errors import DpinnError


def require_whole_parameters(optimizer: str, parameters: Iterable[Tensor]) -> None:
    """Refuse a ``DTensor``, as ``fully_shard`` (FSDP2) and tensor parallelism make them.

    Raises:
        DpinnError: there is one.
    """
    # A DTensor, known by what it has: importing its module takes a second.
    if any(hasattr(parameter, "placements") for parameter in parameters):
        raise DpinnError(
            f"{optimizer} needs whole parameters and was given DTensors, of which each rank holds "
            "a part (fully_shard, tensor parallelism); replicate the model with "
            "DistributedDataParallel, and let SOAP(..., process_group=...) divide its state"
        )
