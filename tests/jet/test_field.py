"""Fields as a residual reads them, and the recorder that learns what it reads."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch

from dpinn.errors import DpinnError
from dpinn.jet import DerivativePlan, Field, Jet, Record, RecordingField, fields_of

VALUE = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)
OTHER = torch.tensor([1.5, 0.5, -2.0], dtype=torch.float64)


def field(value=VALUE, **derivatives) -> Field:
    known = {tuple(int(c) for c in k[1:]): v for k, v in derivatives.items()}
    return Field("u", value, ("t", "x"), known)


def recorded(residual, coordinates=("t", "x", "y")) -> str:
    record = Record(tuple(coordinates))
    residual(RecordingField("u", VALUE, record))
    return str(record.plan())


@pytest.mark.parametrize(
    ("residual", "plan"),
    [
        (lambda u: u**2, "value"),
        (lambda u: u.t + u * u.x, "value, t, x"),
        (lambda u: u.d("t", "x", "x"), "value, t, x, tx, xx, txx"),
        (lambda u: u.xxt, "value, t, x, tx, xx, txx"),
        (lambda u: u.laplacian, "value, x, y, laplacian"),
        (lambda u: u.laplacian + u.xx + u.yy, "value, x, y, xx, yy"),
        (lambda u: u.shape[0] * u.abs() + u.d(), "value"),
    ],
    ids=[
        "value",
        "Burgers",
        "d",
        "spelled",
        "laplacian",
        "laplacian and its parts",
        "no derivative",
    ],
)
def test_recorder_notes_exactly_what_is_read(residual, plan):
    assert recorded(residual) == plan


def test_recorder_answers_a_derivative_with_the_same_numbers_each_time():
    u = RecordingField("u", VALUE, Record(("t", "x")))
    assert torch.equal(u.x, u.x)
    assert not torch.equal(u.x, u.t)
    assert bool(((u.x > 0) & (u.x < 1)).all())


def test_derivative_that_was_not_read_is_named():
    u = field(_10=OTHER)
    assert u.t is OTHER
    with pytest.raises(DpinnError, match=r"u\.txx was not read in the dry call of the residual"):
        _ = u.xtx
    with pytest.raises(DpinnError, match=r"u\.laplacian was not read"):
        _ = u.laplacian
    with pytest.raises(DpinnError, match=r"v\.d\('t', 'theta'\) was not read"):
        Field("v", VALUE, ("t", "theta"), {}).d("theta", "t")


def test_nonsense_names_the_coordinates():
    with pytest.raises(
        AttributeError, match=r"u\.foo is no derivative; the coordinates of u are t, x"
    ):
        _ = field().foo
    with pytest.raises(ValueError, match="'y' is no coordinate; use one of t, x"):
        field().d("y")
    assert not hasattr(field(), "_private")


OPERATORS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "**": lambda a, b: operator.pow(abs(a), b),
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize(
    "other", [OTHER, 2.0, 3, field(OTHER)], ids=["tensor", "float", "int", "field"]
)
def test_operator_takes_a_field_as_its_value_on_both_sides(operation, other):
    plain = other.value if isinstance(other, Field) else other
    for ours, theirs in [
        (operation(field(), other), operation(VALUE, plain)),
        (operation(other, field()), operation(plain, VALUE)),
    ]:
        assert type(ours) is torch.Tensor
        assert torch.equal(ours, theirs)


FUNCTIONS = {
    "negative": lambda u: -u,
    "abs": abs,
    "sin": torch.sin,
    "stack": lambda u: torch.stack([u, OTHER, u]),
    "keyword": lambda u: torch.add(input=u, other=u),
    "method": lambda u: u.clamp(min=0),
    "where": lambda u: torch.where(u > 0, u, torch.zeros_like(u)),
    "index": lambda u: u[1:],
    "mask": lambda u: u[u > 0],
    "tensor method": lambda u: OTHER.mul(u),
    "autograd-free": lambda u: u.detach(),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_torch_function_takes_a_field_as_its_value(function):
    result = function(field())
    assert type(result) is torch.Tensor
    assert torch.equal(result, function(VALUE))


@pytest.mark.parametrize(
    "function", [np.asarray, np.sin, np.abs, np.median], ids=lambda f: f.__name__
)
def test_field_becomes_no_array_of_numpy(function):
    """Its gradient would be lost in silence."""
    with pytest.raises(TypeError, match=r"torch|__array_ufunc__"):
        function(field())


NUMPY = (np.float64(2.5), np.float32(2.5), np.int64(3), np.array([0.5, 2.0, 3.0]), np.array(2.0))
OPERATORS = ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne")


@pytest.mark.parametrize("number", NUMPY, ids=repr)
@pytest.mark.parametrize("name", OPERATORS)
def test_numbers_and_arrays_of_numpy_stand_on_either_side(name, number):
    value = VALUE.abs().float().requires_grad_()
    mine = Field("u", value, ("t", "x"), {})
    function, plain = getattr(operator, name), torch.tensor(number).float()
    for result, expected in (
        (function(number, mine), function(plain, value)),
        (function(mine, number), function(value, plain)),
    ):
        torch.testing.assert_close(result, expected)
        assert result.dtype == expected.dtype
        assert result.requires_grad == expected.requires_grad


def test_field_of_several_points_is_neither_true_nor_false():
    with pytest.raises(RuntimeError, match="Boolean value"):
        bool(field())
    assert len(field()) == 3


# --- fields of a jet: u = t² sin x cosh y, whose derivatives are known ------------------------


def network(points):
    t, x, y = points[..., 0:1], points[..., 1:2], points[..., 2:3]
    return torch.cat([t**2 * torch.sin(x) * (torch.exp(y) + torch.exp(-y)) / 2, x * y], dim=-1)


POINTS = torch.rand((5, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T, X, Y = POINTS.unbind(1)


def u_and_v(wanted, laplacian=False, coordinates=("t", "x", "y")):
    plan = DerivativePlan.build(coordinates, wanted, laplacian)
    return fields_of(network(Jet.seed(POINTS, plan)), ("u", "v"))


def test_fields_carry_derivatives_not_taylor_coefficients():
    u = u_and_v([(2, 2, 0), (0, 0, 3)])["u"]
    torch.testing.assert_close(u.ttxx, -2 * torch.sin(X) * torch.cosh(Y))
    torch.testing.assert_close(u.yyy, T**2 * torch.sin(X) * torch.sinh(Y))
    torch.testing.assert_close(u.d("x", "t"), 2 * T * torch.cos(X) * torch.cosh(Y))
    torch.testing.assert_close(u.value, T**2 * torch.sin(X) * torch.cosh(Y))


@pytest.mark.parametrize(
    "wanted", [[], [(1, 0, 0)], [(0, 2, 0), (0, 0, 2)]], ids=["collapsed", "with u_t", "as a sum"]
)
def test_laplacian_of_a_harmonic_function_vanishes(wanted):
    fields = u_and_v(wanted, laplacian=True)
    torch.testing.assert_close(fields["u"].laplacian, torch.zeros(5).double())
    torch.testing.assert_close(fields["v"].laplacian, torch.zeros(5).double())


def test_laplacian_over_one_space_coordinate_is_the_second_derivative():
    plan = DerivativePlan.build(("t", "x"), [], laplacian=True)
    u = fields_of(Jet.seed(POINTS[:, :2], plan) ** 3, ("a", "b"))["b"]
    torch.testing.assert_close(u.laplacian, 6 * X)
    assert u.laplacian is u.xx


def test_long_coordinate_names_are_differentiated_by_name():
    u = u_and_v([(1, 2, 0)], coordinates=("t", "theta", "radius"))["u"]
    torch.testing.assert_close(u.d("theta", "theta"), -(T**2) * torch.sin(X) * torch.cosh(Y))
    torch.testing.assert_close(u.d("t", "theta"), 2 * T * torch.cos(X) * torch.cosh(Y))
    torch.testing.assert_close(u.t, 2 * T * torch.sin(X) * torch.cosh(Y))
