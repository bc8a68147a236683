"""Periodic flow: closed forms, orders of convergence, conservation."""

import numpy as np
import pytest

from dpinn.reference.navier_stokes import PeriodicFlow, regrid
from dpinn.reference.refine import relative_l2
from dpinn.reference.taylor_green import TaylorGreenReference

SQUARE = (2 * np.pi, 2 * np.pi)


def random_vorticity(cells: int, highest: int, seed: int = 0) -> np.ndarray:
    """Modes of a random field with wavenumbers up to ``highest`` along each axis."""
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((2 * highest + 2,) * 2))
    noise[0, 0] = 0
    return 10 * regrid(noise, (cells, cells))


def final(flow: PeriodicFlow, vorticity: np.ndarray, time: float, steps: int) -> np.ndarray:
    *_, modes = flow.history(vorticity, np.array([0.0, time]), steps)
    return modes


@pytest.mark.parametrize("mean", [(0.0, 0.0), (0.3, -0.2)], ids=["at rest", "moving"])
def test_taylor_green_vortices_decay_in_place_or_move_with_the_mean_flow(mean):
    flow = PeriodicFlow((16, 32), SQUARE, 0.1, mean_velocity=mean)
    exact = TaylorGreenReference(0.1).values
    start = flow.grid.to_modes(exact(np.array(0.0), *flow.grid.points)["vorticity"])
    got = flow.sample(final(flow, start, 1.0, 200), (17, 33))
    x, y = np.linspace(0, 2 * np.pi, 17)[:, None], np.linspace(0, 2 * np.pi, 33)
    want = np.stack(list(exact(np.array(1.0), x - mean[0], y - mean[1]).values()))
    want[:2] += np.reshape(mean, (2, 1, 1))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10 if any(mean) else 2e-14)


