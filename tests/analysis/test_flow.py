"""Flow statistics: single modes, Parseval, Taylor–Green vortices in two and three dimensions."""

import numpy as np
import pytest

from dpinn.analysis.flow import (
    energy,
    energy_and_enstrophy_by_quadrature,
    energy_spectrum,
    flow_statistics,
    one_period,
    squared_gradients,
)
from dpinn.reference.taylor_green import TaylorGreenReference


def grid(*cells: int, ends: bool = False) -> list[np.ndarray]:
    axes = [np.linspace(0, 2 * np.pi, n + ends, endpoint=ends) for n in cells]
    return np.meshgrid(*axes, indexing="ij")


@pytest.mark.parametrize(
    ("waves", "shell"), [((0, 0), 0), ((0, 3), 3), ((5, 0), 5), ((3, 4), 5), ((1, 1), 1)], ids=str
)
def test_a_single_mode_lies_in_its_shell(waves, shell):
    x, y = grid(16, 20)
    wave = np.cos(waves[0] * x + waves[1] * y)
    wavenumbers, spectrum = energy_spectrum(np.stack([0.6 * wave, 0.8 * wave]), (2 * np.pi,) * 2)
    assert wavenumbers[shell] == pytest.approx(shell)
    want = np.zeros_like(spectrum)
    want[shell] = 0.5 if shell == 0 else 0.25
    np.testing.assert_allclose(spectrum, want, atol=1e-15)


def test_shells_are_multiples_of_the_longest_wave():
    x, _ = grid(16, 16)
    wavenumbers, spectrum = energy_spectrum(np.stack([np.sin(2 * x), 0 * x]), (1.0, 3.0))
    assert wavenumbers[1] == pytest.approx(2 * np.pi / 3)
    assert spectrum.argmax() == 6


@pytest.mark.parametrize("cells", [(8, 8), (7, 10), (9, 5), (6, 5, 8)], ids=str)
def test_spectrum_sums_up_to_the_energy(cells):
    velocity = np.random.default_rng(0).standard_normal((len(cells), *cells))
    lengths = (1.0, 2.0, 0.5)[: len(cells)]
    _, spectrum = energy_spectrum(velocity, lengths)
    assert spectrum.sum() == pytest.approx(energy(velocity), rel=1e-14)
    assert energy(velocity) == pytest.approx(
        sum(np.mean(component**2) for component in velocity) / 2, rel=1e-14
    )


def test_statistics_of_the_two_dimensional_vortices():
    viscosity = 0.1
    solution = TaylorGreenReference(viscosity).solve(quick=True, progress=False)
    t = solution.t.values
    statistics = flow_statistics(
        t, [solution.u.values, solution.v.values], (2 * np.pi,) * 2, viscosity, spectrum_index=2
    )
    decay = np.exp(-4 * viscosity * t)
    np.testing.assert_allclose(statistics.energy, decay / 4, rtol=1e-13)
    np.testing.assert_allclose(statistics.enstrophy, decay / 2, rtol=1e-12)
    np.testing.assert_allclose(statistics.dissipation, viscosity * decay, rtol=1e-12)
    assert statistics.spectrum_time == t[2]
    # The wave vectors (1, 1) are sqrt 2 long, nearer to 1 than to 2.
    assert statistics.spectrum[1] == pytest.approx(statistics.energy[2], rel=1e-12)


def test_statistics_of_the_three_dimensional_vortices():
    x, y, z = grid(8, 8, 12, ends=True)
    velocity = [np.sin(x) * np.cos(y) * np.cos(z), -np.cos(x) * np.sin(y) * np.cos(z), 0 * x]
    statistics = flow_statistics(
        np.zeros(1), [component[None] for component in velocity], (2 * np.pi,) * 3, 0.5
    )
    assert statistics.energy == pytest.approx(1 / 8)
    assert statistics.enstrophy == pytest.approx(3 / 8)
    assert statistics.dissipation == pytest.approx(2 * 0.5 * 3 / 8)


def test_dissipation_is_viscosity_times_squared_vorticity_only_without_divergence():
    x, y = grid(17, 16)
    swirl = np.stack([np.sin(3 * y) + np.cos(x) * np.sin(y), np.cos(2 * x) - np.sin(x) * np.cos(y)])
    squared_vorticity, strain = squared_gradients(swirl, (2 * np.pi,) * 2)
    assert 2 * strain == pytest.approx(squared_vorticity, rel=1e-13)
    squared_vorticity, strain = squared_gradients(np.stack([np.sin(x), 0 * x]), (2 * np.pi,) * 2)
    assert squared_vorticity == pytest.approx(0, abs=1e-25)
    assert strain == pytest.approx(0.5)


def test_one_period_drops_the_repeated_points_of_space_only():
    assert one_period(np.zeros((2, 5, 9, 7)), 2).shape == (2, 5, 8, 6)


def test_quadrature_between_walls():
    """Poiseuille flow, u = y (2 - y) between walls at 0 and 2, at one and at half its strength."""
    x, y = np.linspace(0, 1, 5), np.linspace(0, 2, 401)
    strength = np.array([1.0, 0.5])[:, None, None]
    u = np.broadcast_to(y * (2 - y), (1, 5, 401)) * strength
    vorticity = np.broadcast_to(2 * y - 2, (1, 5, 401)) * strength
    energies, enstrophies = energy_and_enstrophy_by_quadrature([u, 0 * u], vorticity, [x, y])
    np.testing.assert_allclose(energies, [4 / 15, 1 / 15], rtol=1e-5)
    np.testing.assert_allclose(enstrophies, [2 / 3, 1 / 6], rtol=1e-4)
