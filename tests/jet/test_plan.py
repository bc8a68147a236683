"""Derivative plans: closure, collapse, names."""

from __future__ import annotations

import itertools
import math

import pytest

from dpinn.jet import DerivativePlan, parse_derivative
from dpinn.jet.plan import multi_index


@pytest.mark.parametrize(
    ("coordinates", "wanted", "laplacian", "spelled"),
    [
        ("tx", [], False, "value"),
        ("tx", [(1, 0), (0, 2)], False, "value, t, x, xx"),
        ("tx", [(1, 2)], False, "value, t, x, tx, xx, txx"),
        ("tx", [(0, 4)], False, "value, x, xx, xxx, xxxx"),
        ("tx", [], True, "value, x, xx"),
        ("txy", [], True, "value, x, y, laplacian"),
        ("txy", [(1, 0, 0)], True, "value, t, x, y, laplacian"),
        ("txy", [(0, 2, 0)], True, "value, x, y, xx, laplacian"),
        ("txy", [(0, 2, 0), (0, 0, 2)], True, "value, x, y, xx, yy"),
        ("txyz", [], True, "value, x, y, z, laplacian"),
        ("xyz", [(2, 0, 0), (0, 2, 0), (0, 0, 2)], True, "value, x, y, z, xx, yy, zz"),
    ],
    ids=lambda v: "".join(v) if isinstance(v, str) else str(v),
)
def test_plan_is_the_smallest_that_answers(coordinates, wanted, laplacian, spelled):
    plan = DerivativePlan.build(tuple(coordinates), wanted, laplacian)
    assert str(plan) == spelled
    assert plan.channels == len(spelled.split(", "))


def test_laplacian_axes_are_those_of_space():
    assert DerivativePlan.build(("x", "t", "y"), [], True).laplacian == (0, 2)


@pytest.mark.parametrize(
    "wanted", [[(4, 0, 0)], [(1, 1, 2)], [(2, 2, 0), (0, 1, 3)]], ids=["tttt", "txyy", "ttxx, xyyy"]
)
def test_plan_is_downward_closed(wanted):
    plan = DerivativePlan.build(("t", "x", "y"), wanted)
    below = {i for w in wanted for i in itertools.product(*(range(k + 1) for k in w))}
    assert set(plan.partials) == below
    assert plan.order == 4
    assert plan.partials[0] == (0, 0, 0)


def test_compositions_count_the_partitions_of_a_set():
    """Faà di Bruno has as many terms as a set of that many elements has partitions: Bell's."""
    plan = DerivativePlan.build(("x", "y", "z"), [(4, 0, 0), (2, 1, 1)])
    for index in [(4, 0, 0), (2, 1, 1)]:
        partitions = 0.0
        for k, orders, parts in plan.compositions[plan.position[index]]:
            factorials = math.prod(plan.factorials[p] for p in parts)
            partitions += (
                plan.factorials[plan.position[index]] * orders / factorials / math.factorial(k)
            )
        assert partitions == 15


def test_gap_below_a_partial_is_refused():
    with pytest.raises(
        ValueError, match=r"not downward closed: \(2, 0\) is there, \(1, 0\) is not"
    ):
        DerivativePlan(("t", "x"), ((0, 0), (2, 0)))
    with pytest.raises(ValueError, match="needs the first derivatives along its axes"):
        DerivativePlan(("x", "y"), ((0, 0), (1, 0)), laplacian=(0, 1))


@pytest.mark.parametrize(
    ("name", "index"),
    [("t", (1, 0)), ("xxt", (1, 2)), ("xtx", (1, 2)), ("xxxx", (0, 4)), ("y", None), ("", None),
     ("shape", None)],
)  # fmt: skip
def test_derivative_is_read_from_its_name(name, index):
    assert parse_derivative(name, ("t", "x")) == index


def test_long_coordinate_names_are_not_spelled_in_one_word():
    assert parse_derivative("theta", ("t", "theta")) is None
    assert multi_index(("theta", "t", "theta"), ("t", "theta")) == (1, 2)


def test_fifth_order_is_refused():
    sentence = "the derivative xxxxx has order 5; orders up to 4 are supported"
    with pytest.raises(ValueError, match=sentence):
        parse_derivative("xxxxx", ("t", "x"))


def test_unknown_coordinate_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'r' is no coordinate; use one of t, theta"):
        multi_index(("r",), ("t", "theta"))
