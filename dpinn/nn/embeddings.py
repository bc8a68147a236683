"""Embeddings of the coordinates: exact periodicity and trainable Fourier features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpinn.problem import Box


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
