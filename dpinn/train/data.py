"""The Lightning data module: steps are the data, points follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dpinn.errors import DpinnError
from dpinn.problem import Problem
from dpinn.sampling import Collocation
from dpinn.sampling.sequences import Sequence


@dataclass(frozen=True)
class StepBatch:
    """Points of some successive steps.

    Attributes:
        first: number of the first step.
        points: per step, each condition's points on this rank, ``n x coordinates``.
    """

    first: int
    points: list[dict[str, Tensor]]


class Collocations(LightningDataModule):
    """Hands `inner_steps` optimizer steps' points to each Lightning batch.

    Args:
        problem: whose domain and conditions are sampled.
        batch: points in the interior a step, all ranks together.
        points: points of each other condition by its name, ``{initial: 256}``; one not named
            has an eighth of the batch.
        chunks: causal chunks of time, each with the same number of interior points.
        sequence: ``uniform`` or ``sobol``.
        inner_steps: optimizer steps per Lightning batch; more means less overhead a step.
        seed: of all points; follows seed_everything.
    """

    def __init__(
        self,
        problem: Problem,
        batch: int = 1024,
        points: dict[str, int] | None = None,
        chunks: int = 1,
        sequence: Sequence = "uniform",
        inner_steps: int = 10,
        seed: int = 0,
    ):
        super().__init__()
        if inner_steps < 1:
            raise DpinnError(f"inner_steps {inner_steps} must be at least 1")
        self.collocation = Collocation(problem, batch, points or {}, chunks, sequence, seed)
        self.inner_steps = inner_steps

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of first steps, from where the trainer stands; nothing that could run ahead."""
        return DataLoader(_Steps(self), batch_size=None)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> StepBatch:
        """Make the points on the device that trains."""
        first = int(batch)
        assert self.trainer is not None
        module = self.trainer.lightning_module
        points = [
            self.collocation.batch_at(
                step,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
                device=module.device,
                dtype=next(module.parameters()).dtype,
            )
            for step in range(first, first + self.inner_steps)
        ]
        return StepBatch(first, points)


class _Steps(IterableDataset[int]):
    """0, k, 2k, ... for ever, beginning at the trainer's step."""

    def __init__(self, data: Collocations):
        self.data = data

    def __iter__(self) -> Iterator[int]:
        assert self.data.trainer is not None
        step = self.data.trainer.global_step
        while True:
            yield step
            step += self.data.inner_steps