def test_force_from_rest_drives_the_laminar_kolmogorov_flow():
    viscosity, force, cells, t = 0.1, 2.0, 16, 0.7
    y = np.arange(cells) / cells
    sine = np.broadcast_to(np.sin(4 * np.pi * y), (cells, cells))
    flow = PeriodicFlow((cells, cells), (1.0, 1.0), viscosity, np.stack([force * sine, 0 * sine]))
    u, v, p, vorticity = flow.sample(
        final(flow, np.zeros((cells, cells // 2 + 1), complex), t, 5), (cells + 1,) * 2
    )
    rate = viscosity * (4 * np.pi) ** 2
    profile = force / rate * (1 - np.exp(-rate * t))
    np.testing.assert_allclose(u[:-1, :-1], profile * sine, atol=1e-14)
    np.testing.assert_allclose(
        vorticity[3, :-1], -4 * np.pi * profile * np.cos(4 * np.pi * y), atol=1e-13
    )
    assert max(np.abs(v).max(), np.abs(p).max()) < 1e-14


def test_pressure_alone_answers_the_gradient_of_a_potential():
    cells = 16
    x, y = np.meshgrid(*[2 * np.pi * np.arange(cells) / cells] * 2, indexing="ij")
    potential = np.sin(x) * np.cos(2 * y)
    gradient = np.stack([np.cos(x) * np.cos(2 * y), -2 * np.sin(x) * np.sin(2 * y)])
    flow = PeriodicFlow((cells, cells), SQUARE, 0.1, gradient)
    u, v, p, _ = flow.sample(
        final(flow, np.zeros((cells, cells // 2 + 1), complex), 1.0, 5), (cells + 1,) * 2
    )
    np.testing.assert_allclose(p[:-1, :-1], potential, atol=1e-14)
    assert max(np.abs(u).max(), np.abs(v).max()) < 1e-14


def test_force_that_has_a_mean_is_refused():
    with pytest.raises(ValueError, match="force has a mean"):
        PeriodicFlow((8, 8), SQUARE, 0.1, np.ones((2, 8, 8)))


def test_time_error_falls_at_fourth_order():
    flow = PeriodicFlow((48, 48), SQUARE, 0.02)
    start = random_vorticity(48, 5)
    truth = final(flow, start, 0.5, 640)
    errors = [relative_l2(final(flow, start, 0.5, n)[None], truth[None]) for n in (40, 80, 160)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert ((orders > 3.7) & (orders < 4.4)).all(), (errors, orders)


def test_space_error_falls_faster_than_any_power():
    def solved(cells: int) -> np.ndarray:
        flow = PeriodicFlow((cells, cells), SQUARE, 0.2)
        return flow.sample(final(flow, random_vorticity(cells, 5), 0.5, 200), (17, 17))

    truth = solved(128)
    errors = [relative_l2(solved(cells), truth) for cells in (16, 32, 64)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders[1] > orders[0] + 2 > 3, (errors, orders)
    assert errors[-1] < 1e-5


def test_energy_changes_by_the_work_of_the_force_less_the_dissipation():
    cells, viscosity, interval = 48, 0.02, 0.005
    y = 2 * np.pi * np.arange(cells) / cells
    force = np.stack([np.broadcast_to(np.sin(2 * y), (cells, cells)), np.zeros((cells, cells))])
    flow = PeriodicFlow((cells, cells), SQUARE, viscosity, force)
    times = interval * np.arange(9)
    history = list(flow.history(random_vorticity(cells, 5), times, 2))
    energies = [np.sum(flow.velocity(modes) ** 2) / 2 / cells**2 for modes in history]
    weights = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
    middle = history[4]
    work = np.sum(force * flow.velocity(middle)) / cells**2
    dissipation = viscosity * np.mean(flow.grid.to_values(middle) ** 2)
    assert min(abs(work), dissipation) > 1e-3
    assert weights @ energies / interval == pytest.approx(work - dissipation, abs=1e-7)


def test_advection_is_that_of_the_vorticity_without_aliasing():
    """A grid twice as fine holds the whole product u·∇ω."""
    coarse, fine = (PeriodicFlow((cells, cells), SQUARE, 0.1) for cells in (24, 48))
    vorticity = random_vorticity(24, 7)
    on_fine = regrid(vorticity, (48, 48))
    slopes = fine.grid.to_values(np.stack([fine.x * on_fine, fine.y * on_fine]))
    product = fine.grid.to_modes(-np.sum(fine.velocity(on_fine) * slopes, axis=0))
    want = coarse.grid.dealias(regrid(product, (24, 24)))
    np.testing.assert_allclose(coarse.nonlinear(vorticity), want, atol=1e-12 * np.abs(want).max())


def test_velocity_is_free_of_divergence_and_has_the_vorticity():
    flow = PeriodicFlow((32, 24), (1.0, 2.0), 0.1)
    vorticity = regrid(random_vorticity(24, 7), (32, 24))
    velocity = flow.grid.to_modes(flow.velocity(vorticity))
    divergence = flow.x * velocity[0] + flow.y * velocity[1]
    assert np.abs(divergence).max() < 1e-13 * np.abs(vorticity).max()
    np.testing.assert_allclose(
        flow.vorticity_of(velocity), vorticity, atol=1e-13 * np.abs(vorticity).max()
    )


def test_regrid_keeps_the_series_and_drops_what_a_grid_cannot_hold():
    def values(cells: int, high: float) -> np.ndarray:
        x, y = np.meshgrid(*[2 * np.pi * np.arange(cells) / cells] * 2, indexing="ij")
        return np.cos(2 * x - 3 * y) + np.sin(3 * x + y) + 0.5 + high * np.cos(9 * x)

    coarse, fine = (np.fft.rfft2(values(cells, high)) for cells, high in ((8, 0), (24, 1)))
    np.testing.assert_allclose(regrid(fine, (8, 8)), coarse, atol=1e-13)
    np.testing.assert_allclose(regrid(coarse, (24, 24)), np.fft.rfft2(values(24, 0)), atol=1e-12)
