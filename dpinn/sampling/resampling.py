"""Interior points where the residual is large: some of each batch come from a pool of such points.

A strategy is a small object; a user's own works by class path. It fills the pool from the network
as it stands, which makes the pool the one thing here that a checkpoint must hold; which of its
points a batch takes is again a pure function of the step and the row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dpinn.errors import DpinnError
from dpinn.sampling.collocation import Collocation
from dpinn.sampling.counter import BITS, random_bits, stream_key

Residual = Callable[[Tensor], Tensor]
"""From interior points, ``n x coordinates``, to the magnitude of the residual at each, ``n``.

Both are float64 in main memory. All ranks call it with the same points and get the same finite
numbers, so a strategy needs to know nothing of ranks.
"""

LEAST_WEIGHT = 1e-300
"""Makes a chunk without any residual uniform; beside any other weight it is nothing."""


class Resampling(ABC):
    """Base of all strategies.

    Args:
        share: of each causal chunk's interior points that come from the pool, at least one.
        every: steps between two fillings of the pool, a multiple of the inner steps; the first is
            before step 0, from the network's start values.
    """

    def __init__(self, share: float = 0.5, every: int = 1000):
        if not 0 < share <= 1:
            raise DpinnError(f"data.resampling.share {share} must be above 0 and at most 1")
        if every < 1:
            raise DpinnError(f"data.resampling.every {every} must be at least 1")
        self.share = share
        self.every = every

    @abstractmethod
    def fill(self, collocation: Collocation, residual: Residual, step: int) -> Tensor:
        """A new pool; all ranks come here together, and the first one's is taken.

        Args:
            collocation: the points as they would be without a pool.
            residual: of the network as it stands.
            step: before which the pool is filled.

        Returns:
            ``chunks x pool x coordinates``, float64; each chunk's points in its own interval of
            time, their number up to the strategy.
        """

    def mix(
        self, points: Tensor, pool: Tensor, *, chunk_size: int, step: int, start: int = 0
    ) -> Tensor:
        """Let the first rows of each causal chunk take their points from the pool.

        They go through the pool in its order, from step to step and round again, so that no point
        comes twice before all have come once. With a share of 1 and a pool of as many points as a
        chunk, every step until the next filling sees the whole pool, as in the paper's RAD.

        Args:
            points: interior points, ``n x coordinates``, a slice of the batch.
            pool: ``chunks x pool x coordinates`` on the same device.
            chunk_size: interior points of a chunk, all ranks together.
            step: number of the step.
            start: row of the global batch with which the slice begins.

        Returns:
            ``n x coordinates``, of the type of `points`.
        """
        rows = max(1, round(self.share * chunk_size))
        index = torch.arange(start, start + len(points), device=points.device)
        row = index % chunk_size
        taken = pool[index // chunk_size, (step * rows + row) % pool.shape[1]]
        return torch.where((row < rows)[:, None], taken.to(points.dtype), points)


class ResidualResampling(Resampling):
    """Points drawn by the size of the residual: RAD of arXiv 2207.10289, in each causal chunk.

    A filling makes `candidates` uniform points in every chunk and draws `pool` of them, without
    replacement, by the weight ``|r|^power / mean(|r|^power) + floor``; ``|r|`` is the root of the
    sum of squares over the terms of the residual. The rest of a batch is as without a pool.

    Args:
        share: of each causal chunk's interior points that come from the pool.
        every: steps between two fillings, a multiple of the inner steps.
        pool: points kept in each chunk.
        candidates: points looked at in each chunk.
        power: 0 is uniform; more gathers the points where the residual is largest.
        floor: weight of a point without any residual, where the mean is 1.
    """

    def __init__(
        self,
        share: float = 0.5,
        every: int = 1000,
        pool: int = 2048,
        candidates: int = 16384,
        power: float = 1.0,
        floor: float = 1.0,
    ):
        super().__init__(share, every)
        if not 1 <= pool <= candidates:
            raise DpinnError(
                f"data.resampling.pool {pool} must be at least 1 and at most its {candidates} "
                "candidates"
            )
        if not (0 <= power < float("inf") and 0 <= floor < float("inf")):
            raise DpinnError(
                f"data.resampling.power {power} and floor {floor} must be finite and not negative"
            )
        self.pool = pool
        self.candidates = candidates
        self.power = power
        self.floor = floor

    def fill(self, collocation: Collocation, residual: Residual, step: int) -> Tensor:
        """Draw a new pool; a pure function of (seed, window, step) and the residual."""
        seed, chunks = collocation.seed, collocation.chunks
        points = replace(
            collocation,
            batch=chunks * self.candidates,
            points={},
            sequence="uniform",
            seed=stream_key(seed, "candidates"),
        ).batch_at(step)[collocation.interior.name]
        weights = self.weights(residual(points).view(chunks, self.candidates))
        kept = draw(weights, self.pool, stream_key(seed, collocation.window, step, "pool"))
        return points.view(chunks, self.candidates, -1).take_along_dim(kept[:, :, None], 1)

    def weights(self, magnitudes: Tensor) -> Tensor:
        """What each candidate is drawn by, up to a factor a chunk.

        Args:
            magnitudes: of the residual, ``chunks x candidates``.

        Returns:
            ``chunks x candidates``, all above 0.
        """
        # Relative to the largest, which no power takes to infinity.
        largest = magnitudes.amax(1, keepdim=True).clamp_min(torch.finfo(magnitudes.dtype).tiny)
        powers = (magnitudes / largest) ** self.power
        return powers + self.floor * powers.mean(1, keepdim=True) + LEAST_WEIGHT


def draw(weights: Tensor, count: int, key: int) -> Tensor:
    """Draw from each row, one entry after the other, by the weights of those that are left.

    A race (Efraimidis and Spirakis 2006): an entry arrives after an exponential time with its
    weight as the rate, and the first to arrive are drawn.

    Args:
        weights: ``rows x n``, float64, above 0.
        count: entries to draw from each row.
        key: from `stream_key`.

    Returns:
        ``rows x count`` indices, ascending: those that arrived first have no first place, for they
        are the heavy ones.
    """
    index = torch.arange(weights.numel(), device=weights.device).view_as(weights)
    uniform = random_bits(key, index).to(weights.dtype) * 2.0**-BITS
    arrival = -torch.log1p(-uniform) / weights
    return arrival.topk(count, largest=False).indices.sort().values
