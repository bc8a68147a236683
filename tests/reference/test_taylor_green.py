"""The Taylor–Green vortex: what holds of it whatever its formulas say."""

import numpy as np
import pytest

from dpinn.errors import DpinnError
from dpinn.reference.taylor_green import TaylorGreenReference


def test_energy_decays_at_four_viscosities_and_pressure_has_zero_mean():
    solution = TaylorGreenReference(0.1).solve(quick=True, progress=False)
    inner = solution.isel(x=slice(-1), y=slice(-1))
    energy = (inner.u**2 + inner.v**2).mean(("x", "y")) / 2
    np.testing.assert_allclose(energy, np.exp(-0.4 * solution.t) / 4, rtol=1e-13)
    np.testing.assert_allclose(inner.p.mean(("x", "y")), 0, atol=1e-15)


@pytest.mark.parametrize("quick", [True, False])
def test_solution_is_periodic_over_the_whole_box(quick):
    solution = TaylorGreenReference().solve(quick=quick, progress=False)
    assert solution.u.dims == ("t", "x", "y")
    for values in solution.data_vars.values():
        np.testing.assert_allclose(values[:, 0], values[:, -1], atol=1e-14)
        np.testing.assert_allclose(values[:, :, 0], values[:, :, -1], atol=1e-14)
    assert solution.error_estimate < 1e-14


def test_vorticity_is_the_curl():
    h, t, x, y = 1e-3, 0.3, np.linspace(0, 6, 7)[:, None], np.linspace(0, 6, 9)
    values = TaylorGreenReference(0.1).values
    v_x = (values(t, x + h, y)["v"] - values(t, x - h, y)["v"]) / (2 * h)
    u_y = (values(t, x, y + h)["u"] - values(t, x, y - h)["u"]) / (2 * h)
    np.testing.assert_allclose(values(t, x, y)["vorticity"], v_x - u_y, atol=1e-6)


def test_viscosity_that_is_not_positive_is_refused():
    with pytest.raises(DpinnError, match="viscosity of the reference taylor_green is 0"):
        TaylorGreenReference(viscosity=0)
