"""Errors at some points of a reference's grid."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dpinn import Box, Problem
from dpinn.analysis import GridSample, evaluate


class Cavity(Problem):
    domain = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u", "p")
    up_to_constant = ("p",)


class Flow(Problem):
    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u", "p")
    up_to_constant = ("p",)


def midpoints(n):
    return (np.arange(n) + 0.5) / n


def cavity(n):
    """A pressure that is unbounded at both upper corners, where nearly all of its norm is."""
    x, y = np.meshgrid(midpoints(n), midpoints(n), indexing="ij")
    corner = [1 / np.hypot(x - side, y - 1) for side in (0, 1)]
    values = {"u": (("x", "y"), y**8), "p": (("x", "y"), corner[0] - corner[1])}
    return xr.Dataset(values, {"x": midpoints(n), "y": midpoints(n)})


def test_a_grid_of_a_cavity_is_watched_whole_its_corners_too():
    whole = cavity(256)
    sample = GridSample.of(whole, Cavity(), 100_000)
    assert len(sample.points) == 256**2
    predictions = {n: 0.9 * whole[n].values + 0.3 for n in ("u", "p")}
    expected = evaluate(predictions, Cavity(), whole).errors
    flat = {n: values.reshape(-1) for n, values in predictions.items()}
    assert sample.errors(flat, Cavity()) == pytest.approx(expected, rel=1e-12)


def test_a_pressure_is_compared_up_to_its_constant_at_each_time():
    t, x = np.linspace(0, 1, 11), np.linspace(0, 1, 7)
    exact = np.sin(3 * x) * (1 + t[:, None])
    whole = xr.Dataset({"u": (("t", "x"), exact), "p": (("t", "x"), exact)}, {"t": t, "x": x})
    predictions = {"u": exact + t[:, None], "p": exact + t[:, None]}
    sample = GridSample.of(whole, Flow(), 77)
    found = sample.errors({n: v.reshape(-1) for n, v in predictions.items()}, Flow())
    assert found == pytest.approx(evaluate(predictions, Flow(), whole).errors, abs=1e-14)
    assert found["p"] < 1e-14 < found["u"]


@pytest.mark.parametrize("most", [5_000, 20_000])
def test_a_part_of_a_grid_has_the_error_of_the_whole(most):
    """An error that grows with time and is largest at one end of space."""
    t, x = np.linspace(0, 1, 401), np.linspace(0, 1, 500)
    exact = np.sin(9 * x) + np.cos(5 * t[:, None])
    wrong = t[:, None] ** 3 * x**6
    dims = ("t", "x")
    whole = xr.Dataset({"u": (dims, exact), "p": (dims, exact)}, {"t": t, "x": x})
    sample = GridSample.of(whole, Flow(), most)
    assert len(sample.points) == most
    assert sample.points.min(0) == pytest.approx([0, 0], abs=2e-3)
    assert sample.points.max(0) == pytest.approx([1, 1], abs=2e-3)
    places = [np.searchsorted(axis, sample.points[:, k]) for k, axis in enumerate((t, x))]
    prediction = (exact + wrong)[tuple(places)]
    expected = np.linalg.norm(wrong) / np.linalg.norm(exact)
    found = sample.errors({"u": prediction}, Flow())
    assert found["u"] == pytest.approx(expected, rel=0.02)  # what is promised
