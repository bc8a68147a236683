"""Every derivative tower against `torch.autograd`, in the tails too."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional

from dpinn.jet import towers

TOWERS = {
    "tanh": (towers.tanh, torch.tanh),
    "sigmoid": (towers.sigmoid, torch.sigmoid),
    "sin": (towers.sin, torch.sin),
    "cos": (towers.cos, torch.cos),
    "silu": (towers.silu, functional.silu),
    "gelu": (towers.gelu, functional.gelu),
    "softplus": (towers.softplus, functional.softplus),
    "softplus, beta 2": (
        partial(towers.softplus, beta=2.0, threshold=5.0),
        partial(functional.softplus, beta=2.0, threshold=5.0),
    ),
}
ELEMENTARY = {
    "exp": (towers.exp, torch.exp, (-3.0, 3.0)),
    "log": (towers.log, torch.log, (0.1, 50.0)),
    "power 4": (lambda x, n: towers.power(x, 4, n), lambda x: x**4, (-2.0, 2.0)),
    "power 2": (lambda x, n: towers.power(x, 2, n), lambda x: x**2, (-2.0, 2.0)),
    "power -3": (lambda x, n: towers.power(x, -3, n), lambda x: x**-3, (0.3, 4.0)),
    "power 0.5": (lambda x, n: towers.power(x, 0.5, n), torch.sqrt, (0.1, 50.0)),
    "power 3.7": (lambda x, n: towers.power(x, 3.7, n), lambda x: x**3.7, (0.1, 5.0)),
}
every_tower = pytest.mark.parametrize(("tower", "function"), TOWERS.values(), ids=TOWERS)


def nested(function, x: torch.Tensor, order: int) -> list[torch.Tensor]:
    derivatives = [function(x)]
    for _ in range(order):
        slope = torch.zeros_like(x)
        if derivatives[-1].requires_grad:
            (slope,) = torch.autograd.grad(derivatives[-1].sum(), x, create_graph=True)
        derivatives.append(slope)
    return derivatives


def assert_tower_is_autograd(tower, function, x):
    for k, (ours, theirs) in enumerate(zip(tower(x, 4), nested(function, x, 4), strict=True)):
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1.0)
        assert error <= 1e-13, f"derivative {k} is off by {error:.1e}"


@every_tower
def test_activation_tower_is_autograd(tower, function):
    assert_tower_is_autograd(
        tower, function, torch.linspace(-12, 12, 301, dtype=torch.float64).requires_grad_(True)
    )


@pytest.mark.parametrize(("tower", "function", "range_"), ELEMENTARY.values(), ids=ELEMENTARY)
def test_elementary_tower_is_autograd(tower, function, range_):
    x = torch.linspace(*range_, 100, dtype=torch.float64).requires_grad_(True)
    assert_tower_is_autograd(tower, function, x)


@pytest.mark.parametrize("tower", [t for t, *_ in (TOWERS | ELEMENTARY).values()])
@pytest.mark.parametrize("order", range(5))
def test_tower_has_one_entry_an_order(tower, order):
    assert len(tower(torch.ones(3), order)) == order + 1


@every_tower
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("size", [20.0, 50.0, 200.0, 1e4, 1e10, 1e30])
def test_tails_are_finite_with_their_gradients(tower, function, dtype, size):
    x = torch.tensor([-size, size], dtype=dtype, requires_grad=True)
    derivatives = torch.stack(tower(x, 4))
    (gradient,) = torch.autograd.grad(derivatives.sum(), x)
    assert torch.isfinite(derivatives).all()
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(derivatives[0], function(x))


def test_derivatives_of_a_whole_power_end_at_zero_where_the_base_is_zero():
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    derivatives = torch.stack(towers.power(zero, 2, 4))
    assert derivatives.flatten().tolist() == [0, 0, 2, 0, 0]
    (gradient,) = torch.autograd.grad(derivatives.sum(), zero)
    assert gradient.tolist() == [2]  # of 2x, the others are constant there
