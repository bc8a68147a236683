"""Linear layers and activations by name, as the PINN literature uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["tanh", "sin", "swish", "gelu", "sigmoid", "softplus"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
}


class FactorizedLinear(nn.Module):
    """Random weight factorization (arXiv 2210.01274): ``y = x (diag(s) V)' + b``.

    At the start ``s = exp(N(mean, std))`` and ``diag(s) V`` is a Glorot matrix, so the layer
    computes what an ordinary one would, but its factors learn at rates of their own.

    Args:
        inputs: features of ``x``, ``batch_shape x inputs``.
        outputs: features of ``y``, ``batch_shape x outputs``.
        mean: mean of ``log s``.
        std: standard deviation of ``log s``.
    """

    def __init__(self, inputs: int, outputs: int, mean: float = 1.0, std: float = 0.1):
        super().__init__()
        weight = nn.init.xavier_normal_(torch.empty(outputs, inputs))
        scale = torch.exp(mean + std * torch.randn(outputs))
        self.scale = nn.Parameter(scale)
        self.direction = nn.Parameter(weight / scale[:, None])
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``batch_shape x inputs`` to ``batch_shape x outputs``."""
        return functional.linear(x, self.scale[:, None] * self.direction, self.bias)


def linear(inputs: int, outputs: int, factorized: tuple[float, float] | None) -> nn.Module:
    """A dense layer: factorized with the given (mean, std), or plain Glorot with zero bias."""
    if factorized is not None:
        return FactorizedLinear(inputs, outputs, *factorized)
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
