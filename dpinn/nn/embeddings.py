"""Embeddings of the coordinates: scaling, exact periodicity and trainable Fourier features."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from dpinn.box import Box

Inputs = Literal["domain", "window", "raw"]
"""What a network sees of the coordinates: scaled to the domain, or time to its window, or raw."""


class CoordinateScaling(nn.Module):
    """Map each coordinate that is not periodic from its interval to [0, 1].

    Networks are made for inputs of the order of one; metres and seconds then train as units of one
    do. The derivatives of the fields stay those by the coordinates themselves.

    Args:
        domain: the intervals.
        periodic: names of the coordinates that are left as they are.
    """

    offset: Tensor
    factor: Tensor

    def __init__(self, domain: Box, periodic: tuple[str, ...]):
        super().__init__()
        self.coordinates = domain.coordinates
        # Buffers: a window changes them in place, and a compiled loss and a checkpoint follow.
        self.register_buffer("offset", torch.zeros(len(self.coordinates)))
        self.register_buffer("factor", torch.ones(len(self.coordinates)))
        for name in self.coordinates:
            if name not in periodic:
                self.scale(name, domain[name])

    def scale(self, name: str, interval: tuple[float, float]) -> None:
        """Map this interval of a coordinate to [0, 1] from now on."""
        axis = self.coordinates.index(name)
        low, high = interval
        self.offset[axis] = low
        self.factor[axis] = 1 / (high - low)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``batch_shape x coordinates`` to itself."""
        return (x - self.offset) * self.factor


class PeriodicEmbedding(nn.Module):
    """Replace each periodic coordinate by its cosine and sine, so that periodicity is exact.

    Every output of the network and all its derivatives are then periodic (arXiv 2007.07871).

    Args:
        domain: the box; its lengths are the periods.
        periodic: names of the periodic coordinates.
    """

    def __init__(self, domain: Box, periodic: tuple[str, ...]):
        super().__init__()
        self.frequencies = [
            2 * math.pi / domain.length(c) if c in periodic else None for c in domain.coordinates
        ]
        self.outputs = sum(1 if f is None else 2 for f in self.frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``batch_shape x coordinates`` to ``batch_shape x outputs``."""
        if not any(self.frequencies):
            return x
        columns = []
        for k, frequency in enumerate(self.frequencies):
            column = x[..., k : k + 1]
            if frequency is None:
                columns.append(column)
            else:
                columns += [torch.cos(frequency * column), torch.sin(frequency * column)]
        return torch.cat(columns, dim=-1)


class FourierFeatures(nn.Module):
    """Trainable random Fourier features ``[cos(x B), sin(x B)]``, B ~ N(0, scale²).

    Args:
        inputs: features of ``x``.
        features: number of outputs, even.
        scale: standard deviation of the frequencies, the σ of the benchmarks' tables.
    """

    def __init__(self, inputs: int, features: int, scale: float):
        super().__init__()
        if features % 2:
            raise ValueError(
                f"Fourier features come in pairs, {features} is odd; use {features + 1}"
            )
        self.frequencies = nn.Parameter(scale * torch.randn(inputs, features // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``batch_shape x inputs`` to ``batch_shape x features``."""
        phase = x @ self.frequencies
        return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
