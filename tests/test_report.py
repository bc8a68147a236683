"""What a report says and draws, for solutions in closed form."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

from dpinn import Box, DpinnError, DpinnWarning, Problem, Solution, quantity
from dpinn.analysis import observe, predict_share
from dpinn.nn import PINN
from dpinn.nn.windowed import WindowedPINN
from dpinn.problems.taylor_green import TaylorGreen
from dpinn.reference.base import Reference
from dpinn.reference.taylor_green import TaylorGreenReference
from dpinn.report import reference_of, report, report_axes, residual_norms, summary
from dpinn.solution import RunFacts


@dataclass(frozen=True)
class SmallReference(TaylorGreenReference):
    name: ClassVar[str] = "small_taylor_green"

    def solve(self, quick: bool = False, progress: Any = True) -> xr.Dataset:
        return super().solve(quick=True)


class Vortices(TaylorGreen):
    """Taylor–Green vortices on a grid that a test has time for."""

    def reference(self) -> Reference:
        return SmallReference(self.viscosity)


class Decay(nn.Module):
    """The vortices of the periodic embedding (t, cos x, sin x, cos y, sin y), `scale` too fast."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0, pressure: float = 0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.pressure = pressure

    def forward(self, z: Any) -> Any:
        t, cx, sx, cy, sy = (z[..., k : k + 1] for k in range(5))
        decay = self.scale * torch.exp(-0.1 * t)
        p = -(cx**2 + cy**2 - 1) / 2 * torch.exp(-0.2 * t) + self.pressure
        return torch.cat([-cx * sy * decay, sx * cy * decay, p], dim=-1)


def network(scale: float, pressure: float = 0.0) -> PINN:
    return PINN(Vortices(), lambda i, o: Decay(i, o, scale, pressure)).double()


