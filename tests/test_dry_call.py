"""What people write first: each ends with a sentence that names their line and what to write."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dpinn import Box, DpinnError, Problem
from dpinn.jet.derivative_names import suggested_derivative


class Heat(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)

    def residual(self, u, x):
        return {"pde": u.t - u.xx}


def said(residual: Any, **members: Any) -> str:
    mine = type("Mine", (Heat,), {"residual": residual, **members})()
    with pytest.raises(DpinnError) as caught:
        _ = mine.conditions
    sentence = str(caught.value)
    assert "\n" not in sentence
    line = residual.__code__.co_firstlineno
    where = [f"(test_dry_call.py, line {k})" for k in range(line, line + 6)]
    assert any(sentence.endswith(w) for w in where), sentence
    assert sentence.startswith("Mine.residual")
    return sentence


def python_if(self, u, x):
    k = 10.0 if x < 0.3 else 1.0
    return {"pde": u.t - k * u.xx}


def python_if_of_the_field(self, u, x):
    return {"pde": u.t if u < 0 else u.xx}


def field_as_a_condition(self, u, x):
    return {"pde": u.t if u else u.xx}


def python_max(self, u, x):
    return {"pde": u.t - max(u.value, 0) * u.xx}


def python_and(self, u, x):
    return {"pde": torch.where(x > 0 and x < 1, u.t, u.xx)}


@pytest.mark.parametrize(
    "residual",
    [python_if, python_if_of_the_field, field_as_a_condition, python_max, python_and],
    ids=lambda f: f.__name__,
)
def test_a_decision_for_all_points_names_torch_where(residual: Any) -> None:
    assert "point by point with torch.where(x < 0.3, 10.0, 1.0)" in said(residual)


def math_sin(self, u, x):
    return {"pde": u.t - math.sin(x)}


def math_exp_of_the_field(self, u, x):
    return {"pde": u.t - math.exp(u)}


def math_sqrt_of_a_derivative(self, u, x):
    return {"pde": u.t - math.sqrt(u.x)}


@pytest.mark.parametrize(
    ("residual", "name"),
    [(math_sin, "sin"), (math_exp_of_the_field, "exp"), (math_sqrt_of_a_derivative, "sqrt")],
)
def test_a_function_of_python_names_that_of_torch(residual: Any, name: str) -> None:
    assert f"math.{name} takes a single number; use torch.{name}" in said(residual)


def float_of_the_field(self, u, x):
    return {"pde": u.t - float(u)}


def test_a_conversion_to_a_number_is_told() -> None:
    assert "takes a single number; use that of torch" in said(float_of_the_field)


def conservative(self, u, x):
    flux = (1 + x) * u.x
    return {"pde": u.t - flux.x}


def field_squared(self, u, x):
    return {"pde": u.t + (0.5 * u**2).x}


def laplacian_of_a_laplacian(self, u, x):
    return {"pde": u.t + u.laplacian.laplacian}


def time_derivative_of_an_expression(self, u, x):
    return {"pde": (x * u).t - u.xx}


@pytest.mark.parametrize(
    ("residual", "name"),
    [
        (conservative, ".x"),
        (field_squared, ".x"),
        (laplacian_of_a_laplacian, ".laplacian"),
        (time_derivative_of_an_expression, ".t"),
    ],
)
def test_a_derivative_of_an_expression_is_not_available(residual: Any, name: str) -> None:
    assert f"{name} is a derivative of an expression, and only fields have" in said(residual)
    assert "product or chain rule, or declare the expression as a field" in said(residual)


def autograd(self, u, x):
    flux = (1 + x) * u.x
    (flux_x,) = torch.autograd.grad(flux.sum(), x, create_graph=True)
    return {"pde": u.t - flux_x}


def autograd_by_a_coordinate_made_to_require_it(self, u, x):
    x = x.requires_grad_(True)
    flux = (1 + x) * u.x
    return {"pde": u.t - torch.autograd.grad(flux.sum(), x, create_graph=True)[0]}


def autograd_by_a_copy(self, u, x):
    x = x.clone().requires_grad_(True)
    flux = (1 + x) * u.x
    return {"pde": u.t - torch.autograd.grad(outputs=flux.sum(), inputs=[x], create_graph=True)[0]}


@pytest.mark.parametrize(
    "residual", [autograd, autograd_by_a_coordinate_made_to_require_it, autograd_by_a_copy]
)
def test_autograd_by_coordinates_is_refused(residual: Any) -> None:
    """By a copy it would run, and give the explicit dependence alone."""
    assert "read derivatives of fields by name, as in u.x" in said(residual)


def test_autograd_by_a_field_and_of_a_source_is_allowed() -> None:
    class Elastic(Heat):
        def residual(self, u, x):
            energy = u.value**4
            (stress,) = torch.autograd.grad(energy.sum(), u.value, create_graph=True)
            place = x.clone().requires_grad_(True)
            (source,) = torch.autograd.grad((place**2).sum(), place)
            return {"pde": u.t - stress - source}

    assert Elastic().terms == ("pde",)


def interpolated(self, u, x):
    return {"pde": u.t - u.xx - np.interp(x, [0, 1], [0, 1])}


def numpy_of_the_field(self, u, x):
    return {"pde": u.t - np.sin(u)}


def numpy_of_a_derivative(self, u, x):
    return {"pde": u.t - np.maximum(u.x, 0)}


def array_of_the_field(self, u, x):
    return {"pde": u.t - torch.from_numpy(np.asarray(u))}


def mean_of_numpy(self, u, x):
    return {"pde": u.t - np.mean(u.x)}


def array_times_a_derivative(self, u, x):
    return {"pde": u.t - np.ones(7) * u.xx}


@pytest.mark.parametrize(
    "residual",
    [interpolated, numpy_of_the_field, numpy_of_a_derivative, mean_of_numpy, array_of_the_field,
     array_times_a_derivative],
)  # fmt: skip
def test_numpy_within_a_residual_names_torch(residual: Any) -> None:
    assert "torch" in said(residual)


def test_numbers_of_numpy_work_everywhere() -> None:
    class Numbers(Heat):
        scale = np.sqrt(2.0)

        def residual(self, u, x):
            return {
                "pde": self.scale * u - np.float32(2) * u.xx + u.t * np.int64(2) - self.scale * x
            }

    assert Numbers().terms == ("pde",)


@pytest.mark.parametrize(
    ("attribute", "meant"),
    [
        ("u_t", "u.t"),
        ("u_xx", "u.xx"),
        ("du_dx", "u.x"),
        ("dx", "u.x"),
        ("x_x", "u.xx"),
        ("quux", None),
    ],
)
def test_derivatives_as_others_write_them_name_ours(attribute: str, meant: str | None) -> None:
    assert suggested_derivative(attribute, "u", ("t", "x")) == meant
    sentence = said(lambda self, u: {"pde": getattr(u, attribute)})
    assert f"u.{attribute} is no derivative" in sentence
    assert (f"write {meant}" in sentence) == (meant is not None)


def test_long_names_of_coordinates_are_spelled_with_d() -> None:
    sentence = said(
        lambda self, u: {"pde": u.t - u.x1x1}, domain=Box(t=(0, 1), x1=(0, 1), x2=(0, 1))
    )
    assert 'write u.d("x1", "x1")' in sentence


def test_a_derivative_along_a_time_that_there_is_not_is_refused() -> None:
    """A tensor has a method of that name."""
    sentence = said(lambda self, u: {"pde": u.t - u.xx}, domain=Box(x=(0, 1)))
    assert "u.t is no derivative; the coordinates of u are x" in sentence


@pytest.mark.parametrize(
    ("residual", "fragments"),
    [
        (lambda self, u: {"pde": 1j * u.t + u.xx}, ["complex (torch.complex128)", "as two terms"]),
        (lambda self, u: {"pde": u.t, "sign": u < 0}, ["'sign' is torch.bool", "torch.relu"]),
        (lambda self, u: {"pde": u.t, "k": u.value.long()}, ["'k' is torch.int64", "no gradient"]),
        (lambda self, u, t: {"pde": u.t, "reg": 1e-3 * t}, ["'reg' has no gradient", "no field"]),
        (lambda self, u: {"pde": u.t, "bc": u.value.detach() - 1}, ["'bc' has no gradient"]),
        (lambda self, u: {"pde": u.t, "bc": (u < 0).double()}, ["'bc' has no gradient"]),
        (lambda self, u: {"pde": u.t, "m": torch.mean(u) - 1}, ["shape ()", "a mean or an"]),
        (lambda self, u: {"pde": u.t + torch.ones(7, 1).float() @ u.x}, ["Mine.residual: "]),
        (lambda self, u: {"pde": torch.ones(7, 7).float() @ u.t}, ["precision", "dtype=x.dtype"]),
        (lambda self, u: {"pde": u.t[3.5]}, ["Mine.residual: IndexError: "]),
        (lambda self, u: {"pde": u.t + {}["k"]}, ["KeyError: 'k'"]),
    ],
)  # fmt: skip
def test_what_is_no_term_is_told(residual: Any, fragments: list[str]) -> None:
    sentence = said(residual)
    assert [f for f in fragments if f not in sentence] == [], sentence


def test_tensors_that_a_problem_holds_may_be_of_any_precision() -> None:
    class Matrices(Heat):
        single, double = torch.eye(2), torch.eye(2, dtype=torch.float64)

        def residual(self, u):
            flux = torch.stack([u.t, u.x], dim=1) @ self.single @ self.double
            return {"pde": flux[:, 0] - u.xx}

    assert Matrices().terms == ("pde",)


def test_terms_that_vanish_already_are_fine() -> None:
    class Solved(Heat):
        def residual(self, u):
            return {"pde": u.t - u.t + 0 * u.xx}

    assert Solved().terms == ("pde",)
