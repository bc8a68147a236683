"""Every rank holds the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.optim import Optimizer

from dpinn.optim import soap_of
from dpinn.train.strategies.lost_rank import WatchingLauncher, collective_timeout
from dpinn.train.strategies.meeting import meet


class ReplicatedStrategy(DDPStrategy):
    """Every rank holds the whole network; `PINNTraining` itself adds up losses and gradients.

    DistributedDataParallel is left out: its buckets sum in another order after the first step,
    and it synchronizes one backward pass per `training_step`, which here holds several.

    Args:
        options: of Lightning's DDPStrategy; `timeout` comes from DPINN_COLLECTIVE_TIMEOUT_S.

    Attributes:
        shards: folder for SOAP's state at the next checkpoint; in the checkpoint itself if None.
    """

    shards: Path | None = None

    def __init__(self, **options: Any):
        options.setdefault("timeout", collective_timeout())
        super().__init__(**options)

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if type(self._launcher) is _SubprocessScriptLauncher:
            assert self.cluster_environment is not None
            self._launcher = WatchingLauncher(
                self.cluster_environment, self.num_processes, self.num_nodes
            )

    def setup_distributed(self) -> None:
        """Meet the other ranks."""
        assert self.cluster_environment is not None
        self.set_world_ranks()
        meet(self.cluster_environment, super().setup_distributed)

    def _setup_model(self, model: Any) -> Any:
        return model

    def _register_ddp_hooks(self) -> None:
        """There are none to register."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on rank 0, or there the name of the folder that all have written into."""
        soap = soap_of(optimizer)
        if self.shards is None or soap is None:
            return super().optimizer_state(optimizer)
        # Of several copies of the state the first is enough.
        first = self.is_global_zero if soap.ranks is None else soap.ranks.global_rank(0) == 0
        if first:
            soap.save_shards(self.shards)
        return optimizer.state_dict() if self.is_global_zero else {}
