"""Collocation points as a pure function of (seed, window, step, condition, i).

Nothing is drawn from a generator with a state, so there is nothing to save, ranks need not
talk to agree on a batch, and a resumed run sees the points that it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dpinn.errors import DpinnError
from dpinn.jet.plan import TIME
from dpinn.problem import INITIAL, Condition, Problem
from dpinn.sampling.counter import stream_key
from dpinn.sampling.sequences import Sequence, unit_points

CONDITION_SHARE = 8
"""A condition gets one point for so many in the interior, where nothing is said."""


@dataclass(frozen=True)
class Collocation:
    """How many points each condition has, and where they fall.

    Attributes:
        problem: whose domain and conditions are sampled.
        batch: points in the interior, all ranks together.
        points: points of each other condition by its name, ``{"initial": 256}``; one not
            named has ``batch / 8``, at least one a place; one that lists its points has those.
        chunks: equal intervals of time that share the interior points evenly; the causal
            weights work on them.
        sequence: ``uniform``, or ``sobol`` (each chunk its own stretch of the sequence).
        seed: of all streams.
        window: the time window that is sampled, counted from 0.
        interval: of time, that of the window; None is the whole domain's.
    """

    problem: Problem
    batch: int
    points: Mapping[str, int] = field(default_factory=dict)
    chunks: int = 1
    sequence: Sequence = "uniform"
    seed: int = 0
    window: int = 0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunks < 1:
            raise DpinnError(f"batch {self.batch} and chunks {self.chunks} must both be at least 1")
        if self.batch % self.chunks:
            below = self.batch // self.chunks * self.chunks
            choices = " or ".join(str(n) for n in (below, below + self.chunks) if n)
            raise DpinnError(
                f"batch {self.batch} does not divide into {self.chunks} causal chunks; "
                f"use {choices}"
            )
        if self.chunks > 1 and TIME not in self.problem.domain.coordinates:
            raise DpinnError(
                f"{type(self.problem).__name__} has no coordinate t, so its batch cannot be cut "
                "into causal chunks; use chunks: 1"
            )
        names = [c.name for c in self.problem.conditions if c.places]
        for name, count in self.points.items():
            if name not in names:
                allowed = ", ".join(names) if names else "none: the problem has no conditions"
                raise DpinnError(f"points: {name!r} is no condition of the problem; use {allowed}")
            if count < 1:
                raise DpinnError(f"points: {name} has {count} points; it needs at least 1")
        for condition in self.problem.conditions:
            self._check_places(condition)

    def _check_places(self, condition: Condition) -> None:
        """Refuse a number of points that is not that of the places, or leaves some without any."""
        name, places = condition.name, len(condition.places)
        given = self.points.get(name)
        if condition.listed and given not in (None, places):
            raise DpinnError(
                f"points: {name} lists its {places} points itself, not {given}; leave it out"
            )
        if self.count(condition) < places:
            raise DpinnError(
                f"points: {name} has {self.count(condition)} points for {places} places; "
                f"set data.points.{name} to {places} or more"
            )

    @property
    def interior(self) -> Condition:
        """The condition that holds in the interior: the PDE."""
        return next(c for c in self.problem.conditions if not c.places)

    @property
    def chunk_size(self) -> int:
        """Interior points of one causal chunk, all ranks together."""
        return self.batch // self.chunks

    def count(self, condition: Condition) -> int:
        """Points of a condition, all ranks together."""
        if not condition.places:
            return self.batch
        if condition.listed:
            return len(condition.places)
        least = len(condition.places)  # else some would never be seen
        return self.points.get(condition.name, max(least, self.batch // CONDITION_SHARE))

    def condition_chunks(self, condition: Condition) -> int:
        """Causal chunks of a condition: those of the interior, one everywhere else."""
        return 1 if condition.places else self.chunks

    def batch_at(
        self, step: int, *, rank: int = 0, world_size: int = 1,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64,
    ) -> dict[str, Tensor]:  # fmt: skip
        """This rank's slice of every condition's points at a step, ``n x coordinates`` each."""
        out = {}
        for condition in self.problem.conditions:
            start, stop = rank_slice(self.count(condition), rank, world_size)
            key = stream_key(self.seed, self.window, step, condition.name)
            out[condition.name] = self._points(
                condition, key, start, stop, torch.device(device)
            ).to(dtype)
        return out

    def _points(
        self, condition: Condition, key: int, start: int, stop: int, device: torch.device
    ) -> Tensor:
        box = self.problem.domain
        unit = unit_points(self.sequence, key, start, stop, len(box.coordinates), device)
        intervals = box.intervals
        if self.interval is not None:
            intervals = intervals | {TIME: self.interval}
        low, high = torch.tensor(
            list(intervals.values()), dtype=torch.float64, device=device
        ).unbind(1)
        index = torch.arange(start, stop, device=device)
        chunks = self.condition_chunks(condition)
        if chunks > 1:
            chunk = index // self.chunk_size
            axis = box.coordinates.index(TIME)
            unit[:, axis] = (chunk + unit[:, axis]) / chunks
        points = low + unit * (high - low)
        place_of = index * len(condition.places) // self.count(condition)
        for k, place in enumerate(condition.places):
            for coordinate, value in place.items():
                axis = box.coordinates.index(coordinate)
                if condition.name == INITIAL:
                    value = intervals[TIME][0]
                points[:, axis] = torch.where(place_of == k, value, points[:, axis])
        return points


def rank_slice(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Where a rank's points begin and end; slices differ by one at most."""
    return count * rank // world_size, count * (rank + 1) // world_size
