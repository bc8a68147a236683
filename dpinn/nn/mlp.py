"""The plain multilayer perceptron."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from dpinn.nn.embeddings import FourierFeatures
from dpinn.nn.layers import ACTIVATIONS, Activation, linear


class MLP(nn.Module):
    """A multilayer perceptron, by default with random weight factorization.

    Args:
        inputs: embedded coordinates.
        outputs: fields.
        width: features of a hidden layer.
        depth: number of hidden layers.
        activation: applied after each hidden layer.
        fourier_features: number of Fourier features in front; 0 for none.
        fourier_scale: standard deviation of their frequencies.
        factorized: (mean, std) of the random weight factorization; null for plain layers.
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
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.embedding: nn.Module = nn.Identity()
        if fourier_features:
            self.embedding = FourierFeatures(inputs, fourier_features, fourier_scale)
            inputs = fourier_features
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(linear(a, b, factorized) for a, b in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], outputs, bias=False)
        nn.init.xavier_normal_(self.last.weight)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer combines linearly, ``N x width``."""
        h = self.embedding(x)
        for layer in self.layers:
            h = self.activation(layer(h))
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Map ``N x inputs`` to ``N x outputs``."""
        return self.last(self.features(x))
