"""Invariant 1: whatever a module does to a jet equals nested float64 autograd."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dpinn.jet import DerivativePlan, Jet, NoJetRuleError, autograd_jet

COORDINATES = ("t", "x", "y")


def every_partial(order: int, coordinates: int = 3) -> list[tuple[int, ...]]:
    indices = itertools.product(range(order + 1), repeat=coordinates)
    return [i for i in indices if sum(i) <= order]


EVERYTHING = DerivativePlan.build(COORDINATES, every_partial(4))
COLLAPSED = DerivativePlan.build(COORDINATES, [(1, 1, 0), (0, 1, 1), (3, 0, 0)], laplacian=True)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


POINTS = random(4, 3, seed=1)
WEIGHT = 0.6 * random(3, 2, seed=2)
MATRIX = 0.6 * random(2, 3, seed=3)
BIAS = random(3, seed=4)
ROW = 0.5 + random(2, seed=5).abs()
COLUMN = 0.5 + random(4, 1, seed=6).abs()
FULL = 0.5 + random(4, 2, seed=7).abs()


def hidden(x):
    """Pre-activations of both signs, two features."""
    return x @ WEIGHT.to(x.dtype)


def positive(x):
    """A positive function of every coordinate, two features."""
    return torch.exp(0.5 * torch.sin(hidden(x)))


def two_rows(h):
    return torch.stack([torch.sin(h[:, 0]), torch.cos(h[:, 1])], dim=0)


def on_hidden(function):
    return lambda x: function(hidden(x))


def on_positive(function):
    return lambda x: function(positive(x))


LINEAR = {
    "linear": on_hidden(lambda h: functional.linear(h, MATRIX.T)),
    "linear with bias": on_hidden(lambda h: functional.linear(h, MATRIX.T, BIAS)),
    "matmul": on_hidden(lambda h: torch.matmul(h, MATRIX)),
    "mm": on_hidden(lambda h: torch.mm(h, MATRIX)),
    "@": on_hidden(lambda h: h @ MATRIX),
    "@ vector": on_hidden(lambda h: (torch.sin(h) @ ROW).unsqueeze(-1)),
    "addmm": on_hidden(lambda h: torch.addmm(BIAS, h, MATRIX)),
}

ACTIVATIONS = {
    "tanh": torch.tanh,
    "functional.tanh": functional.tanh,
    "method tanh": lambda h: h.tanh(),
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "functional.sigmoid": functional.sigmoid,
    "silu": functional.silu,
    "nn.SiLU": nn.SiLU(),
    "gelu": functional.gelu,
    "gelu by tanh": partial(functional.gelu, approximate="tanh"),
    "nn.GELU by tanh": nn.GELU("tanh"),
    "softplus": functional.softplus,
    "softplus, beta 3": partial(functional.softplus, beta=3.0),
    "softplus beyond its threshold": lambda h: functional.softplus(h + 30.0),
    "nn.Softplus on both sides of its threshold": nn.Softplus(threshold=0.1),
    "square": torch.square,
    "power 1": lambda h: h**1,
    "power 2": lambda h: h**2,
    "power 3": lambda h: torch.pow(h, 3),
    "power 6": lambda h: h**6,
    "power -1": lambda h: h**-1,
    "power -2": lambda h: h**-2.0,
    "reciprocal": torch.reciprocal,
}

POSITIVE = {
    "log": torch.log,
    "sqrt": torch.sqrt,
    "power 0.5": lambda p: p**0.5,
    "power 2.5": lambda p: torch.pow(p, 2.5),
    "power -1.5": lambda p: p**-1.5,
    "a number to a jet": lambda p: torch.pow(2.0, p),
    "a number ** a jet": lambda p: 2.0**p,
    "a tensor ** a jet": lambda p: ROW**p,
    "a jet ** a jet": lambda p: p ** torch.sin(p),
}

ARITHMETIC = {
    "sum": lambda h: torch.sin(h) + torch.exp(h),
    "sum with alpha": lambda h: torch.add(torch.sin(h), torch.exp(h), alpha=3),
    "sum of a jet and alpha times a constant": lambda h: torch.add(torch.sin(h), ROW, alpha=3),
    "sum of a constant and alpha times a jet": lambda h: torch.add(ROW, torch.sin(h), alpha=3),
    "difference": lambda h: torch.sin(h) - torch.exp(h),
    "difference with alpha": lambda h: torch.sub(torch.sin(h), torch.exp(h), alpha=3),
    "rsub with alpha": lambda h: torch.rsub(torch.sin(h), torch.exp(h), alpha=3),
    "negative": lambda h: -torch.sin(h),
    "product": lambda h: torch.sin(h) * torch.exp(h),
    "product with one column": lambda h: torch.sin(h) * torch.exp(h[:, :1]),
    "product with fewer dimensions": lambda h: (two_rows(h) * torch.exp(h[:, 0]))[1].unsqueeze(1),
    "sum with one column": lambda h: torch.sin(h) + torch.exp(h[:, :1]),
    "sum with fewer dimensions": lambda h: (torch.exp(h[:, 0]) + two_rows(h))[1].unsqueeze(1),
    "quotient": lambda h: torch.sin(h) / torch.exp(h),
}

SHAPES = {
    "cat": lambda h: torch.cat([torch.sin(h), torch.exp(h)], dim=-1),
    "cat with a constant": lambda h: torch.cat([FULL, torch.sin(h), COLUMN], dim=1),
    "stack": lambda h: torch.stack([h[:, 0], torch.sin(h[:, 1])], dim=-1),
    "stack with a constant": lambda h: torch.stack([COLUMN[:, 0], torch.sin(h[:, 1])], dim=1),
    "stack in front": lambda h: torch.stack([torch.sin(h), h], dim=0)[0],
    "index a column": lambda h: torch.sin(h)[:, 1:],
    "index with an ellipsis": lambda h: torch.sin(h)[..., :1],
    "index with a list": lambda h: torch.sin(h)[:, [1, 0]],
    "index with None": lambda h: torch.sin(h)[:, None, 1],
    "unpack": lambda h: torch.stack([row * 2.0 for row in torch.sin(h)]),
    "unsqueeze": lambda h: torch.sin(h)[:, 0].unsqueeze(-1),
    "unsqueeze and squeeze in front": lambda h: torch.sin(h).unsqueeze(0).squeeze(0),
    "squeeze": lambda h: torch.squeeze(torch.sin(h).unsqueeze(1), 1),
    "split": lambda h: torch.split(torch.sin(h), 1, dim=-1)[1],
    "split by sizes": lambda h: torch.sin(h).split([1, 1], dim=1)[0],
    "chunk": lambda h: torch.chunk(torch.sin(h), 2, dim=-1)[1],
    "method chunk": lambda h: torch.sin(h).chunk(2, 1)[0],
    "unbind": lambda h: torch.unbind(torch.sin(h), dim=1)[1].unsqueeze(1),
    "sum over features": lambda h: torch.sin(h).sum(-1, keepdim=True),
    "torch.sum over features": lambda h: torch.sum(torch.sin(h), dim=1).unsqueeze(1),
    "mean over features": lambda h: torch.sin(h).mean(dim=-1, keepdim=True),
    "mean over two dimensions": lambda h: torch.sin(h)[:, None].mean((1, 2)).unsqueeze(1),
}

BOTH_SIDES = {
    "jet + tensor": lambda h: torch.sin(h) + ROW,
    "tensor + jet": lambda h: ROW + torch.sin(h),
    "number + jet": lambda h: 3.0 + torch.sin(h),
    "jet - tensor": lambda h: torch.sin(h) - FULL,
    "tensor - jet": lambda h: FULL - torch.sin(h),
    "number - jet": lambda h: 3.0 - torch.sin(h),
    "jet * tensor": lambda h: torch.sin(h) * COLUMN,
    "tensor * jet": lambda h: COLUMN * torch.sin(h),
    "number * jet": lambda h: 3.0 * torch.sin(h),
    "jet / tensor": lambda h: torch.sin(h) / ROW,
    "tensor / jet": lambda h: ROW / torch.exp(h),
    "jet / number": lambda h: torch.sin(h) / 3.0,
    "number / jet": lambda h: 3.0 / torch.exp(h),
    "tensor / jet, broadcast": lambda h: COLUMN / torch.exp(h[:, :1]),
    "one column + tensor": lambda h: torch.sin(h[:, :1]) + FULL,
    "tensor - one column": lambda h: FULL - torch.sin(h[:, :1]),
    "fewer dimensions + tensor": lambda h: (torch.sin(h[:, 0]) + FULL.T)[1].unsqueeze(1),
    "tensor * fewer dimensions": lambda h: (FULL.T * torch.sin(h[:, 0]))[1].unsqueeze(1),
    "jet @ matrix": lambda h: torch.sin(h) @ MATRIX,
    "number ** jet": lambda h: 2.0**h,
    "tensor ** jet": lambda h: ROW**h,
    "torch.sub(tensor, jet)": lambda h: torch.sub(FULL, torch.sin(h)),
    "torch.div(tensor, jet)": lambda h: torch.div(FULL, torch.exp(h)),
}

CASES = (
    LINEAR
    | {name: on_hidden(f) for name, f in ACTIVATIONS.items()}
    | {name: on_positive(f) for name, f in POSITIVE.items()}
    | {name: on_hidden(f) for name, f in (ARITHMETIC | SHAPES | BOTH_SIDES).items()}
)
every_case = pytest.mark.parametrize("function", CASES.values(), ids=CASES)


@every_case
def test_jet_equals_nested_autograd(function, assert_equals_nested_autograd):
    jet = function(Jet.seed(POINTS, EVERYTHING))
    assert_equals_nested_autograd(jet, function, POINTS)


@every_case
def test_collapsed_laplacian_equals_nested_autograd(function, assert_equals_nested_autograd):
    assert COLLAPSED.laplacian == (1, 2)
    jet = function(Jet.seed(POINTS, COLLAPSED))
    assert_equals_nested_autograd(jet, function, POINTS)


@every_case
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_lower_order_gives_the_same_numbers(function, order):
    """The jet of order 4 is checked above; a shorter one computes with shorter towers."""
    plan = DerivativePlan.build(COORDINATES, every_partial(order))
    whole = function(Jet.seed(POINTS, EVERYTHING)).channels
    channels = function(Jet.seed(POINTS, plan)).channels
    expected = torch.stack([whole[EVERYTHING.position[i]] for i in plan.partials])
    torch.testing.assert_close(channels, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("laplacian", "space"), [(False, 0), (True, 2), (True, 3)], ids=["none", "2-D", "3-D"]
)
def test_autograd_fallback_equals_nested_autograd(laplacian, space, assert_equals_nested_autograd):
    coordinates = ("t", "x", "y", "z")[: max(space, 2) + 1]
    wanted = every_partial(4, len(coordinates)) if not laplacian else [(1, 1, *[0] * (space - 1))]
    plan = DerivativePlan.build(coordinates, wanted, laplacian)
    points = random(4, len(coordinates))
    weight = random(len(coordinates), 2, seed=8)

    def function(x):
        return torch.sin(torch.tanh(x @ weight) @ MATRIX)

    assert_equals_nested_autograd(autograd_jet(function, points, plan), function, points)


@pytest.mark.parametrize("kind", ["jet", "fallback"])
def test_derivatives_of_a_function_of_one_coordinate_vanish_in_the_others(kind):
    plan = DerivativePlan.build(("t", "x"), [(2, 1), (0, 3)])
    points = random(4, 2)

    def function(x):
        return x[:, :1] ** 2

    if kind == "jet":
        jet = function(Jet.seed(points, plan))
    else:
        jet = autograd_jet(function, points, plan)
    for index, channel in zip(plan.partials, jet.channels, strict=True):
        expected = {
            (0, 0): points[:, :1] ** 2,
            (1, 0): 2 * points[:, :1],
            (2, 0): torch.ones(4, 1).double(),
        }
        torch.testing.assert_close(channel, expected.get(index, torch.zeros(4, 1).double()))


# --- parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("laplacian", [False, True], ids=["partials", "laplacian"])
def test_gradient_with_respect_to_parameters_equals_nested_autograd(
    activation, laplacian, nested_autograd
):
    wanted = [(1, 1, 0), (0, 1, 0)] if laplacian else [(1, 1, 1), (0, 2, 0)]
    plan = DerivativePlan.build(COORDINATES, wanted, laplacian)
    weight = WEIGHT.clone().requires_grad_(True)
    matrix = MATRIX.clone().requires_grad_(True)

    def function(x):
        return activation(x @ weight) @ matrix

    def gradient(derivatives):
        cotangents = [random(*d.shape, seed=9 + k) for k, d in enumerate(derivatives)]
        total = sum((c * d).sum() for c, d in zip(cotangents, derivatives, strict=True))
        return torch.autograd.grad(total, (weight, matrix))

    oracle = nested_autograd(function, POINTS)
    expected = [oracle(i) / f for i, f in zip(plan.partials, plan.factorials, strict=True)]
    expected += [oracle.laplacian(plan.laplacian)] if laplacian else []
    jet = function(Jet.seed(POINTS, plan))
    for ours, theirs in zip(gradient(list(jet.channels)), gradient(expected), strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


# --- cost, types, compiler ------------------------------------------------------------------


class MatrixProducts(TorchDispatchMode):
    """Counts the matrix products that run."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count += name in ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mv")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("plan", [EVERYTHING, COLLAPSED], ids=["all partials", "laplacian"])
