"""How several ranks train one PINN."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy


class ReplicatedStrategy(DDPStrategy):
    """Every rank holds the whole network; `PINNTraining` itself adds up losses and gradients.

    DistributedDataParallel is left out: its buckets sum in another order after the first step,
    and it synchronizes one backward pass per `training_step`, which here holds several.
    """

    def _setup_model(self, model: Any) -> Any:
        return model

    def _register_ddp_hooks(self) -> None:
        """There are none to register."""
