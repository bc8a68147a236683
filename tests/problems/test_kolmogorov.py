"""The Kolmogorov problem vanishes on its spectral solution, and only on it."""

import functools

import numpy as np
import pytest
import torch

from dpinn.jet import Field
from dpinn.problems.kolmogorov import Kolmogorov
from dpinn.reference import kolmogorov as reference_module
from dpinn.reference.kolmogorov import KolmogorovReference
from dpinn.reference.refine import Resolution
from dpinn.reference.store import load_reference

SETTINGS = {"viscosity": 5e-3, "force": 2.0, "horizon": 0.04, "seed": 1}
CELLS = 160
INTERVAL = 5e-4
COORDINATES = ("t", "x", "y")


@pytest.fixture(scope="module", autouse=True)
def short_spin_up(tmp_path_factory):
    """Starts of another, hasty, definition, in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPINN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(reference_module, "SPIN_UP_TIME", 0.3)
        patch.setattr(reference_module, "SPIN_UP_STEPS", 150)
        yield


@functools.cache
def solution() -> dict[str, np.ndarray]:
    """u, v, p and the vorticity from t = 0 to the horizon on one period, ``81 x 160 x 160``."""
    times = np.arange(0, SETTINGS["horizon"] + INTERVAL / 2, INTERVAL)
    values = KolmogorovReference(**SETTINGS).solve_at(Resolution(CELLS, 2), times, CELLS + 1)
    return dict(zip(("u", "v", "p", "vorticity"), values[:, :, :-1, :-1], strict=True))


def along(values: np.ndarray, axis: int, order: int = 1) -> np.ndarray:
    """The spectral derivative of ``n x n`` values of the unit square."""
    symbol = (2j * np.pi * np.fft.fftfreq(CELLS, 1 / CELLS)) ** order
    modes = np.fft.fft(values, axis=axis)
    return np.fft.ifft(np.expand_dims(symbol, 1 - axis) * modes, axis=axis).real


def in_time(values: np.ndarray, at: int, stride: int) -> np.ndarray:
    """The central difference of fourth order."""
    before, after = values[at - 2 * stride : at : stride], values[at + stride :: stride][:2]
    return (before[0] - 8 * before[1] + 8 * after[0] - after[1]) / (12 * stride * INTERVAL)


def fields_at(at: int, stride: int = 1) -> tuple[dict[str, Field], torch.Tensor]:
    """The fields with all derivatives at one stored time, and their points."""
    fields = {}
    for name in ("u", "v", "p"):
        values = solution()[name][at]
        derivatives = {
            (0, 1, 0): along(values, 0),
            (0, 0, 1): along(values, 1),
            "laplacian": along(values, 0, 2) + along(values, 1, 2),
        }
        if at >= 2 * stride:
            derivatives[1, 0, 0] = in_time(solution()[name], at, stride)
        tensors = {k: torch.from_numpy(v.ravel()) for k, v in derivatives.items()}
        fields[name] = Field(name, torch.from_numpy(values.ravel().copy()), COORDINATES, tensors)
    axis = np.arange(CELLS) / CELLS
    grids = np.meshgrid(at * INTERVAL, axis, axis, indexing="ij")
    return fields, torch.from_numpy(np.stack([grid.ravel() for grid in grids], axis=1))


def terms(problem: Kolmogorov, name: str, at: int, stride: int = 1) -> dict[str, torch.Tensor]:
    known = {c.name: c for c in (*problem.conditions, *problem.quantities)}
    return problem.evaluate(known[name], *fields_at(at, stride))


def largest_term(at: int) -> float:
    u = fields_at(at)[0]["u"]
    return float(u.t.abs().max())


MIDDLE = 40


def worst_momentum(problem: Kolmogorov, stride: int = 1) -> float:
    """Relative to the largest term."""
    residuals = terms(problem, "residual", MIDDLE, stride)
    worst = max(residuals[name].abs().max() for name in ("momentum_x", "momentum_y"))
    return float(worst) / largest_term(MIDDLE)


def test_residual_vanishes_on_the_spectral_solution_at_fourth_order_in_time():
    residuals = [worst_momentum(Kolmogorov(**SETTINGS), stride) for stride in (16, 8, 4)]
    orders = np.log2(np.divide(residuals[:-1], residuals[1:]))
    assert residuals[-1] < 5e-5, residuals
    assert (orders > 3.5).all(), (residuals, orders)
    continuity = terms(Kolmogorov(**SETTINGS), "residual", MIDDLE)["continuity"]
    assert continuity.abs().max() < 1e-10


@pytest.mark.parametrize(
    "other", [{"viscosity": 5.5e-3}, {"viscosity": -5e-3}, {"force": 2.2}, {"force": -2.0}], ids=str
)
def test_solution_of_other_parameters_does_not_solve_it(other):
    assert worst_momentum(Kolmogorov(**{**SETTINGS, **other})) > 1e-3


@pytest.mark.parametrize("field", ["u", "v", "p"])
def test_flow_with_one_sign_changed_does_not_solve_it(field):
    problem = Kolmogorov(**SETTINGS)
    fields, points = fields_at(MIDDLE)
    turned = {k: -v for k, v in fields[field].derivatives.items()}
    fields[field] = Field(field, -fields[field].value, COORDINATES, turned)
    residuals = problem.evaluate(problem.conditions[0], fields, points)
    assert max(values.abs().max() for values in residuals.values()) > 0.1 * largest_term(MIDDLE)


def test_reference_starts_from_the_problems_start():
    starts = terms(Kolmogorov(**SETTINGS), "initial", 0)
    assert set(starts) == {"ic_u", "ic_v"}
    assert max(values.abs().max() for values in starts.values()) < 1e-12
    assert max(v.abs().max() for v in terms(Kolmogorov(**SETTINGS), "initial", 20).values()) > 0.1


def test_another_seed_is_another_start():
    other = Kolmogorov(**{**SETTINGS, "seed": 2})
    assert min(v.abs().max() for v in terms(other, "initial", 0).values()) > 0.5


def test_vorticity_is_that_of_the_reference():
    vorticity = terms(Kolmogorov(**SETTINGS), "vorticity", MIDDLE)["vorticity"]
    np.testing.assert_allclose(vorticity, solution()["vorticity"][MIDDLE].ravel(), atol=1e-9)


def test_start_follows_the_dtype_of_the_points_at_full_accuracy():
    problem = Kolmogorov(**SETTINGS)
    x, y = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))
    single, double = problem.start(x, y), problem.start(x.double(), y.double())
    assert all(values.dtype == torch.float32 for values in single)
    assert all(values.dtype == torch.float64 for values in double)
    for low, high in zip(single, double, strict=True):
        assert torch.equal(low, high.float())


def test_start_is_periodic_and_free_of_divergence():
    problem = Kolmogorov(**SETTINGS)
    x, y = torch.rand(2, 50, dtype=torch.float64).requires_grad_()
    u, v = problem.start(x, y)
    (u_x,) = torch.autograd.grad(u.sum(), x, retain_graph=True)
    (v_y,) = torch.autograd.grad(v.sum(), y)
    assert (u_x + v_y).abs().max() < 1e-10 < u_x.abs().max()
    torch.testing.assert_close(problem.start(x + 1, y - 1)[0], u, rtol=0, atol=1e-11)


def test_start_is_traced_as_one_graph():
    problem = Kolmogorov(**SETTINGS)
    x, y = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    eager = problem.start(x, y)
    traced = torch.compile(problem.start, fullgraph=True, backend="aot_eager")(x, y)
    torch.testing.assert_close(traced, eager)


def test_domain_and_reference_follow_the_arguments():
    problem = Kolmogorov(**SETTINGS)
    assert problem.domain["t"] == (0, SETTINGS["horizon"])
    assert problem.reference() == KolmogorovReference(**SETTINGS)
    assert Kolmogorov().domain["t"] == Kolmogorov.domain["t"] == (0, KolmogorovReference().horizon)
    start = load_reference(KolmogorovReference(**SETTINGS).start)
    assert (start.x[0], start.x[-1]) == problem.domain["x"]
