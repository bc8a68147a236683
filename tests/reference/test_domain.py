"""Axes of reference files, stored in float32, on the domain of a problem."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dpinn import Box, Problem
from dpinn.analysis import times_inside
from dpinn.report import reference_of


def problem_of(path: Path, **intervals: tuple[float, float]) -> Problem:
    class Heat(Problem):
        domain = Box(**intervals)
        fields = ("u",)

        def residual(self, u):
            return {"pde": u.t - u.xx}

        def reference(self):
            return path

    return Heat()


def written(path: Path, t: np.ndarray, x: np.ndarray) -> Path:
    values = np.zeros((len(t), len(x)), dtype=np.float32)
    xr.Dataset({"u": (("t", "x"), values)}, {"t": t, "x": x}).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize("stored", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("t_end", "x_end"),
    [(0.3, 0.7), (0.1, 2 * np.pi), (1e-7, 1e5 / 3)],
    ids=["decimal", "π", "tiny"],
)
def test_every_point_of_axes_that_float32_has_rounded_is_in_the_domain(
    tmp_path: Path, stored: type, t_end: float, x_end: float
) -> None:
    t, x = np.linspace(0, t_end, 31), np.linspace(-x_end, x_end, 71)
    rounded = (axis.astype(np.float32).astype(stored) for axis in (t, x))
    path = written(tmp_path / "ref.nc", *rounded)
    found = reference_of(problem_of(path, t=(0, t_end), x=(-x_end, x_end)))
    np.testing.assert_allclose(found.t, t, rtol=1e-14)
    np.testing.assert_allclose(found.x, x, rtol=1e-14, atol=1e-14 * x_end)


def test_times_in_float32_lie_in_the_window_that_ends_with_them(tmp_path: Path) -> None:
    path = written(
        tmp_path / "ref.nc", np.linspace(0, 0.3, 31).astype(np.float32), np.linspace(0, 1, 5)
    )
    problem = problem_of(path, t=(0, 0.3), x=(0, 1))
    times = reference_of(problem).t.values
    seams = np.linspace(0, 0.3, 4)
    counts = [times_inside(times, (a, b), problem).sum() for a, b in itertools.pairwise(seams)]
    assert counts == [11, 10, 10]


def test_uneven_points_in_float32_stay_where_they_are(tmp_path: Path) -> None:
    x = np.cos(np.linspace(np.pi, 0, 9))
    path = written(tmp_path / "ref.nc", np.array([0.0, 0.1, 0.7]), x.astype(np.float32))
    found = reference_of(problem_of(path, t=(0, 1), x=(-1, 1)))
    np.testing.assert_allclose(found.x, x, atol=1e-7)
    assert not np.allclose(np.diff(found.x), np.diff(found.x)[0])


def test_points_beyond_the_domain_by_more_than_rounding_are_left_out(tmp_path: Path) -> None:
    t = np.array([0.0, 0.1, 0.3, 0.30001], dtype=np.float32)
    path = written(tmp_path / "ref.nc", t, np.linspace(0, 1, 5))
    found = reference_of(problem_of(path, t=(0, 0.3), x=(0, 1)))
    np.testing.assert_array_equal(found.t, [0.0, 0.1, 0.3])


def test_an_axis_in_float64_is_untouched(tmp_path: Path) -> None:
    t = np.array([0.0, 0.1, 0.3 - 1e-12])
    path = written(tmp_path / "ref.nc", t, np.linspace(0, 1, 5))
    found = reference_of(problem_of(path, t=(0, 0.3), x=(0, 1)))
    np.testing.assert_array_equal(found.t, t)
