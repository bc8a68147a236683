"""Kolmogorov flow: its start, and an estimate that covers the error."""

import numpy as np
import pytest

from dpinn.errors import DpinnError
from dpinn.reference import kolmogorov
from dpinn.reference.kolmogorov import (
    START_CELLS,
    KolmogorovReference,
    KolmogorovStart,
    start_modes,
)
from dpinn.reference.refine import Resolution, relative_l2
from dpinn.reference.store import load_reference, reference_path


@pytest.fixture
def short_spin_up(monkeypatch, tmp_path):
    """Starts of another, hasty, definition, in a cache of their own."""
    monkeypatch.setenv("DPINN_CACHE", str(tmp_path))
    monkeypatch.setattr(kolmogorov, "SPIN_UP_TIME", 0.1)
    monkeypatch.setattr(kolmogorov, "SPIN_UP_STEPS", 50)


@pytest.fixture(scope="module")
def start():
    return KolmogorovStart().solve(progress=False)


def test_start_is_what_the_benchmark_is_defined_by(start):
    """Golden values: on another machine they may differ by roundoff times a hundred or so."""
    u, v = start.u.values, start.v.values
    assert u.shape == v.shape == (START_CELLS + 1, START_CELLS + 1)
    golden = [
        0.5871654553, -0.3838862579, 0.2655660034, -0.0305689087, -0.8163028896, 2.6422907310
    ]  # fmt: skip
    got = [u[0, 0], u[10, 40], u[50, 20], v[0, 0], v[10, 40], v[50, 20]]
    np.testing.assert_allclose(got, golden, rtol=0, atol=1e-7)


def test_start_is_free_of_divergence_and_holds_its_whole_spectrum(start):
    modes = start_modes(start)
    waves = np.fft.fftfreq(START_CELLS, 1 / START_CELLS)[:, None], np.arange(START_CELLS // 2 + 1)
    divergence = waves[0] * modes[0] + waves[1] * modes[1]
    assert np.abs(divergence).max() < 1e-13 * np.abs(waves[0] * modes[0]).max()
    length = np.hypot(*waves)
    tail = np.abs(modes[:, length > 28]).max()
    assert np.abs(modes[:, length > 32]).max() < 1e-13 * np.abs(modes).max() < tail
    assert tail < 1e-4 * np.abs(modes).max()
    assert np.abs(modes[:, 0, 0]).max() < 1e-12 * np.abs(modes).max()


def test_start_is_turbulent(start):
    """More than the jets that the force drives, which are alike along x."""
    u, v = (field.values[:-1, :-1] for field in (start.u, start.v))
    assert 1 < np.sqrt(np.mean(u**2 + v**2)) < 2
    assert np.mean(v**2) > 0.1 * np.mean(u**2)
    assert np.mean((u - u.mean(0)) ** 2) > 0.1 * np.mean(u**2)


def test_start_follows_from_its_seed(short_spin_up):
    first, again, other = (KolmogorovStart(seed=k).solve(progress=False) for k in (3, 3, 4))
    np.testing.assert_allclose(first.u, again.u, rtol=0, atol=1e-10)
    assert np.linalg.norm(first.u - other.u) > 0.5 * np.linalg.norm(first.u)


def test_solution_is_cached_under_the_definition_of_its_start(monkeypatch):
    before = reference_path(KolmogorovReference())
    monkeypatch.setattr(KolmogorovStart, "version", 999)
    assert reference_path(KolmogorovReference()) != before


def test_quick_estimate_covers_the_difference_to_a_finer_run(short_spin_up):
    reference = KolmogorovReference(viscosity=2e-3, horizon=0.1)
    quick = reference.solve(quick=True, progress=False)
    finer = reference.solve_at(Resolution(240, 15), quick.t.values, quick.sizes["x"])
    values = np.stack([quick[name].values for name in ("u", "v", "p", "vorticity")])
    assert relative_l2(values, finer) < quick.error_estimate < 2e-1


def test_solution_starts_from_the_start_and_has_a_pressure_of_zero_mean(short_spin_up):
    reference = KolmogorovReference(viscosity=1e-2, horizon=0.02)
    points = START_CELLS + 1
    u, v, p, vorticity = reference.solve_at(
        Resolution(2 * START_CELLS, 10), np.linspace(0, 0.02, 3), points
    )
    start = load_reference(reference.start)
    np.testing.assert_allclose(u[0], start.u, rtol=0, atol=1e-13)
    np.testing.assert_allclose(v[0], start.v, rtol=0, atol=1e-13)
    inner = np.s_[:, :-1, :-1]
    np.testing.assert_allclose(p[inner].mean((1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(u[inner].mean((1, 2)), 0, atol=1e-12)
    assert np.abs(vorticity[2] - vorticity[0]).max() > 1


def test_parameters_that_are_not_positive_are_refused():
    with pytest.raises(DpinnError, match="viscosity of the reference kolmogorov is -1"):
        KolmogorovReference(viscosity=-1)
    with pytest.raises(DpinnError, match="horizon of the reference kolmogorov is 0"):
        KolmogorovReference(horizon=0)
