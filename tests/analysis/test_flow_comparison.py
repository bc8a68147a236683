"""Statistics of a predicted flow beside those of its reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from dpinn import Box, Problem, quantity
from dpinn.analysis import FlowComparison, compare_flows
from dpinn.analysis.flow_comparison import FlowHistory
from dpinn.problems.gray_scott import GrayScott
from dpinn.problems.taylor_green import TaylorGreen
from dpinn.reference.taylor_green import TaylorGreenReference


class Channel(Problem):
    """Periodic in x, walls in y; no viscosity is known."""

    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0), y=(0.0, 2.0))
    fields = ("u", "v")
    periodic = ("x",)

    def residual(self, u, v):
        return {"continuity": u.x + v.y}

    @quantity
    def vorticity(self, u, v):
        return v.x - u.y


@pytest.fixture(scope="module")
def vortices():
    return TaylorGreenReference().solve(quick=True)


def values_of(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(name): dataset[name].values for name in dataset.data_vars}


def axes(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(name): dataset[name].values for name in dataset.dims}


def test_decaying_vortices_have_the_statistics_of_their_closed_form(vortices):
    problem = TaylorGreen()
    faster = {n: 1.1 * v for n, v in values_of(vortices).items()}
    flow = compare_flows(problem, axes(vortices), faster, vortices)
    decay = np.exp(-4 * problem.viscosity * vortices.t.values)
    # <u² + v²> / 2 = 1/4, <ω²> / 2 = 1/2, and 2ν<S:S> = ν<ω²> without walls.
    expected = {"energy": 0.25 * decay, "enstrophy": 0.5 * decay, "dissipation": 0.05 * decay}
    assert set(flow.reference.histories) == set(expected)
    for name, history in expected.items():
        np.testing.assert_allclose(flow.reference.histories[name], history, rtol=1e-12)
        np.testing.assert_allclose(flow.prediction.histories[name], 1.21 * history, rtol=1e-12)
    # All of the energy is at |k| = √2, in the shell around 1.
    assert flow.reference.spectrum[1] == pytest.approx(0.25 * decay[-1])
    facts = flow.facts()
    assert facts.pop("resolved_wavenumber") == 1.0
    assert facts == {f"{name}_error": pytest.approx(0.21) for name in expected}


def test_a_flow_between_walls_has_its_means_by_quadrature():
    grid = {
        "t": np.linspace(0, 1, 3),
        "x": np.linspace(0, 1, 17),
        # Not even: finer at the walls.
        "y": 1 - np.cos(np.linspace(0, np.pi, 401)),
    }
    t, x, y = np.meshgrid(*grid.values(), indexing="ij")
    values = {"u": (1 + t) * y * (2 - y), "v": 0 * x, "vorticity": -2 * (1 + t) * (1 - y)}
    flow = compare_flows(Channel(), grid, values, None)
    growth = (1 + grid["t"]) ** 2
    assert set(flow.prediction.histories) == {"energy", "enstrophy"}
    # ∫ (2y - y²)² dy = 16/15 and ∫ 4 (1 - y)² dy = 8/3, over the height of 2, halved.
    np.testing.assert_allclose(flow.prediction.histories["energy"], growth * 4 / 15, rtol=1e-4)
    np.testing.assert_allclose(flow.prediction.histories["enstrophy"], growth * 2 / 3, rtol=1e-4)
    assert flow.reference is None
    assert flow.facts() == {}


def test_without_a_viscosity_there_is_no_dissipation(vortices):
    problem = TaylorGreen()
    del problem.viscosity
    flow = compare_flows(problem, axes(vortices), values_of(vortices), vortices)
    assert set(flow.prediction.histories) == {"energy", "enstrophy"}
    assert set(flow.facts()) == {"energy_error", "enstrophy_error", "resolved_wavenumber"}


def test_concentrations_named_u_and_v_are_no_flow(vortices):
    values = {n: vortices[n].values for n in ("u", "v")}
    grid = axes(vortices) | {c: np.linspace(-1, 1, 33) for c in ("x", "y")}
    assert compare_flows(GrayScott(), grid, values, None) is None


def test_a_periodic_grid_without_its_last_point_has_no_statistics(vortices):
    open_grid = vortices.isel(x=slice(-1))
    assert compare_flows(TaylorGreen(), axes(open_grid), values_of(open_grid), None) is None


def test_a_periodic_grid_that_is_not_even_has_no_statistics(vortices):
    uneven = axes(vortices)
    uneven["x"] = uneven["x"] ** 2 / (2 * np.pi)
    assert compare_flows(TaylorGreen(), uneven, values_of(vortices), None) is None


def test_a_reference_without_vorticity_leaves_the_prediction_alone(vortices):
    lacking = vortices.drop_vars("vorticity")
    flow = compare_flows(TaylorGreen(), axes(vortices), values_of(vortices), lacking)
    assert flow.reference is None


@pytest.mark.parametrize(
    ("ours", "reach"),
    [
        ([9.0, 4.0, 2.0, 1.0], 3.0),
        ([9.0, 4.0, 2.0, 2.1], 2.0),
        ([9.0, 1.9, 2.0, 1.0], 0.0),
        ([9.0, 4.0, math.nan, 1.0], 1.0),
    ],
)
def test_the_spectrum_is_resolved_up_to_the_first_shell_that_is_off_by_a_factor_of_two(ours, reach):
    def history(spectrum):
        return FlowHistory({}, np.arange(5.0), np.array(spectrum))

    # Neither the mean flow nor the last shell has energy worth the name in the reference.
    exact = history([0.0, 4.0, 2.0, 1.0, 1e-20])
    flow = FlowComparison(np.zeros(1), history([*ours, 1e-3]), exact)
    assert flow.facts() == {"resolved_wavenumber": reach}