def test_linear_layer_is_one_matrix_product_over_all_channels(plan):
    layers = [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2, bias=False)]
    network = nn.Sequential(*layers).double()
    with MatrixProducts() as products:
        network(Jet.seed(POINTS, plan))
    assert products.count == 3


@every_case
def test_float32_stays_float32(function, monkeypatch):
    for name in ("MATRIX", "BIAS", "ROW", "COLUMN", "FULL"):
        monkeypatch.setitem(globals(), name, globals()[name].float())
    jet = function(Jet.seed(POINTS.float(), COLLAPSED))
    assert jet.dtype == torch.float32
    assert torch.isfinite(jet.channels).all()


TRACED = DerivativePlan.build(COORDINATES, [(1, 0, 0)], laplacian=True)
NOT_TRACED = ("functional.tanh", "functional.sigmoid")
"""Deprecated wrappers, which torch itself does not count among the overridable functions."""


@pytest.mark.parametrize("quarter", range(4))
def test_traced_jets_equal_the_eager_ones(quarter):
    """The tracer dispatches reflected operators otherwise than the interpreter does."""
    torch._dynamo.reset()
    cases = {name: f for name, f in CASES.items() if name not in NOT_TRACED}
    names = list(cases)[quarter::4]

    def channels(points):
        return [cases[name](Jet.seed(points, TRACED)).channels for name in names]

    compiled = torch.compile(channels, fullgraph=True, backend="eager")
    for name, traced, eager in zip(names, compiled(POINTS), channels(POINTS), strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-14, atol=1e-14, msg=name)


