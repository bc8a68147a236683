"""Errors of a solution against a reference on its grid."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import xarray as xr

from dpinn import Box, DpinnWarning, Problem
from dpinn.analysis import (
    Evaluation,
    axes_of,
    evaluate,
    relative_l2,
    statement,
    window_errors,
)

AXES = {"t": np.linspace(0, 1, 7), "x": np.linspace(-1, 1, 11), "y": np.linspace(2, 3, 5)}
T, X, Y = np.meshgrid(*AXES.values(), indexing="ij")


class Flow(Problem):
    domain = Box(t=(0.0, 1.0), x=(-1.0, 1.0), y=(2.0, 3.0))
    fields = ("u", "v", "p")
    up_to_constant = ("p",)


class Steady(Problem):
    domain = Box(x=(-1.0, 1.0), y=(2.0, 3.0))
    fields = ("u", "p")
    up_to_constant = ("p",)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([3.0, 5.0], [3.0, 4.0], 0.2),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 5.0]], 1 / math.sqrt(39)),
        ([0.0, 1e-9], [0.0, 0.0], math.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
    ],
)
def test_relative_l2_is_over_all_points(prediction, reference, expected):
    assert relative_l2(np.array(prediction), np.array(reference)) == pytest.approx(expected)


@pytest.mark.parametrize("reference", [np.ones(3), np.zeros(3)])
def test_relative_l2_is_nan_only_of_what_is_not_a_number(reference):
    assert math.isnan(relative_l2(np.array([1.0, math.nan, 1.0]), reference))


def reference(values=None, **attributes) -> xr.Dataset:
    values = values or {"u": T + 10 * X + 100 * Y, "v": 2 * (1 + T) * X}
    return xr.Dataset({n: (tuple(AXES), v) for n, v in values.items()}, AXES, attributes)


def test_evaluation_compares_name_by_name():
    predictions = {"u": T + 10 * X + 100 * Y, "v": (1 + T) * X, "vorticity": X, "p": Y}
    exact = reference(error_estimate=1e-9).assign(vorticity=(tuple(AXES), 3 * X))
    result = evaluate(predictions, Flow(), exact)
    assert result.errors == {"u": 0.0, "v": pytest.approx(0.5), "vorticity": pytest.approx(2 / 3)}
    assert result.reference_error == 1e-9
    assert set(result.predictions) == {"u", "v", "vorticity", "p"}


def test_what_the_reference_lacks_is_not_compared():
    result = evaluate({"u": T, "p": Y}, Flow(), reference())
    assert set(result.errors) == set(result.over_time) == {"u"}
    np.testing.assert_array_equal(result.predictions["p"], Y)


def test_error_over_time_is_of_each_time_alone():
    exact = np.stack([np.full((11, 5), value) for value in (0.0, 1, 2, 3, 4, 5, 6)])
    result = evaluate({"u": exact + 0.3}, Flow(), reference({"u": exact}))
    expected = [math.nan, 0.3, 0.15, 0.1, 0.075, 0.06, 0.05]
    np.testing.assert_allclose(result.over_time["u"], expected, rtol=1e-12)
    assert result.errors["u"] == pytest.approx(math.sqrt(7 * 0.09 / 91))


def test_a_pressure_is_compared_after_the_mean_difference_at_each_time():
    exact = np.sin(X) + Y * T
    offset = np.linspace(-50, 70, 7)[:, None, None]
    wrong = 0.01 * np.where(X > 0, 1.0, np.where(X < 0, -1.0, 0.0))  # has no mean over space
    given = {"p": exact + offset + wrong, "u": exact + offset}
    kept = given["p"].copy()
    result = evaluate(given, Flow(), reference({"p": exact, "u": exact}))
    np.testing.assert_allclose(result.predictions["p"], exact + wrong, atol=1e-13)
    expected = math.sqrt(np.sum(wrong**2) / np.sum(exact**2))
    assert result.errors["p"] == pytest.approx(expected, rel=1e-10)
    by_time = np.sqrt(np.sum(wrong**2, axis=(1, 2)) / np.sum(exact**2, axis=(1, 2)))
    np.testing.assert_allclose(result.over_time["p"], by_time, rtol=1e-10)
    assert result.errors["u"] > 10  # u is not free
    np.testing.assert_array_equal(given["p"], kept)


def test_a_steady_pressure_has_one_constant_and_no_error_over_time():
    x, y = np.meshgrid(AXES["x"], AXES["y"], indexing="ij")
    exact = xr.Dataset({"p": (("x", "y"), x * y)}, {n: AXES[n] for n in ("x", "y")})
    result = evaluate({"p": x * y + 5.0}, Steady(), exact)
    assert result.errors["p"] < 1e-13
    assert result.over_time == {}


def test_dimensions_of_the_reference_may_be_in_another_order():
    exact = reference().transpose("y", "t", "x")
    result = evaluate({"u": T + 10 * X + 100 * Y, "v": 2 * (1 + T) * X}, Flow(), exact)
    assert result.errors == {"u": 0.0, "v": 0.0}
    axes = axes_of(exact, Flow())
    assert list(axes) == ["t", "x", "y"]
    for name in AXES:
        np.testing.assert_array_equal(axes[name], AXES[name])


def test_a_reference_that_is_zero_everywhere_is_warned_of():
    with pytest.warns(DpinnWarning, match="v is zero everywhere in the reference"):
        result = evaluate({"v": X}, Flow(), reference({"v": 0 * X}))
    assert result.errors["v"] == math.inf
    assert np.isnan(result.over_time["v"]).all()


def test_nothing_is_divided_by_zero_where_the_reference_begins_with_rest():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate({"v": X}, Flow(), reference({"v": T * X}))


def test_reference_without_an_error_estimate_has_none():
    assert math.isnan(evaluate({"u": T}, Flow(), reference()).reference_error)


def test_errors_within_the_windows_are_over_their_times():
    exact = np.ones((7, 11, 5))
    wrong = exact * np.array([0, 1, 2, 3, 4, 5, 6])[:, None, None]
    given = reference({"u": exact})
    evaluation = evaluate({"u": exact + wrong}, Flow(), given)
    third = 1 / 3  # a time of the reference, which the seam misses by rounding
    expected = [math.sqrt((0 + 1 + 4) / 3), math.sqrt((9 + 16 + 25) / 3), 6.0]
    for seam in (third - 1e-15, third, third + 1e-15):
        found = window_errors(evaluation, Flow(), given, [(0.0, seam), (seam, 0.9), (0.9, 1.0)])
        np.testing.assert_allclose(found["u"], expected)


def test_a_window_between_two_times_of_the_reference_has_no_error():
    given = reference()
    evaluation = evaluate({"u": T}, Flow(), given)
    found = window_errors(evaluation, Flow(), given, [(0.0, 0.2), (0.2, 0.3), (0.3, 1.0)])
    assert [math.isnan(e) for e in found["u"]] == [False, True, False]


def test_windows_compare_a_pressure_up_to_its_constant():
    exact = np.sin(X) * (1 + T)
    given = reference({"p": exact})
    evaluation = evaluate({"p": exact + 3.0}, Flow(), given)
    found = window_errors(evaluation, Flow(), given, [(0.0, 0.5), (0.5, 1.0)])
    assert max(found["p"]) < 1e-14


@pytest.mark.parametrize(
    ("error", "own", "expected"),
    [
        (3.14159e-4, 1e-6, "3.14e-04"),
        (5.0e-6, 1e-6, "5.00e-06"),
        (4.9e-6, 1e-6, "< 5.0e-06"),
        (1e-12, 1e-6, "< 5.0e-06"),
        (2e-3, float("nan"), "2.00e-03"),
        (2e-3, None, "2.00e-03"),
        (None, 1e-6, "not finite"),
        (math.nan, 1e-6, "not finite"),
        (math.inf, None, "not finite"),
    ],
)
def test_error_below_what_the_reference_resolves_is_stated_as_a_bound(error, own, expected):
    assert statement(error, own) == expected
    if error is not None and own is not None:
        assert Evaluation({"u": error}, own, {}).statement("u") == expected
