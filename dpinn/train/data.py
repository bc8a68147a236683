"""The Lightning data module: steps are the data, points follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dpinn.errors import DpinnError
from dpinn.loss import SEAM
from dpinn.problem import INITIAL, Problem
from dpinn.sampling import Collocation, Resampling, rank_slice
from dpinn.sampling.sequences import Sequence
from dpinn.train.distributed import all_reduce_sum, broadcast_from_first

if TYPE_CHECKING:
    from dpinn.train.module import PINNTraining
    from dpinn.train.stages import Stage

POINTS_AT_ONCE = 4096
"""Points at which a residual is evaluated together; without a backward pass they need little."""


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
            has an eighth of the batch, and one that lists its points has those.
        chunks: causal chunks of time, each with the same number of interior points.
        sequence: ``uniform`` or ``sobol``.
        inner_steps: optimizer steps per Lightning batch; more means less overhead a step.
        resampling: where some of the interior points come from a pool; null makes no pool.
        seed: of all points; follows seed_everything.

    Attributes:
        pool: of the resampling, ``chunks x pool x coordinates`` in float64; None before it is
            first filled. It is saved in the checkpoint.
    """

    def __init__(
        self,
        problem: Problem,
        batch: int = 1024,
        points: dict[str, int] | None = None,
        chunks: int = 1,
        sequence: Sequence = "uniform",
        inner_steps: int = 10,
        resampling: Resampling | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if inner_steps < 1:
            raise DpinnError(f"inner_steps {inner_steps} must be at least 1")
        if resampling is not None and resampling.every % inner_steps:
            raise DpinnError(
                f"data.resampling.every is {resampling.every}; it must be a positive multiple of "
                f"data.inner_steps, {inner_steps}"
            )
        self.collocation = Collocation(problem, batch, points or {}, chunks, sequence, seed)
        self.inner_steps = inner_steps
        self.resampling = resampling
        self.pool: Tensor | None = None

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of first steps, from where the trainer stands; nothing that could run ahead."""
        return DataLoader(_Steps(self), batch_size=None)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> StepBatch:
        """Make the points on the device that trains."""
        first = int(batch)
        if self._module.enter(first):
            self.pool = None  # of another stage
        stage = self._module.course.stage
        assert stage is not None
        self._here = self.sampled_in(stage)
        if self.resampling is not None:
            self._keep_pool(self.resampling, first)
        points = [self._points(step) for step in range(first, first + self.inner_steps)]
        if self._module.course.marches:
            self._add_seam(points)
        return StepBatch(first, points)

    def sampled_in(self, stage: Stage) -> Collocation:
        """The collocation of a stage: its window of time, and the problem that is trained."""
        return replace(
            self.collocation,
            problem=self._module.trained,
            window=0 if stage.interval is None else stage.index,
            interval=stage.interval,
        )

    def _add_seam(self, points: list[dict[str, Tensor]]) -> None:
        """What the start of a window is compared with, for all steps by one call."""
        starts = [here[INITIAL] for here in points]
        values = self._module.course.at_seam(self._here.problem, torch.cat(starts))
        for here, value in zip(points, values.split([len(s) for s in starts]), strict=True):
            here[SEAM] = value

    def _points(self, step: int) -> dict[str, Tensor]:
        """This rank's points of a step."""
        collocation, (rank, world_size) = self._here, self._rank_and_world_size
        points = collocation.batch_at(
            step,
            rank=rank,
            world_size=world_size,
            device=self._module.device,
            dtype=self._dtype,
        )
        if self.resampling is not None and self.pool is not None:
            interior = collocation.interior.name
            points[interior] = self.resampling.mix(
                points[interior],
                self.pool,
                chunk_size=collocation.chunk_size,
                step=step,
                start=rank_slice(collocation.batch, rank, world_size)[0],
            )
        return points

    # --- the pool -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The pool, if there is one; the points need no state."""
        return {} if self.pool is None else {"pool": self.pool}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a saved pool; one of another number of chunks is filled anew."""
        if self.resampling is not None and len(state_dict["pool"]) == self.collocation.chunks:
            self.pool = state_dict["pool"]

    def _keep_pool(self, resampling: Resampling, step: int) -> None:
        """Fill the pool where there is none or it is time; all ranks come here together."""
        device = self._module.device
        if self.pool is None or step % resampling.every == 0:
            pool = resampling.fill(self._here, partial(self._residual, step), step)
            self._require_shape(pool)
            self.pool = pool.to(device, torch.float64).contiguous()
            # Not even processors that round otherwise may make the ranks' pools differ.
            broadcast_from_first([self.pool])
        self.pool = self.pool.to(device)  # from a checkpoint it comes in main memory

    def _require_shape(self, pool: Tensor) -> None:
        chunks = self.collocation.chunks
        coordinates = len(self.collocation.problem.domain.coordinates)
        if pool.dim() != 3 or (len(pool), pool.shape[2]) != (chunks, coordinates):
            raise DpinnError(
                f"{type(self.resampling).__name__}.fill returned a pool of shape "
                f"{tuple(pool.shape)}; it must be ({chunks}, points, {coordinates})"
            )

    def _residual(self, step: int, points: Tensor) -> Tensor:
        """The magnitude of the residual at points, each rank evaluating its slice of them."""
        problem, interior = self._here.problem, self._here.interior
        magnitudes = torch.zeros(len(points), dtype=torch.float64, device=self._module.device)
        start, stop = rank_slice(len(points), *self._rank_and_world_size)
        with self._module.evaluation() as pinn:
            for begin in range(start, stop, POINTS_AT_ONCE):
                piece = slice(begin, min(begin + POINTS_AT_ONCE, stop))
                here = points[piece].to(self._module.device, self._dtype)
                terms = problem.evaluate(interior, pinn.fields(here, interior.plan), here)
                residuals = torch.stack([term.double() for term in terms.values()])
                magnitudes[piece] = torch.linalg.vector_norm(residuals, dim=0)
        # A sum with zeros rounds nothing.
        magnitudes = all_reduce_sum(magnitudes).cpu()
        bad = ~magnitudes.isfinite()
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            named = zip(problem.domain.coordinates, points[at].tolist(), strict=True)
            where = ", ".join(f"{name} = {value:g}" for name, value in named)
            raise DpinnError(
                f"the residual is {float(magnitudes[at])} at step {step} at {where}, a candidate "
                "of data.resampling; lower the learning rate, or look at the residual for a "
                "division by zero"
            )
        return magnitudes

    # --- where this rank stands -----------------------------------------------------------

    @property
    def _module(self) -> PINNTraining:
        assert self.trainer is not None
        return self.trainer.lightning_module  # type: ignore[return-value]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self._module.parameters()).dtype

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size


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