# --- refusals -------------------------------------------------------------------------------


NO_RULE = {
    "relu": (torch.relu, "relu"),
    "functional.layer_norm": (lambda h: functional.layer_norm(h, (2,)), "layer_norm"),
    "method abs": (lambda h: h.abs(), "abs"),
    "matrix @ jet": (lambda h: torch.ones(2, 4).double() @ h, "jet on the right"),
    "batch of matrices": (lambda h: h @ torch.ones(5, 2, 2).double(), "batch of matrices"),
    "weight that is a jet": (lambda h: functional.linear(h, h), "weight depends"),
    "tensor as exponent": (lambda h: h**ROW, "tensor as exponent"),
    "comparison": (lambda h: h > 0, "gt"),
    "equality": (lambda h: h == 0, "eq"),
    "abs()": (lambda h: abs(h), "abs"),
    "where": (lambda h: torch.where(torch.tensor([True, False]), h, 0.0), "where"),
}


@pytest.mark.parametrize(("function", "operation"), NO_RULE.values(), ids=NO_RULE)
def test_operation_without_a_rule_is_named(function, operation):
    with pytest.raises(NoJetRuleError, match=operation):
        function(hidden(Jet.seed(POINTS, EVERYTHING)))


def test_jets_of_different_plans_do_not_mix():
    with pytest.raises(ValueError, match="different plans"):
        Jet.seed(POINTS, EVERYTHING) + Jet.seed(POINTS, COLLAPSED)


def test_jet_looks_like_the_tensor_that_it_stands_for():
    jet = Jet.seed(POINTS, EVERYTHING)
    assert (jet.shape, jet.ndim, jet.dim(), len(jet)) == ((4, 3), 2, 2, 4)
    assert (jet.size(), jet.size(-1), jet.device) == ((4, 3), 3, POINTS.device)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = jet.nonsense
