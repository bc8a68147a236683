"""The last checkpoint of a run and the one before it, with what the ranks wrote beside them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lightning.pytorch import Trainer

from dpinn.run_files import CHECKPOINT, PREVIOUS
from dpinn.train.strategies import ReplicatedStrategy


class Checkpoints:
    """Saves a run's checkpoints; all ranks call `save` together.

    Args:
        sharded: let every rank write what it owns of SOAP's state, into a folder beside the
            checkpoint.

    Attributes:
        step: of the last one.
    """

    def __init__(self, sharded: bool):
        self.sharded = sharded
        self.step = -1

    def tidy(self, folder: Path, resumed_from: str | None) -> None:
        """Remove what a killed write has left, and a damaged checkpoint that was passed over."""
        for part in (folder / CHECKPOINT).parent.glob(".*.part"):
            part.unlink()
        if resumed_from == str(folder / PREVIOUS):
            os.replace(folder / PREVIOUS, folder / CHECKPOINT)

    def save(self, trainer: Trainer, folder: Path) -> None:
        """Write a checkpoint; the one before it stays."""
        if trainer.global_step == self.step:
            return  # written already, and the shards of it must not be written over
        path = folder / CHECKPOINT
        kept = [path.parent / f"shards-{step}" for step in (self.step, trainer.global_step)]
        self.step = trainer.global_step
        if self.sharded and isinstance(trainer.strategy, ReplicatedStrategy):
            trainer.strategy.shards = kept[-1]
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for old in path.parent.glob("shards-*"):
                if old not in kept:
                    shutil.rmtree(old, ignore_errors=True)
