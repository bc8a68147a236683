"""Derivatives of the elementary functions: f(x), f'(x), ... up to the fourth.

Each function returns a list of ``order + 1`` tensors of the shape of `x`, raw derivatives
(not divided by factorials), written so that neither a value nor a gradient overflows where
the function itself does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Tower = Callable[[Tensor, int], list[Tensor]]


def tanh(x: Tensor, order: int) -> list[Tensor]:
    """Hyperbolic tangent: with y = tanh x every derivative is a polynomial in y."""
    y = torch.tanh(x)
    y2 = y * y
    d1 = 1 - y2
    tower = [y, d1, -2 * y * d1, d1 * (6 * y2 - 2), d1 * y * (16 - 24 * y2)]
    return tower[: order + 1]


def sigmoid(x: Tensor, order: int) -> list[Tensor]:
    """Logistic function: with s = sigmoid x every derivative is a polynomial in s."""
    s = torch.sigmoid(x)
    d1 = s * torch.sigmoid(-x)  # s (1 - s) without cancellation for large x
    odd = 1 - 2 * s
    tower = [s, d1, d1 * odd, d1 * (1 - 6 * d1), d1 * odd * (1 - 12 * d1)]
    return tower[: order + 1]


def sin(x: Tensor, order: int) -> list[Tensor]:
    """Sine."""
    s, c = torch.sin(x), torch.cos(x)
    return [s, c, -s, -c, s][: order + 1]


def cos(x: Tensor, order: int) -> list[Tensor]:
    """Cosine."""
    s, c = torch.sin(x), torch.cos(x)
    return [c, -s, -c, s, c][: order + 1]


def exp(x: Tensor, order: int) -> list[Tensor]:
    """Exponential."""
    return [torch.exp(x)] * (order + 1)


def log(x: Tensor, order: int) -> list[Tensor]:
    """Natural logarithm."""
    return [torch.log(x), *power(x, -1, order - 1)] if order else [torch.log(x)]


def silu(x: Tensor, order: int) -> list[Tensor]:
    """SiLU (swish), x sigmoid(x): the k-th derivative is x s^(k) + k s^(k-1)."""
    return _times_x(x, sigmoid(x, order))


def gelu(x: Tensor, order: int) -> list[Tensor]:
    """Exact GELU, x Φ(x) with Φ the normal distribution function."""
    # Beyond 40 the density is zero in float64, and must not meet an x² that overflows.
    z = x.clamp(-40.0, 40.0)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    hermite = [torch.ones_like(z), -z, z * z - 1, z * (3 - z * z)]
    distribution = 0.5 * torch.erfc(-x / math.sqrt(2))
    return _times_x(x, [distribution, *(h * density for h in hermite[:order])])


def softplus(x: Tensor, order: int, beta: float = 1.0, threshold: float = 20.0) -> list[Tensor]:
    """Softplus, log(1 + exp(βx))/β; linear above the threshold, as torch has it."""
    value = functional.softplus(x, beta, threshold)
    if not order:
        return [value]
    linear = x * beta > threshold
    tower = [value]
    for k, d in enumerate(sigmoid(beta * x, order - 1)):
        tower.append(torch.where(linear, 1.0 if k == 0 else 0.0, d * beta**k))
    return tower


def power(x: Tensor, exponent: float, order: int) -> list[Tensor]:
    """x to a constant power; derivatives of a whole power end at zero instead of at 0/0."""
    tower = []
    factor = 1.0
    for k in range(order + 1):
        tower.append(factor * x ** (exponent - k) if factor else torch.zeros_like(x))
        factor *= exponent - k
    return tower


def _times_x(x: Tensor, tower: list[Tensor]) -> list[Tensor]:
    return [x * d if k == 0 else x * d + k * tower[k - 1] for k, d in enumerate(tower)]
