"""How each torch operation acts on a jet: linear maps, products, activations, shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpinn.jet import towers
from dpinn.jet.jet import RULES, Jet, NoJetRuleError
from dpinn.jet.towers import Tower

Rule = Callable[..., Any]


def rule(*functions: Callable[..., Any] | str) -> Callable[[Rule], Rule]:
    """Register a rule for torch functions, and tensor methods or operators of the same meaning."""

    def register(action: Rule) -> Rule:
        for function in functions:
            RULES[function] = action
        return action

    return register


def compose(tower: Tower, jet: Jet) -> Jet:
    """Apply an elementwise function by Faà di Bruno, given the tower of its derivatives."""
    plan = jet.plan
    channels = jet.channels.unbind(0)
    derivatives = tower(channels[0], plan.order)
    out = [derivatives[0]]
    factorial = (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24)
    for entries in plan.compositions[1:]:
        total: Tensor | None = None
        for k, orders, parts in entries:
            term = derivatives[k]
            for part in parts:
                term = term * channels[part]
            scale = orders * factorial[k]
            term = term if scale == 1.0 else scale * term
            total = term if total is None else total + term
        assert total is not None
        out.append(total)
    if plan.laplacian:
        squares = _sum([channels[c] * channels[c] for c in plan.gradient_channels])
        out.append(derivatives[1] * channels[-1] + derivatives[2] * squares)
    return Jet(torch.stack(out), plan)


# --- linear maps: one matrix product over all channels ------------------------------------


@rule(functional.linear)
def linear(jet: Jet, weight: Tensor, bias: Tensor | None = None) -> Jet:
    """``x W' + b``; the bias reaches the value alone."""
    _plain(weight, "a linear layer whose weight depends on the coordinates")
    out = Jet(torch.matmul(jet.channels, weight.t()), jet.plan)
    return out if bias is None else add(out, bias)