FACTS = RunFacts(7, 1.5, "cpu", 0, None, 7, {"u": 1.0, "vorticity": 1.25, "unknown": 3.0})
WINDOWS = ((0.0, 0.5), (0.5, 1.0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPINN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds, which a test of numbers need not wait for."""
    monkeypatch.setattr("dpinn.track.pictures.pictures", lambda *given: iter(()))


def strict_json(path: Path) -> Any:
    """As other languages read it: NaN is no number there."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_flow_in_windows_has_all_errors_and_figures(tmp_path: Path) -> None:
    pinn = WindowedPINN([network(1.01, 5.0), network(1.03, -8.0)], [0.5])
    result = report(Solution(Vortices(), pinn, FACTS, WINDOWS), tmp_path)
    assert strict_json(tmp_path / "evaluation.json") == result
    t = np.linspace(0, 1, 6)
    off = np.where(t > 0.5, 0.03, 0.01)
    norms = np.exp(-0.1 * t)
    # The field is off by a factor at each time, and the vorticity with it; the pressure is not.
    whole = math.sqrt(np.sum((off * norms) ** 2) / np.sum(norms**2))
    for name in ("u", "v", "vorticity"):
        assert result[f"error/{name}"] == pytest.approx(whole)
        assert result["error_over_time"][name] == pytest.approx(off.tolist())
        assert result["window_errors"][name] == pytest.approx([0.01, 0.03])
    assert result["error/p"] < 1e-12
    assert result["error_over_time"]["t"] == pytest.approx(t.tolist())
    initial = {k: v for k, v in result.items() if k.startswith("initial_error/")}
    assert initial == {"initial_error/u": 1.0, "initial_error/vorticity": 1.25}
    energy = norms**2  # of the reference, but for a factor
    growth = (1 + off) ** 2 - 1
    expected = math.sqrt(np.sum((growth * energy) ** 2) / np.sum(energy**2))
    for name in ("energy", "enstrophy", "dissipation"):
        assert result["flow"][f"{name}_error"] == pytest.approx(expected, rel=1e-3)
    assert result["flow"]["resolved_wavenumber"] == 1.0
    names = [Path(p).name for p in result["figures"]]
    fields = [f"{f}.png" for f in ("u", "v", "p", "vorticity")]
    assert names == [*fields, "error_over_time.png", "flow.png", "vorticity.gif"]
    for path in result["figures"]:
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == path[-3:].upper()
            if path.endswith("gif"):
                assert picture.n_frames == len(t)  # type: ignore[attr-defined]
                assert Path(path).stat().st_size < 2_000_000
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.usefixtures("undrawn")
def test_predictions_of_several_ranks_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Vortices()
    solution = Solution(problem, network(1.02), FACTS)
    alone = report(solution, tmp_path / "alone")
    axes = report_axes(problem, reference_of(problem))
    look, size = observe(solution.pinn, problem), math.prod(len(axis) for axis in axes.values())
    cuts = [0, size // 3, 2 * size // 3, size]
    shares = [
        predict_share(look, axes, torch.device("cpu"), torch.float64, start, stop)
        for start, stop in itertools.pairwise(cuts)
    ]
    together = {n: np.concatenate([share[n] for share in shares]) for n in shares[0]}
    monkeypatch.setattr("dpinn.report.predict", None)
    result = report(solution, tmp_path / "together", predictions=together)
    for key in ("error/u", "error/p", "error/vorticity", "error_over_time", "flow"):
        assert result[key] == alone[key]


@pytest.mark.usefixtures("undrawn")
def test_one_window_has_no_errors_by_window(tmp_path: Path) -> None:
    solution = Solution(Vortices(), network(1.02), FACTS, ((0.0, 1.0),))
    assert "window_errors" not in report(solution, tmp_path)


def test_the_summary_states_errors_windows_figures_and_the_animation(tmp_path: Path) -> None:
    pinn = WindowedPINN([network(1.01), network(1.03)], [0.5])
    result = report(Solution(Vortices(), pinn, FACTS, WINDOWS), tmp_path)
    lines = summary(result).splitlines()

    def line(start: str) -> str:
        (found,) = [one for one in lines if one.strip().startswith(start)]
        return found

    assert line("relative L2 error of u").endswith(
        f"{result['error/u']:.2e}  (initial guess 1.00e+00)"
    )
    assert "initial guess" not in line("relative L2 error of v ")
    own = result["reference_error"]
    assert line("relative L2 error of p").endswith(f"< {5 * own:.1e}")
    assert line("by window, u").endswith(" 1.00e-02 3.00e-02")
    assert line("the reference's own error").endswith(f" {own:.1e}")
    assert line("animation").endswith(str(tmp_path / "figures/vorticity.gif"))
    assert sum(one.startswith("  figure ") for one in lines) == 6


def test_nothing_that_is_not_finite_gets_into_the_json(tmp_path: Path) -> None:
    result = report(Solution(Vortices(), network(math.nan), FACTS, WINDOWS), tmp_path)
    assert strict_json(tmp_path / "evaluation.json") == result
    assert result["error/u"] is None
    assert result["residual/continuity"] is None
    assert result["flow"]["energy_error"] is None
    assert set(result["error_over_time"]["u"]) == {None}
    assert result["error/p"] < 1e-12
    assert "relative L2 error of u            not finite" in summary(result)


class Rest(Problem):
    """Known from a file that says nothing of its own error; at rest in the beginning."""

    domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    fields = ("u",)
    path = ""

    def residual(self, u: Any) -> Any:
        return {"pde": u.t - u.x}

    def reference(self) -> str:
        return self.path


class Product(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, z: Any) -> Any:
        return self.scale * z[..., :1] * z[..., 1:]


def test_a_time_at_which_the_reference_is_zero_has_no_error(tmp_path: Path) -> None:
    t, x = np.linspace(0, 1, 5), np.linspace(0, 1, 9)
    problem = Rest()
    problem.path = str(tmp_path / "exact.nc")
    xr.Dataset({"u": (("t", "x"), np.outer(t, x))}, {"t": t, "x": x}).to_netcdf(problem.path)
    solution = Solution(problem, PINN(problem, Product), RunFacts(0, 0.0, "cpu", 0, None))
    result = report(solution, tmp_path)
    assert strict_json(tmp_path / "evaluation.json") == result
    assert result["error_over_time"]["u"] == [None, *[pytest.approx(0.5)] * 4]
    assert result["reference_error"] is None
    assert "the reference's own error         not stated" in summary(result)
    names = [Path(p).name for p in result["figures"]]
    assert names == ["u.png", "u_snapshots.png", "error_over_time.png"]


class Reaction(Problem):
    """Without a reference: concentrations u and v in the plane, the time as the last coordinate."""

    domain = Box(x=(0.0, 1.0), y=(0.0, 2.0), t=(0.0, 3.0))
    fields = ("u", "v")

    def residual(self, u: Any, v: Any) -> Any:
        return {"pde": u.t - u.laplacian + v}


class Plane(Product):
    def forward(self, z: Any) -> Any:
        return torch.cat([self.scale * z[..., -1:], z[..., :1] + z[..., 1:2]], dim=-1)


def test_a_solution_without_reference_is_drawn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpinn.report.MOST_POINTS", 20_000)
    seen = {}
    from dpinn.track import pictures

    def spy(name: str, axes: Any, prediction: Any, *rest: Any) -> bytes:
        seen[name] = list(axes), prediction
        return b"GIF"

    monkeypatch.setattr(pictures, "animation", spy)
    problem = Reaction()
    axes = report_axes(problem, None)
    assert math.prod(len(a) for a in axes.values()) <= 20_000
    result = report(Solution(problem, PINN(problem, Plane), FACTS), tmp_path)
    assert not [k for k in result if "error" in k or k == "flow"]
    assert "there is no reference solution" in summary(result)
    assert [Path(p).name for p in result["figures"]] == ["u.png", "v.png", "u.gif"]
    # Wherever the time stands in the problem, it comes first in a figure.
    ((name, (order, prediction)),) = seen.items()
    assert (name, order) == ("u", ["t", "x", "y"])
    expected = np.broadcast_to(1.5 * axes["t"][:, None, None], prediction.shape)
    np.testing.assert_allclose(prediction, expected, rtol=1e-6)


class Room(Reaction):
    domain = Box(x=(0.0, 1.0), y=(0.0, 2.0), z=(0.0, 1.0), t=(0.0, 3.0))


def test_four_coordinates_without_a_reference_give_residuals_alone(tmp_path: Path) -> None:
    problem = Room()
    assert report_axes(problem, None) == {}
    result = report(Solution(problem, PINN(problem, Plane), FACTS), tmp_path)
    assert result["figures"] == []
    assert "residual/pde" in result


class Cavity(Problem):
    """Steady, in the plane."""

    domain = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    fields = ("u", "v")

    def residual(self, u: Any, v: Any) -> Any:
        return {"continuity": u.x + v.y}

    @quantity
    def speed(self, u: Any, v: Any) -> Any:
        return torch.sqrt(u**2 + v**2)


class Turn(Product):
    def forward(self, z: Any) -> Any:
        return self.scale * torch.cat([0.5 - z[..., 1:], z[..., :1] - 0.5], dim=-1)


def test_a_steady_flow_has_streamlines_and_nothing_over_time(tmp_path: Path) -> None:
    problem = Cavity()
    solution = Solution(problem, PINN(problem, Turn), FACTS)
    result = report(solution, tmp_path)
    names = [Path(p).name for p in result["figures"]]
    assert names == ["u.png", "v.png", "speed.png", "streamlines.png"]
    assert result["horizon"] is None
    assert residual_norms(solution)["continuity"] == 0.0


@pytest.mark.parametrize("must_write", [True, False])
def test_a_folder_that_cannot_be_written_is_an_error_only_where_it_must(
    tmp_path: Path, must_write: bool
) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    solution = Solution(Cavity(), PINN(Cavity(), Turn), FACTS)
    if must_write:
        with pytest.raises(DpinnError, match="cannot write"):
            report(solution, tmp_path / "run")
    else:
        with pytest.warns(DpinnWarning, match=r"figures and evaluation.json were not written"):
            result = report(solution, tmp_path / "run", must_write=False)
        assert result["figures"] == []
        assert result["residual/continuity"] == 0.0


def test_a_file_is_compared_within_the_domain_only(tmp_path: Path) -> None:
    t, x = np.linspace(0, 2, 21), np.linspace(-1, 2, 31)
    values = np.where((t[:, None] <= 1 + 1e-12) & (x >= 0) & (x <= 1 + 1e-12), 1.0, 100.0)
    file = tmp_path / "longer.nc"
    xr.Dataset({"u": (("t", "x"), values)}, {"t": t, "x": x}).to_netcdf(file, engine="h5netcdf")

    class Short(Problem):
        domain = Box(t=(0.0, 1.0), x=(0.0, 1.0))
        fields = ("u",)

        def residual(self, u):
            return {"pde": u.t}

        def reference(self):
            return str(file)

    found = reference_of(Short())
    assert found is not None
    assert found.sizes == {"t": 11, "x": 11}
    assert (found.u == 1).all()

    class Elsewhere(Short):
        domain = Box(t=(0.0, 1.0), x=(5.0, 6.0))

    with pytest.raises(
        DpinnError, match=r"longer\.nc has no x from 5 to 6, the domain of Elsewhere"
    ):
        reference_of(Elsewhere())
