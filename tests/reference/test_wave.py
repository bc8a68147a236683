"""The closed form of the wave equation."""

import mpmath
import numpy as np
import pytest

from dpinn.errors import DpinnError
from dpinn.reference import WaveReference

# Central second difference of eighth order.
SECOND_DIFFERENCE = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72])
SECOND_DIFFERENCE = np.concatenate([SECOND_DIFFERENCE, SECOND_DIFFERENCE[3::-1]])


def dalembert(t: float, x: float, speed: float) -> mpmath.mpf:
    """Half the start running left, half running right: no separation of variables."""

    def start(y):
        return mpmath.sin(mpmath.pi * y) + mpmath.sin(4 * mpmath.pi * y) / 2

    t, x, speed = mpmath.mpf(t), mpmath.mpf(x), mpmath.mpf(speed)
    return (start(x - speed * t) + start(x + speed * t)) / 2


@pytest.mark.parametrize("speed", [0.5, 2.0, 7.0])
def test_closed_form_satisfies_the_wave_equation(speed):
    values = WaveReference(speed).values
    t, x = np.meshgrid(np.linspace(0.1, 0.9, 9), np.linspace(0.1, 0.9, 9))
    h = 5e-3 / max(speed, 1)
    offsets = h * np.arange(-4, 5)
    u_tt = sum(w * values(t + o, x) for w, o in zip(SECOND_DIFFERENCE, offsets, strict=True))
    u_xx = sum(w * values(t, x + o) for w, o in zip(SECOND_DIFFERENCE, offsets, strict=True))
    assert np.abs(u_tt - speed**2 * u_xx).max() < 1e-8 * np.abs(u_tt).max()


def test_start_is_the_stated_one_and_at_rest():
    values = WaveReference().values
    x = np.linspace(0, 1, 33)
    np.testing.assert_array_equal(values(0.0, x), np.sin(np.pi * x) + 0.5 * np.sin(4 * np.pi * x))
    np.testing.assert_array_equal(values(-1e-3, x), values(1e-3, x))


def test_stated_error_covers_dalemberts_solution_in_forty_digits():
    solution = WaveReference().solve(progress=False)
    part = solution.u[::20, ::37]
    with mpmath.workdps(40):
        truth = [[dalembert(t, x, 2.0) for x in part.x.values] for t in part.t.values]
        error = np.array(
            [
                [float(u - v) for u, v in zip(computed, true, strict=True)]
                for computed, true in zip(part.values, truth, strict=True)
            ]
        )
    relative = np.linalg.norm(error) / np.linalg.norm(part)
    assert 0 < relative < solution.error_estimate < 1e-14


@pytest.mark.parametrize(("quick", "shape"), [(False, (201, 513)), (True, (51, 129))])
def test_grid_holds_both_endpoints_and_fixed_ends_are_zero(quick, shape):
    solution = WaveReference().solve(quick, progress=False)
    assert solution.u.dims == ("t", "x")
    assert solution.u.shape == shape
    assert (solution.t[0], solution.t[-1], solution.x[0], solution.x[-1]) == (0, 1, 0, 1)
    assert not solution.u[:, [0, -1]].any()


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_speed_that_is_not_positive_is_refused(speed):
    with pytest.raises(DpinnError, match="speed of the reference wave is"):
        WaveReference(speed)
