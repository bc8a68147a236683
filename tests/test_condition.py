"""Where conditions hold, and what is said when a decorator is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpinn import Box, DpinnError, Problem, at, on


class Square(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0), y=(0.0, 2.0))
    fields = ("p",)

    def residual(self, p):
        return {"pde": p.t - p.laplacian}


def condition(decorator, returned=lambda p: {"pin": p}):
    members = {"pin": decorator(lambda self, p: returned(p))}
    return type("Mine", (Square,), members)().conditions[-1]


@pytest.mark.parametrize(
    ("decorator", "places", "listed"),
    [
        (on(x=(0, 1), y=0), ({"x": 0.0}, {"x": 1.0}, {"y": 0.0}), False),
        (at(x=0, y=0), ({"x": 0.0, "y": 0.0},), False),
        (at(x=0.5), ({"x": 0.5},), False),
        (at(x=(0, 1), y=(0.5, 2)), ({"x": 0.0, "y": 0.5}, {"x": 1.0, "y": 2.0}), False),
        (
            at(t=1, x=(0.25, 0.75), y=1),
            ({"t": 1.0, "x": 0.25, "y": 1.0}, {"t": 1.0, "x": 0.75, "y": 1.0}),
            True,
        ),
        (
            at(x=np.float32(0.5), y=np.array([0.0, 1.0])),
            ({"x": 0.5, "y": 0.0}, {"x": 0.5, "y": 1.0}),
            False,
        ),
        (at(x=torch.tensor([0.25])), ({"x": 0.25},), False),
    ],
    ids=["faces", "point", "line", "points", "listed", "arrays", "tensor"],
)
def test_faces_are_places_of_one_coordinate_and_points_hold_several(decorator, places, listed):
    found = condition(decorator)
    assert found.places == places
    assert found.listed is listed


def test_derivatives_are_read_at_a_point():
    assert str(condition(at(x=0, y=0), lambda p: {"flux": p.x - p.yy}).plan) == "value, x, y, yy"


@pytest.mark.parametrize(
    ("decorate", "sentence"),
    [
        (lambda: at(), r"@at\(\.\.\.\) names no point; write e\.g\. @at\(x=0, y=0\)"),
        (lambda: at(x=()), r"@at\(\.\.\.\) names no point"),
        (lambda: at(x=(0, 1), y=(0, 1, 2)), "lists 2 of x, 3 of y; give each point all of its"),
        (lambda: at(x="corner"), r"@at\(x='corner'\) is no place; write numbers"),
        (lambda: at(x=float("nan")), r"@at\(x=nan\) is no place"),
        (lambda: on(x=(0, None)), r"@on\(x=\(0, None\)\) is no face; write numbers"),
        (
            lambda: condition(at(z=0)),
            r"Mine\.pin: @at\(z=\.\.\.\) names no coordinate; use one of t",
        ),
        (
            lambda: condition(at(x=0, y=2.5)),
            "y = 2.5 is outside the domain; use a value from 0 to 2",
        ),
        (lambda: condition(on(y=1)), r"y = 1 is no face .* use 0 or 2, or @at\(y=1\) within it"),
        (lambda: condition(on(y=3)), "y = 3 is no face of the domain; use 0 or 2$"),
        (lambda: on(x=0)(on(y=0)(lambda self, p: {"pin": p})), "has two decorators"),
        (lambda: at(x=0)(on(y=0)(lambda self, p: {"pin": p})), "has two decorators"),
    ],
)
def test_wrong_decorator_is_refused(decorate, sentence):
    with pytest.raises(DpinnError, match=sentence) as caught:
        decorate()
    assert "\n" not in str(caught.value)