@rule(torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
def matmul(jet: Jet, weight: Tensor) -> Jet:
    """``x W`` for a constant matrix on the right."""
    if torch.compiler.is_compiling() and isinstance(weight, Jet):
        # The tracer swaps ``jet @ w``; a jet that really stands on the right was refused in
        # the eager call that every network passes before it is compiled.
        jet, weight = weight, jet
    _plain(weight, "matmul with a jet on the right")
    if weight.ndim > 2:
        raise NoJetRuleError("matmul with a batch of matrices")
    return Jet(torch.matmul(jet.channels, weight), jet.plan)


@rule(torch.addmm, Tensor.addmm)
def addmm(bias: Tensor, jet: Jet, weight: Tensor) -> Jet:
    """``b + x W``."""
    return add(matmul(jet, weight), bias)


@rule(torch.neg, Tensor.neg, Tensor.__neg__)
def neg(jet: Jet) -> Jet:
    """Negative."""
    return Jet(-jet.channels, jet.plan)


@rule(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def add(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    """Sum of jets, or of a jet and something constant in the coordinates."""
    if isinstance(a, Jet) and isinstance(b, Jet):
        _same_plan(a, b)
        x, y = _align(a.channels, b.channels)
        return Jet(x + y if alpha == 1 else x + alpha * y, a.plan)
    jet, constant = (a, b) if isinstance(a, Jet) else (b, a)
    if alpha != 1:
        if jet is a:
            constant = alpha * constant
        else:
            jet = Jet(alpha * jet.channels, jet.plan)
    channels = jet.channels
    if isinstance(constant, Tensor):
        shape = torch.broadcast_shapes(channels.shape[1:], constant.shape)
        if shape != jet.shape:
            extra = (1,) * (len(shape) - jet.ndim)
            channels = channels.reshape(-1, *extra, *jet.shape).expand(-1, *shape)
    value = channels[:1] + constant
    if channels.shape[0] == 1:
        return Jet(value, jet.plan)
    return Jet(torch.cat([value, channels[1:]]), jet.plan)


@rule(torch.sub, Tensor.sub, Tensor.__sub__, torch.subtract)
def sub(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    """Difference."""
    return add(a, neg(b) if isinstance(b, Jet) else -b, alpha=alpha)


@rule(torch.rsub, "__rsub__")
def rsub(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    """``b - alpha a``."""
    return sub(b, a, alpha=alpha)


# --- products -----------------------------------------------------------------------------


@rule(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply)
def mul(a: Any, b: Any) -> Jet:
    """Product by Leibniz; a constant factor scales every channel."""
    if not (isinstance(a, Jet) and isinstance(b, Jet)):
        jet, constant = (a, b) if isinstance(a, Jet) else (b, a)
        if isinstance(constant, Tensor) and constant.ndim > jet.ndim:
            extra = (1,) * (constant.ndim - jet.ndim)
            channels = jet.channels.reshape(-1, *extra, *jet.shape)
            return Jet(channels * constant, jet.plan)
        return Jet(jet.channels * constant, jet.plan)
    _same_plan(a, b)
    plan = a.plan
    stacked_f, stacked_g = _align(a.channels, b.channels)
    f, g = stacked_f.unbind(0), stacked_g.unbind(0)
    out = [_sum([f[i] * g[j] for i, j in pairs]) for pairs in plan.products]
    if plan.laplacian:
        cross = _sum([f[c] * g[c] for c in plan.gradient_channels])
        out.append(f[-1] * g[0] + f[0] * g[-1] + 2 * cross)
    return Jet(torch.stack(out), plan)


@rule(torch.div, Tensor.div, Tensor.__truediv__, torch.true_divide, torch.divide)
def div(a: Any, b: Any) -> Jet:
    """Quotient."""
    if isinstance(b, Jet):
        return mul(reciprocal(b), a)
    return Jet(a.channels / b, a.plan) if not isinstance(b, Tensor) else mul(a, 1 / b)


@rule(torch.reciprocal, Tensor.reciprocal)
def reciprocal(jet: Jet) -> Jet:
    """``1 / x``."""
    return pow_(jet, -1)


@rule("__rtruediv__", "__rdiv__")
def rdiv(jet: Jet, numerator: Any) -> Jet:
    """``numerator / x``."""
    return div(numerator, jet)


@rule(torch.square, Tensor.square)
def square(jet: Jet) -> Jet:
    """``x^2``."""
    return mul(jet, jet)


@rule(torch.sqrt, Tensor.sqrt)
def sqrt(jet: Jet) -> Jet:
    """Square root."""
    return pow_(jet, 0.5)


@rule(torch.pow, Tensor.pow, Tensor.__pow__, "pow")
def pow_(base: Any, exponent: Any) -> Jet:
    """A constant power of a jet, or a positive constant to the power of a jet."""
    if isinstance(exponent, Jet):
        if isinstance(base, Jet):
            return exp(mul(exponent, compose(towers.log, base)))
        scale = torch.log(torch.as_tensor(base, dtype=exponent.dtype, device=exponent.device))
        return exp(mul(exponent, scale))
    if isinstance(exponent, Tensor):
        raise NoJetRuleError("pow with a tensor as exponent")
    return compose(partial(_power, exponent=exponent), base)


@rule("__rpow__")
def rpow(exponent: Any, base: Any) -> Jet:
    """``base ** exponent``."""
    return pow_(base, exponent)


def _power(x: Tensor, order: int, exponent: float) -> list[Tensor]:
    return towers.power(x, exponent, order)


# --- activations --------------------------------------------------------------------------


@rule(torch.tanh, Tensor.tanh, functional.tanh)
def tanh(jet: Jet) -> Jet:
    """Hyperbolic tangent."""
    return compose(towers.tanh, jet)


@rule(torch.sigmoid, Tensor.sigmoid, functional.sigmoid, torch.special.expit)
def sigmoid(jet: Jet) -> Jet:
    """Logistic function."""
    return compose(towers.sigmoid, jet)


@rule(torch.sin, Tensor.sin)
def sin(jet: Jet) -> Jet:
    """Sine."""
    return compose(towers.sin, jet)


@rule(torch.cos, Tensor.cos)
def cos(jet: Jet) -> Jet:
    """Cosine."""
    return compose(towers.cos, jet)


@rule(torch.exp, Tensor.exp)
def exp(jet: Jet) -> Jet:
    """Exponential."""
    return compose(towers.exp, jet)


@rule(torch.log, Tensor.log)
def log(jet: Jet) -> Jet:
    """Natural logarithm."""
    return compose(towers.log, jet)


@rule(functional.silu)
def silu(jet: Jet, inplace: bool = False) -> Jet:
    """SiLU (swish)."""
    return compose(towers.silu, jet)


@rule(functional.gelu)
def gelu(jet: Jet, approximate: str = "none") -> Jet:
    """GELU, exact or by tanh."""
    if approximate == "none":
        return compose(towers.gelu, jet)
    inner = (2 / torch.pi) ** 0.5 * (jet + 0.044715 * jet * jet * jet)
    return 0.5 * jet * (1 + tanh(inner))


@rule(functional.softplus)
def softplus(jet: Jet, beta: float = 1.0, threshold: float = 20.0) -> Jet:
    """Softplus."""

    def tower(x: Tensor, order: int) -> list[Tensor]:
        return towers.softplus(x, order, beta, threshold)

    return compose(tower, jet)


# --- shapes -------------------------------------------------------------------------------


@rule(Tensor.__getitem__)
def getitem(jet: Jet, key: Any) -> Jet:
    """Index as the tensor of shape ``batch_shape x features`` that the jet stands for."""
    key = key if isinstance(key, tuple) else (key,)
    return Jet(jet.channels[(slice(None), *key)], jet.plan)


@rule(torch.cat, torch.concat, torch.concatenate)
def cat(jets: Sequence[Any], dim: int = 0) -> Jet:
    """Concatenate; parts that are tensors are constant in the coordinates."""
    lifted = _lift_all(jets)
    axis = _axis(lifted[0], dim)
    return Jet(torch.cat([j.channels for j in lifted], dim=axis), lifted[0].plan)


@rule(torch.stack)
def stack(jets: Sequence[Any], dim: int = 0) -> Jet:
    """Stack along a new dimension."""
    lifted = _lift_all(jets)
    axis = dim + 1 if dim >= 0 else dim
    return Jet(torch.stack([j.channels for j in lifted], dim=axis), lifted[0].plan)


@rule(torch.sum, Tensor.sum)
def sum_(jet: Jet, dim: int | Sequence[int], keepdim: bool = False) -> Jet:
    """Sum over given dimensions."""
    axes = [_axis(jet, d) for d in ([dim] if isinstance(dim, int) else dim)]
    return Jet(jet.channels.sum(axes, keepdim=keepdim), jet.plan)


@rule(torch.mean, Tensor.mean)
def mean(jet: Jet, dim: int | Sequence[int], keepdim: bool = False) -> Jet:
    """Mean over given dimensions."""
    axes = [_axis(jet, d) for d in ([dim] if isinstance(dim, int) else dim)]
    return Jet(jet.channels.mean(axes, keepdim=keepdim), jet.plan)


@rule(torch.unsqueeze, Tensor.unsqueeze)
def unsqueeze(jet: Jet, dim: int) -> Jet:
    """Insert a dimension of size one."""
    return Jet(jet.channels.unsqueeze(dim + 1 if dim >= 0 else dim), jet.plan)


@rule(torch.squeeze, Tensor.squeeze)
def squeeze(jet: Jet, dim: int) -> Jet:
    """Remove a dimension of size one."""
    return Jet(jet.channels.squeeze(_axis(jet, dim)), jet.plan)


@rule(torch.split, Tensor.split)
def split(jet: Jet, size: int | list[int], dim: int = 0) -> list[Jet]:
    """Split into parts of given sizes."""
    parts = torch.split(jet.channels, size, dim=_axis(jet, dim))
    return [Jet(part, jet.plan) for part in parts]


@rule(torch.chunk, Tensor.chunk)
def chunk(jet: Jet, chunks: int, dim: int = 0) -> list[Jet]:
    """Split into a number of equal parts."""
    return [Jet(part, jet.plan) for part in torch.chunk(jet.channels, chunks, dim=_axis(jet, dim))]


@rule(torch.unbind, Tensor.unbind)
def unbind(jet: Jet, dim: int = 0) -> list[Jet]:
    """Remove a dimension, giving the slices along it."""
    return [Jet(part, jet.plan) for part in torch.unbind(jet.channels, dim=_axis(jet, dim))]


# --- helpers ------------------------------------------------------------------------------


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _axis(jet: Jet, dim: int) -> int:
    return dim % jet.ndim + 1


def _align(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give the stacked channels of two jets the same number of dimensions."""
    while a.ndim < b.ndim:
        a = a.unsqueeze(1)
    while b.ndim < a.ndim:
        b = b.unsqueeze(1)
    return a, b


def _lift_all(parts: Sequence[Any]) -> list[Jet]:
    plan = next(p.plan for p in parts if isinstance(p, Jet))
    return [p if isinstance(p, Jet) else _constant(p, plan.channels, plan) for p in parts]


def _constant(value: Tensor, channels: int, plan: Any) -> Jet:
    zeros = torch.zeros((channels - 1, *value.shape), dtype=value.dtype, device=value.device)
    return Jet(torch.cat([value[None], zeros]), plan)


def _plain(weight: Any, what: str) -> None:
    if isinstance(weight, Jet):
        raise NoJetRuleError(what)


def _same_plan(a: Jet, b: Jet) -> None:
    if a.plan != b.plan:
        raise ValueError(f"jets of different plans cannot be combined: [{a.plan}] and [{b.plan}]")
