"""Refinement on made-up solvers whose error is known."""

import numpy as np
import pytest

from dpinn.errors import DpinnWarning
from dpinn.reference.refine import Resolution, refine, relative_l2

TRUTH = np.ones((2, 5))


def fourth_order(space: float, time: float):
    """Give a solver with the relative error ``space 2^-cells + time steps^-4``."""
    return lambda at: TRUTH * (1 + space * 2.0**-at.cells + time * at.steps**-4.0)


@pytest.mark.parametrize(("space", "time"), [(1, 1), (-1, 1), (1e-3, 1e3), (1e3, 1e-3)])
def test_estimate_is_below_the_target_and_covers_the_error(space, time):
    solve = fourth_order(space, time)
    refined = refine(solve, Resolution(4, 2), target=1e-8, doublings=10)
    error = relative_l2(refined.values, TRUTH)
    assert error <= refined.error_estimate <= 1e-8
    np.testing.assert_array_equal(refined.values, solve(refined.resolution))


def test_only_the_worse_of_space_and_time_is_refined_on():
    refined = refine(fourth_order(0, 1), Resolution(4, 1), target=1e-8, doublings=12)
    assert refined.resolution.cells == 8
    assert refined.resolution.steps > 64


def test_target_out_of_reach_warns_and_states_what_was_reached():
    with pytest.warns(DpinnWarning, match=r"reached an error estimate of 5\.8e-02 instead"):
        refined = refine(fourth_order(0, 1), Resolution(4, 1), target=1e-12, doublings=2)
    assert refined.resolution == Resolution(8, 4)
    assert refined.error_estimate == pytest.approx(1 / 16 - 1 / 256, rel=1e-2)


def test_relative_l2_is_the_largest_over_the_fields():
    truth = np.stack([np.full((3, 3), 2.0), np.full((3, 3), 100.0)])
    assert relative_l2(truth + 1, truth) == pytest.approx(0.5)
    assert relative_l2(np.ones((1, 4)), np.zeros((1, 4))) == 2
