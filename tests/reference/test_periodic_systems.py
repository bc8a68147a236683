"""The references made by `FourierReference`: what is integrated, and honest estimates."""

import numpy as np
import pytest

from dpinn.reference.fourier import FourierGrid
from dpinn.reference.ginzburg_landau import GinzburgLandauReference
from dpinn.reference.gray_scott import GrayScottReference
from dpinn.reference.kdv import KdVReference
from dpinn.reference.kuramoto_sivashinsky import KuramotoSivashinskyReference
from dpinn.reference.refine import Resolution, relative_l2
from dpinn.reference.spectral import FourierReference

SYSTEMS = [
    KdVReference(),
    KuramotoSivashinskyReference(horizon=0.5),
    GrayScottReference(horizon=0.04),
    GinzburgLandauReference(horizon=0.15),
]


@pytest.fixture(params=SYSTEMS, ids=lambda reference: reference.name)
def reference(request) -> FourierReference:
    return request.param


def test_the_start_that_is_integrated_is_the_one_that_is_stated(reference):
    cells = (128,) * len(reference.lengths)
    grid = FourierGrid(reference.lower, reference.lengths, cells)
    stated = reference.start(np.ix_(*(axis.ravel() for axis in grid.points)))
    integrated = grid.to_values(reference.start_modes(grid))
    inner = (slice(None), *(slice(8, -8) for _ in cells))
    assert abs(integrated - stated)[inner].max() < 3e-6  # Gray-Scott's seam has a jump of 1e-4


def test_the_estimate_of_the_quick_solution_covers_its_difference_to_a_finer_one(reference):
    quick = reference.solve(quick=True, progress=False)
    scale = reference.scale(quick=True)
    finer = Resolution(3 * scale.start.cells, 6 * scale.start.steps)
    exact = reference.solve_at(finer, quick.t.values, scale.points)
    error = relative_l2(np.stack([quick[f].values for f in reference.fields]), exact)
    assert 0 < error < quick.error_estimate


def test_the_error_falls_exponentially_in_space(reference):
    scale = reference.scale(quick=True)
    t = np.linspace(0, reference.horizon, scale.times)
    coarse = (scale.points - 1) // 2
    points = coarse + 1
    exact, *others = (
        reference.solve_at(Resolution(cells, 2 * scale.start.steps), t, points)
        for cells in (8 * coarse, 4 * coarse, 2 * coarse, coarse)
    )
    fine, middle, rough = (relative_l2(values, exact) for values in others)
    # Twice the cells bring more than twice the digits' worth of any fixed order seen before.
    assert np.log(middle / rough) < -2
    assert fine < 1e-2 * middle or fine < 1e-9
