"""PirateNet: gated residual blocks that start as the identity (arXiv 2402.00326)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpinn.nn.embeddings import FourierFeatures
from dpinn.nn.layers import ACTIVATIONS, Activation, linear


class PirateBlock(nn.Module):
    """Three dense layers, two of them gated, blended with the identity by a trainable α.

    Args:
        width: features in and out.
        activation: applied after each dense layer.
        factorized: (mean, std) of the random weight factorization, or None.
        alpha: start of the blend; 0 makes the block the identity.
    """

    def __init__(
        self,
        width: int,
        activation: Activation,
        factorized: tuple[float, float] | None,
        alpha: float,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.first = linear(width, width, factorized)
        self.second = linear(width, width, factorized)
        self.third = linear(width, width, factorized)
        self.alpha = nn.Parameter(torch.full((1,), alpha))

    def forward(self, x: Tensor, difference: Tensor, v: Tensor) -> Tensor:
        """Map ``N x width`` to itself; the gates are given as ``U - V`` and ``V``."""
        h = self.activation(self.first(x)) * difference + v
        h = self.activation(self.second(h)) * difference + v
        h = self.activation(self.third(h))
        return (h - x) * self.alpha + x


class PirateNet(nn.Module):
    """Physics-informed residual adaptive network.

    Args:
        inputs: embedded coordinates.
        outputs: fields.
        width: features of a hidden layer.
        blocks: residual blocks of three dense layers.
        activation: applied after each dense layer.
        fourier_scale: standard deviation σ of the Fourier features' frequencies.
        factorized: (mean, std) of the random weight factorization; null for plain layers.
        alpha: start of the blocks' blend; 0 makes the network linear in its features at first.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 256,
        blocks: int = 3,
        activation: Activation = "tanh",
        fourier_scale: float = 1.0,
        factorized: tuple[float, float] | None = (1.0, 0.1),
        alpha: float = 0.0,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.embedding = FourierFeatures(inputs, width, fourier_scale)
        self.gate_u = linear(width, width, factorized)
        self.gate_v = linear(width, width, factorized)
        self.blocks = nn.ModuleList(
            PirateBlock(width, activation, factorized, alpha) for _ in range(blocks)
        )
        self.last = nn.Linear(width, outputs, bias=False)
        nn.init.xavier_normal_(self.last.weight)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer combines linearly, ``N x width``."""
        h = self.embedding(x)
        v = self.activation(self.gate_v(h))
        difference = self.activation(self.gate_u(h)) - v
        for block in self.blocks:
            h = block(h, difference, v)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Map ``N x inputs`` to ``N x outputs``."""
        return self.last(self.features(x))
