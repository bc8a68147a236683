"""Periodic grids: derivatives, sampling, aliasing."""

import numpy as np
import pytest

from dpinn.reference.fourier import FourierGrid


@pytest.fixture
def plane() -> FourierGrid:
    return FourierGrid(lower=(0.0, -1.0), lengths=(2 * np.pi, 2.0), cells=(16, 24))


def test_modes_and_values_are_each_others_inverse_for_several_fields(plane):
    values = np.random.default_rng(0).standard_normal((3, 16, 24))
    np.testing.assert_allclose(plane.to_values(plane.to_modes(values)), values, atol=1e-14)


def test_symbols_are_the_derivatives_of_trigonometric_functions(plane):
    x, y = plane.points
    modes = plane.to_modes(np.sin(3 * x) * np.cos(2 * np.pi * y))
    cases = {
        "x": (plane.derivative(0), 3 * np.cos(3 * x) * np.cos(2 * np.pi * y)),
        "y": (plane.derivative(1), -2 * np.pi * np.sin(3 * x) * np.sin(2 * np.pi * y)),
        "xxx": (plane.derivative(0, 3), -27 * np.cos(3 * x) * np.cos(2 * np.pi * y)),
        "laplacian": (
            plane.laplacian,
            -(9 + 4 * np.pi**2) * np.sin(3 * x) * np.cos(2 * np.pi * y),
        ),
    }
    for name, (symbol, truth) in cases.items():
        np.testing.assert_allclose(plane.to_values(symbol * modes), truth, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("axis", [0, 1])
def test_odd_derivative_of_the_highest_mode_is_zero(plane, axis):
    alternating = (-1.0) ** np.arange(plane.cells[axis])
    shape = [1, 1]
    shape[axis] = -1
    modes = plane.to_modes(np.broadcast_to(alternating.reshape(shape), plane.cells))
    assert np.abs(plane.derivative(axis) * modes).max() == 0
    assert np.abs(plane.derivative(axis, 2) * modes).max() > 0


def test_samples_are_the_function_at_coarse_points_with_the_seam_repeated(plane):
    x, y = plane.points
    modes = plane.to_modes(np.stack([np.cos(x) * np.sin(np.pi * y), np.sin(2 * x) + 0 * y]))
    coarse_x, coarse_y = np.linspace(0, 2 * np.pi, 5)[:, None], np.linspace(-1, 1, 13)
    truth = [np.cos(coarse_x) * np.sin(np.pi * coarse_y), np.sin(2 * coarse_x) + 0 * coarse_y]
    np.testing.assert_allclose(plane.sample(modes, (5, 13)), truth, atol=1e-14)
    with pytest.raises(ValueError, match="16 cells cannot be sampled at 6"):
        plane.sample(modes, (6, 13))


@pytest.mark.parametrize(("power", "keep"), [(2, 2 / 3), (3, 1 / 2)])
def test_dealiased_product_is_the_projection_of_the_exact_one(power, keep):
    grid = FourierGrid((0.0, 0.0), (1.0, 1.0), (24, 24), keep=keep)
    fine = FourierGrid((0.0, 0.0), (1.0, 1.0), (96, 96))
    noise = np.random.default_rng(0).standard_normal(grid.cells)
    modes = grid.dealias(grid.to_modes(noise))
    product = grid.dealias(grid.to_modes(grid.to_values(modes) ** power))

    rows = np.r_[0:12, 84:96]  # the same wavenumbers on the fine grid
    fine_modes = np.zeros((96, 49), complex)
    fine_modes[rows, :13] = 16 * modes
    exact = fine.to_modes(fine.to_values(fine_modes) ** power)[rows, :13] / 16
    np.testing.assert_allclose(product, grid.dealias(exact), atol=1e-11)
    aliased = grid.to_modes(grid.to_values(modes) ** power)
    assert np.abs(aliased - exact).max() > 1


def test_odd_numbers_of_cells_and_unequal_axes_are_refused():
    with pytest.raises(ValueError, match="must be even"):
        FourierGrid((0.0,), (1.0,), (15,))
    with pytest.raises(ValueError, match="same number of axes"):
        FourierGrid((0.0,), (1.0,), (16, 16))
