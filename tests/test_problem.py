"""How a PDE is declared, and what is said when the declaration is wrong."""

from __future__ import annotations

import pytest
import torch

from dpinn import Box, DpinnError, Problem, on
from dpinn.jet import fields_of
from dpinn.jet.jet import Jet
from dpinn.nn import MLP, PINN
from dpinn.problem import snake_case

# --- Box ------------------------------------------------------------------------------------


def test_box_keeps_the_order_of_its_coordinates():
    box = Box(x=(-1, 1), t=(0, 2.5))
    assert box.coordinates == ("x", "t")
    assert (box.lower(), box.upper()) == ([-1, 0], [1, 2.5])
    assert (box["t"], box.length("x")) == ((0.0, 2.5), 2.0)
    assert repr(box) == "Box(x=(-1, 1), t=(0, 2.5))"


@pytest.mark.parametrize(
    ("intervals", "sentence"),
    [
        ({}, r"a Box needs at least one coordinate, e\.g\. Box\(t=\(0, 1\), x=\(-1, 1\)\)"),
        ({"t": (0, 1), "d": (0, 1)}, "a coordinate cannot be called 'd'; choose another name"),
        ({"laplacian": (0, 1)}, "cannot be called 'laplacian'"),
        ({"value": (0, 1)}, "cannot be called 'value'"),
        ({"t": 1.0}, r"t=1\.0 is no interval; write t=\(low, high\)"),
        ({"t": (0, 1, 2)}, r"t=\(0, 1, 2\) is no interval"),
        ({"t": ("a", "b")}, r"t=\('a', 'b'\) is no interval"),
        ({"x": (1, 1)}, r"x=\(1, 1\) is empty; low must be below high"),
        ({"x": (1, -1)}, r"x=\(1, -1\) is empty"),
        ({"x": (0, float("inf"))}, r"x=\(0, inf\) is empty"),
        ({"x": (float("nan"), 1)}, r"x=\(nan, 1\) is empty"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_wrong_box_is_refused(intervals, sentence):
    with pytest.raises(DpinnError, match=sentence):
        Box(**intervals)


# --- mistakes -------------------------------------------------------------------------------


class Good(Problem):
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)

    def residual(self, u, t, x):
        return {"pde": u.t - u.xx}


def problem(name="Mine", base=Good, **members) -> Problem:
    return type(name, (base,), members)()


def residual(expression):
    return {"residual": lambda self, u, t, x: expression(u, t, x)}


WALL = on(x=-1)(lambda self, u: {"wall": u})

MISTAKES = {
    "no domain": (
        problem("Mine", Problem, fields=("u",)),
        r"Mine has no domain; set domain = Box\(t=\(0, 1\), x=\(-1, 1\)\)",
    ),
    "no fields": (
        problem("Mine", Problem, domain=Good.domain),
        r'Mine has no fields; set fields = \("u",\)',
    ),
    "fields a string": (problem(fields="u"), r'Mine has no fields; set fields = \("u",\)'),
    "field named as a coordinate": (
        problem(fields=("u", "x")),
        "every field and coordinate needs its own name",
    ),
    "field named twice": (problem(fields=("u", "u")), "needs its own name"),
    "no residual": (
        problem("Mine", Problem, domain=Good.domain, fields=("u",)),
        r'Mine has no residual; define residual\(self, u, t, x\) that returns \{"pde": ...\}',
    ),
    "periodic no coordinate": (
        problem(periodic=("y",)),
        r"periodic = \('y',\) must be a tuple of coordinates of the domain, e\.g\. \('x',\)",
    ),
    "periodic a string": (problem(periodic="x"), "periodic = 'x' must be a tuple"),
    "unknown argument": (
        problem(residual=lambda self, u, y: {"pde": u.t}),
        r"Mine\.residual takes 'y', which is neither a field \(u\) nor a coordinate \(t, x\)",
    ),
    "any arguments": (
        problem(residual=lambda self, **c: {"pde": c["u"].t}),
        r"Mine\.residual takes \*\*c; name what it reads, as in residual\(self, u\)",
    ),
    "arguments by position": (
        problem(residual=lambda self, *c: {"pde": c[0].t}),
        r"Mine\.residual takes \*c; name what it reads, as in residual\(self, u\)",
    ),
    "returns nothing": (
        problem(**residual(lambda u, t, x: None)),
        r'Mine\.residual returned nothing; return a dict of named terms, \{"pde": \.\.\.\}',
    ),
    "returns an empty dict": (problem(**residual(lambda u, t, x: {})), "returned nothing"),
    "returns a tensor": (
        problem(**residual(lambda u, t, x: u.t)),
        "returned a Tensor; return a dict of named terms",
    ),
    "returns a field": (
        problem(**residual(lambda u, t, x: u)),
        "returned a field; return a dict of named terms",
    ),
    "returns a number": (
        problem(**residual(lambda u, t, x: {"pde": 0.0 if u.t is None else 1.0})),
        "the term 'pde' is a float; return a tensor with one number a point",
    ),
    "returns a scalar tensor": (
        problem(**residual(lambda u, t, x: {"pde": u.t.mean()})),
        r"the term 'pde' has shape \(\) for 7 points; it must be \(7,\), one number a point",
    ),
    "returns a column": (
        problem(**residual(lambda u, t, x: {"pde": u.t[:, None]})),
        r"the term 'pde' has shape \(7, 1\) for 7 points",
    ),
    "no derivative": (
        problem(**residual(lambda u, t, x: {"pde": u - x})),
        r"Mine\.residual reads no derivative, so it is no PDE; use e\.g\. u\.t",
    ),
    "derivative along no coordinate": (
        problem(**residual(lambda u, t, x: {"pde": u.t - u.y})),
        r"Mine\.residual: u\.y is no derivative; the coordinates of u are t, x",
    ),
    "fifth order": (
        problem(**residual(lambda u, t, x: {"pde": u.t - u.xxxxx})),
        r"Mine\.residual: the derivative xxxxx has order 5; orders up to 4 are supported",
    ),
    "d along no coordinate": (
        problem(**residual(lambda u, t, x: {"pde": u.d("r")})),
        r"Mine\.residual: 'r' is no coordinate; use one of t, x",
    ),
    "laplacian without space": (
        problem(domain=Box(t=(0, 1)), residual=lambda self, u: {"pde": u.laplacian}),
        r"Mine\.residual: u\.laplacian needs a coordinate of space, beside t",
    ),
    "the same term twice": (
        problem(initial=lambda self, u: {"pde": u}),
        "the term 'pde' is returned by both residual and initial; give every term its own name",
    ),
    "value that is no face": (
        problem(wall=on(x=0)(lambda self, u: {"wall": u})),
        r"Mine\.wall: x = 0 is no face of the domain; use -1 or 1",
    ),
    "face along no coordinate": (
        problem(wall=on(y=0)(lambda self, u: {"wall": u})),
        r"Mine\.wall: @on\(y=\.\.\.\) names no coordinate; use one of t, x",
    ),
    "initial without time": (
        problem(domain=Box(x=(0, 1)), residual=lambda self, u: {"pde": u.xx},
                initial=lambda self, u: {"ic": u}),
        "Mine has an initial condition but no coordinate t",
    ),
    "wall returns a tensor": (
        problem(wall=on(x=1)(lambda self, u: u + 1)),
        r"Mine\.wall returned a Tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("mistaken", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_in_the_declaration_is_one_sentence(mistaken, sentence):
    with pytest.raises(DpinnError, match=sentence) as caught:
        _ = mistaken.conditions
    assert "\n" not in str(caught.value)


def test_on_without_a_face_is_refused_where_it_stands():
    with pytest.raises(DpinnError, match=r"names no face; write e\.g\. @on\(x=\(-1, 1\)\)"):
        on()
    with pytest.raises(DpinnError, match=r"@on\(x='left'\) is no face; write numbers"):
        on(x="left")


def test_error_in_the_users_own_code_keeps_its_words_and_traceback():
    with pytest.raises(
        DpinnError, match=r"Mine\.residual: ZeroDivisionError: .* \(test_problem\.py, line \d+\)$"
    ) as caught:
        _ = problem(**residual(lambda u, t, x: {"pde": u.t / (1 // 0)})).conditions
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- conditions -----------------------------------------------------------------------------


class Base(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0), y=(0.0, 2.0))
    fields = ("u", "p")

    @on(x=(0, 1), y=0)
    def three_walls(self, u):
        return {"no_slip": u}

    def residual(self, u, p):
        return {"momentum": u.t + p.x - u.laplacian, "mass": u.x}


class Derived(Base):
    @on(y=2)
    def lid(self, p, x, u):
        return {"lid": u - x, "flux": p.y}

    def initial(self, u):
        return {"ic": u}

    @on(t=1)
    def end(self, u):
        return {"end": u.t}


def test_conditions_stand_in_an_order_that_can_be_predicted():
    """The interior, the start, then the faces as they are defined, base classes first."""
    names = [c.name for c in Derived().conditions]
    assert names == ["residual", "initial", "three_walls", "lid", "end"]
    assert Derived().terms == (
        "momentum", "mass", "ic", "no_slip", "lid", "flux", "end",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "places", "arguments", "plan"),
    [
        ("residual", (), ("u", "p"), "value, t, x, y, laplacian"),
        ("initial", ({"t": 0.0},), ("u",), "value"),
        ("three_walls", ({"x": 0.0}, {"x": 1.0}, {"y": 0.0}), ("u",), "value"),
        ("lid", ({"y": 2.0},), ("p", "x", "u"), "value, y"),
        ("end", ({"t": 1.0},), ("u",), "value, t"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_condition_knows_its_places_arguments_and_derivatives(name, places, arguments, plan):
    (condition,) = [c for c in Derived().conditions if c.name == name]
    assert condition.places == places
    assert condition.arguments == arguments
    assert str(condition.plan) == plan


def test_arguments_are_bound_by_name_whatever_their_order():
    lid = next(c for c in Derived().conditions if c.name == "lid")
    points = torch.rand(5, 3, dtype=torch.float64)
    fields = fields_of(Jet.seed(points, lid.plan)[:, :2] ** 2, ("u", "p"))  # u = t², p = x²
    terms = Derived().evaluate(lid, fields, points)
    torch.testing.assert_close(terms["lid"], points[:, 0] ** 2 - points[:, 1])
    assert not terms["flux"].any()


def test_columns_of_coordinates_are_contiguous_for_lookups_in_tables():
    columns = []

    class Looking(Good):
        def residual(self, u, t, x):
            columns.extend((t, x))
            return {"pde": u.t - u.xx}

    interior = Looking().conditions[0]
    points = torch.rand(5, 2, dtype=torch.float64)
    Looking().evaluate(interior, fields_of(Jet.seed(points, interior.plan)[:, :1], ("u",)), points)
    assert all(column.is_contiguous() for column in columns)  # torch.searchsorted warns otherwise
    torch.testing.assert_close(torch.stack(columns[-2:], dim=1), points)


def test_subclass_can_replace_a_condition():
    class Open(Base):
        @on(x=0)
        def three_walls(self, u):
            return {"wall": u}

    (walls,) = Open().conditions[1:]
    assert walls.places == ({"x": 0.0},)
    assert walls.terms == ("wall",)


def test_dry_call_runs_once_and_away_from_zero():
    seen = []

    class Counting(Good):
        def residual(self, u, t, x):
            seen.append(u.x)
            return {"pde": u.t / u.x + torch.log(u.xx) + 1 / u}

    counting = Counting()
    assert counting.conditions == counting.conditions
    assert len(seen) == 1
    assert bool((seen[0] > 0.1).all())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Wave", "wave"),
        ("AllenCahn", "allen_cahn"),
        ("KuramotoSivashinsky", "kuramoto_sivashinsky"),
    ],
)
def test_name_is_the_class_in_snake_case(name, expected):
    assert snake_case(name) == expected
    assert problem(name).name == expected


def test_problem_without_a_reference_says_none():
    assert Good().reference() is None


# --- the design page's own example ------------------------------------------------------------

DESIGN_EXAMPLE = '''
# my_pde.py: a whole new problem
import torch
from dpinn import Box, Problem

class AllenCahn(Problem):
    """u_t = d u_xx + 5 (u - u^3), periodic in x."""
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    fields = ("u",)
    periodic = ("x",)

    def __init__(self, diffusivity: float = 1e-4):
        super().__init__()
        self.diffusivity = diffusivity

    def residual(self, u, t, x):
        return {"pde": u.t - self.diffusivity * u.xx + 5 * (u**3 - u)}

    def initial(self, u, x):
        return {"ic": u - x**2 * torch.cos(torch.pi * x)}
'''


def test_design_pages_example_works_as_it_stands():
    namespace: dict = {}
    exec(DESIGN_EXAMPLE, namespace)
    mine = namespace["AllenCahn"](diffusivity=0.5)
    assert mine.terms == ("pde", "ic")
    assert [str(c.plan) for c in mine.conditions] == ["value, t, x, xx", "value"]
    torch.manual_seed(0)
    pinn = PINN(mine, lambda i, o: MLP(i, o, width=8, depth=2)).double()
    points = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    interior = mine.conditions[0]
    term = mine.evaluate(interior, pinn.fields(points, interior.plan), points)["pde"]
    u = pinn(points)[:, 0]
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 1].sum(), points)
    expected = first[:, 0] - 0.5 * second[:, 1] + 5 * (u**3 - u)
    torch.testing.assert_close(term, expected)
