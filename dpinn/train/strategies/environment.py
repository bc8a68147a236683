"""Ranks that something else has started, told to Lightning."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment

from dpinn.errors import DpinnError
from dpinn.launch.launched import Launched


class LaunchedEnvironment(ClusterEnvironment):
    """What `Launched` says, in place of what Lightning would guess from other variables.

    Nothing is requeued from here, which Lightning does within a signal handler.
    """

    def __init__(self, launched: Launched):
        super().__init__()
        self.launched = launched

    @property
    def creates_processes_externally(self) -> bool:
        """All ranks are there."""
        return True

    @property
    def main_address(self) -> str:
        """Where rank 0 is met."""
        return self.launched.address

    @property
    def main_port(self) -> int:
        """At which port."""
        return self.launched.port

    @staticmethod
    def detect() -> bool:
        """It is chosen, not detected."""
        return False

    def world_size(self) -> int:
        """The number of ranks."""
        return self.launched.world_size

    def set_world_size(self, size: int) -> None:
        """The launcher has set it."""

    def global_rank(self) -> int:
        """Among all."""
        return self.launched.rank

    def set_global_rank(self, rank: int) -> None:
        """The launcher has set it."""

    def local_rank(self) -> int:
        """Among those of this node."""
        return self.launched.local_rank

    def node_rank(self) -> int:
        """Of this node."""
        return self.launched.node_rank


def require_visible_devices(ranks: Launched, accelerator: Any) -> None:
    """Refuse a rank from which the launcher hides the GPUs that it shall use.

    Args:
        ranks: that were started.
        accelerator: ``trainer.accelerator``.

    Raises:
        DpinnError: with what the rank sees, and what to ask for.
    """
    if accelerator not in ("auto", "gpu", "cuda", None):
        return
    seen, wanted = torch.cuda.device_count(), ranks.local_world_size
    given = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    if not seen and accelerator in ("auto", None):
        if given not in ("", "0"):
            raise DpinnError(
                f"SLURM gave this node {given} GPUs but torch sees none; `dpinn doctor` says why, "
                "--trainer.accelerator cpu trains without"
            )
        return
    if seen < wanted:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise DpinnError(
            f"rank {ranks.rank} sees {seen} of the {wanted} GPUs that the ranks of its node need "
            f"(CUDA_VISIBLE_DEVICES is {visible}); with SLURM ask for --gpus-per-node, not "
            "--gpus-per-task or --gpu-bind"
        )
