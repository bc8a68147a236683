"""The modified MLP: two gates mix every hidden layer (arXiv 2001.04536)."""

from __future__ import annotations

from torch import Tensor

from dpinn.nn.layers import Activation, linear
from dpinn.nn.mlp import MLP


class ModifiedMLP(MLP):
    """``h <- a(W h) U + (1 - a(W h)) V`` with gates U, V computed once from the embedding.

    The arguments are those of `MLP`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 128,
        depth: int = 4,
        activation: Activation = "tanh",
        fourier_features: int = 0,
        fourier_scale: float = 1.0,
        factorized: tuple[float, float] | None = (1.0, 0.1),
    ):
        super().__init__(
            inputs, outputs, width, depth, activation, fourier_features, fourier_scale, factorized
        )
        embedded = fourier_features or inputs
        self.gate_u = linear(embedded, width, factorized)
        self.gate_v = linear(embedded, width, factorized)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer combines linearly, ``N x width``."""
        h = self.embedding(x)
        u = self.activation(self.gate_u(h))
        v = self.activation(self.gate_v(h))
        difference = u - v
        for layer in self.layers:
            h = self.activation(layer(h)) * difference + v
        return h
