import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text

from dpinn.track import curves_figure, snapshots_figure, solution_figure
from dpinn.track.drawing import looks_for

T, X, Y = np.linspace(0, 1, 11), np.linspace(-1, 1, 21), np.linspace(0, 3, 31)
WAVE = np.sin(np.pi * (X[None, :] - T[:, None]))
FLOW = np.sin(np.pi * X)[None, :, None] * np.cos(Y)[None, None, :] * (1 + T)[:, None, None]


def panels(figure: Figure) -> dict[str, Axes]:
    return {panel.get_title("left"): panel for panel in figure.axes}


def mesh(panel: Axes) -> QuadMesh:
    [found] = [c for c in panel.collections if isinstance(c, QuadMesh)]
    return found


def drawn(panel: Axes) -> np.ndarray:
    return np.asarray(mesh(panel).get_array())


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]


def test_prediction_reference_and_error_are_drawn_over_time_and_space() -> None:
    prediction = WAVE + 0.1 * T[:, None]
    figure = solution_figure("u", {"t": T, "x": X}, prediction, WAVE, title="Advection")
    shown = panels(figure)
    assert np.array_equal(drawn(shown["prediction"]), prediction.T)
    assert np.array_equal(drawn(shown["reference"]), WAVE.T)
    assert np.allclose(drawn(shown["absolute error"]), np.broadcast_to(0.1 * T, (21, 11)))
    assert shown["prediction"].get_xlabel() == "$t$"
    assert shown["prediction"].get_ylabel() == "$x$"
    assert shown["prediction"].get_xlim() == shown["absolute error"].get_xlim()
    expected = np.linalg.norm(prediction - WAVE) / np.linalg.norm(WAVE)
    assert figure.get_suptitle() == f"Advection,  relative $L^2$ error of $u$: {expected:.2e}"
    assert pixels(figure).shape[1] == 1200


def test_prediction_and_reference_share_one_colour_scale_symmetric_about_zero() -> None:
    shown = panels(solution_figure("u", {"t": T, "x": X}, 3.0 * WAVE, WAVE - 0.2))
    norms = [mesh(shown[name]).norm for name in ("prediction", "reference")]
    assert norms[0] is norms[1]
    assert norms[0].vmin == pytest.approx(-1.2)
    assert norms[0].vmax == pytest.approx(1.2)  # the reference's, whatever the prediction does
    assert mesh(shown["prediction"]).cmap.name == "RdBu_r"


def test_a_field_of_one_sign_has_a_sequential_scale() -> None:
    shown = panels(solution_figure("u", {"t": T, "x": X}, WAVE**2, WAVE**2 + 1))
    norm = mesh(shown["reference"]).norm
    assert (norm.vmin, norm.vmax) == (pytest.approx(1.0), pytest.approx(2.0))
    assert mesh(shown["reference"]).cmap.name == "viridis"


def test_colour_bars_are_labelled() -> None:
    figure = solution_figure("omega", {"t": T, "x": X}, WAVE + 0.1, WAVE)
    bars = [bar for panel in figure.axes for bar in panel.child_axes if isinstance(bar, Axes)]
    labels = {bar.get_title("left") for bar in bars}
    assert labels == {r"$\omega$", r"|Δ$\omega$|"}


@pytest.mark.parametrize(("peak", "logarithmic"), [(1.0, True), (0.0, False)])
def test_an_error_in_few_points_has_a_logarithmic_scale(peak: float, logarithmic: bool) -> None:
    prediction = WAVE + 1e-3
    prediction[5, 10] += peak
    shown = panels(solution_figure("u", {"t": T, "x": X}, prediction, WAVE))
    assert isinstance(mesh(shown["absolute error"]).norm, LogNorm) is logarithmic


def test_an_exact_prediction_and_a_broken_one_are_drawn() -> None:
    pixels(solution_figure("u", {"t": T, "x": X}, WAVE, WAVE))
    broken = np.where(WAVE > 0.5, np.nan, WAVE)
    figure = solution_figure("u", {"t": T, "x": X}, broken, WAVE)
    pixels(figure)
    assert "nan" in figure.get_suptitle()
    pixels(solution_figure("u", {"t": T, "x": X}, np.full_like(WAVE, np.nan)))


def test_two_space_dimensions_have_equal_aspect_at_the_final_time() -> None:
    figure = solution_figure("u", {"t": T, "x": X, "y": Y}, FLOW, FLOW)
    shown = panels(figure)["prediction, $t$ = 1"]
    assert np.array_equal(drawn(shown), FLOW[-1].T)
    assert shown.get_aspect() == 1.0
    assert (shown.get_xlabel(), shown.get_ylabel()) == ("$x$", "$y$")


def test_chosen_times_have_a_row_each() -> None:
    figure = solution_figure("u", {"t": T, "x": X, "y": Y}, FLOW, FLOW, times=[0.52, 1.0])
    shown = panels(figure)
    assert len(shown) == 6
    assert np.array_equal(drawn(shown["reference, $t$ = 0.5"]), FLOW[5].T)


def test_times_of_a_prediction_that_stands_alone_are_side_by_side() -> None:
    figure = solution_figure("u", {"t": T, "x": X, "y": Y}, FLOW, times=[0.0, 0.5, 1.0])
    shown = panels(figure)
    assert list(shown) == [f"prediction, $t$ = {t}" for t in ("0", "0.5", "1")]
    assert np.array_equal(drawn(shown["prediction, $t$ = 0.5"]), FLOW[5].T)
    places = [panel.get_subplotspec().colspan.start for panel in figure.axes]  # type: ignore
    assert places == [0, 1, 2]
    assert [bool(panel.child_axes) for panel in figure.axes] == [False, False, True]
    assert [panel.get_ylabel() for panel in figure.axes] == ["$y$", "", ""]
    assert pixels(figure).shape[1] == 1200


def test_a_steady_field_has_equal_aspect() -> None:
    shown = panels(solution_figure("p", {"x": X, "y": Y}, FLOW[0]))
    assert list(shown) == ["prediction"]
    assert shown["prediction"].get_aspect() == 1.0


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(21, 11\), but the axes t, x"):
        solution_figure("u", {"t": T, "x": X}, WAVE.T)
    with pytest.raises(ValueError, match="reference has shape"):
        snapshots_figure("u", {"t": T, "x": X}, WAVE, WAVE[:5])
    with pytest.raises(ValueError, match="2 or 3 axes"):
        solution_figure("u", {"x": X}, WAVE[0])


def test_snapshots_draw_the_prediction_dashed_over_the_reference() -> None:
    figure = snapshots_figure("u", {"t": T, "x": X}, WAVE + 0.5, WAVE, times=[0.0, 0.33, 1.0])
    shown = panels(figure)
    assert list(shown) == ["$t$ = 0", "$t$ = 0.3", "$t$ = 1"]
    reference, prediction = shown["$t$ = 0.3"].get_lines()
    assert np.array_equal(reference.get_ydata(), WAVE[3])
    assert np.array_equal(prediction.get_ydata(), WAVE[3] + 0.5)
    assert np.array_equal(prediction.get_xdata(), X)
    assert (reference.get_linestyle(), prediction.get_linestyle()) == ("-", "--")
    assert prediction.get_zorder() >= reference.get_zorder()
    assert shown["$t$ = 1"].get_xlabel() == "$x$"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "reference",
        "prediction",
    ]


def history(count: int = 200) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    records = []
    for i in range(count):
        record = {"step": 40.0 * i, "lr": 1e-3, "weight/pde": 1.0, "weight/ic": 1.0 + i}
        for k, term in enumerate(("pde", "ic", "bc")):
            record[f"loss/{term}"] = 10.0**-k * np.exp(-i / 50 + 0.3 * rng.standard_normal())
        if i % 10 == 0:
            record["error/u"] = np.exp(-i / 50)
        records.append(record)
    return records


def test_curves_draw_what_was_recorded() -> None:
    records = history()
    shown = panels(curves_figure(records))
    assert list(shown) == ["loss terms", "relative errors", "term weights", "learning rate"]
    assert shown["loss terms"].get_yscale() == shown["relative errors"].get_yscale() == "log"
    raw = shown["loss terms"].get_lines()[0]
    assert np.array_equal(raw.get_xdata(), [r["step"] for r in records])
    assert np.array_equal(raw.get_ydata(), [r["loss/pde"] for r in records])
    [error] = shown["relative errors"].get_lines()
    assert np.array_equal(error.get_xdata(), [r["step"] for r in records[::10]])
    legend = shown["loss terms"].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["pde", "ic", "bc"]


def test_the_trend_of_a_noisy_exponential_is_the_exponential() -> None:
    trend = panels(curves_figure(history(2000)))["loss terms"].get_lines()[1]
    steps, values = np.asarray(trend.get_xdata()), np.asarray(trend.get_ydata())
    inner = slice(100, -100)
    assert np.allclose(np.log(values[inner]), -steps[inner] / 40 / 50, atol=0.2)


def test_a_term_has_the_same_colour_in_every_panel() -> None:
    shown = panels(curves_figure(history()))

    def colours(panel: Axes) -> dict[Any, Any]:
        return {line.get_label(): line.get_color() for line in panel.get_lines()}

    assert colours(shown["term weights"])["ic"] == colours(shown["loss terms"])["ic"]


@pytest.mark.parametrize("overlapping", [False, True])
def test_twenty_four_curves_have_looks_of_their_own(overlapping: bool) -> None:
    looks = looks_for((f"u{k}" for k in range(24)), overlapping)
    assert len(set(looks.values())) == 24
    few = list(looks.values())[:4]
    assert len({look.colour for look in few}) == 4
    assert len({look.line for look in few}) == (4 if overlapping else 1)


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("terms", [1, 4, 8, 12, 20])
def test_curves_of_many_terms_are_told_apart_by_a_legend_that_covers_nothing(
    terms: int, long: bool
) -> None:
    names = [f"continuity_of_phase_{k}" if long else f"t{k}" for k in range(terms)]
    records = [
        {"step": float(s)}
        | {f"loss/{n}": 10.0**-k / (1 + s) for k, n in enumerate([*names, "total"])}
        | {f"weight/{n}": 1.0 + (1 + k) * s for k, n in enumerate(names)}
        | {f"error/{n}": 10.0**-k / (1 + s) for k, n in enumerate(names)}
        for s in range(20)
    ]
    figure = curves_figure(records)
    figure.canvas.draw()
    boxes = {}
    for label, panel in panels(figure).items():
        looks = [(line.get_color(), line.get_linestyle()) for line in panel.get_lines()]
        assert len(set(looks)) == len(looks) == terms + (label == "loss terms")
        legend = panel.get_legend()
        assert legend is not None
        box = legend.get_window_extent()
        (title,) = [t for t in panel.findobj(Text) if t.get_text() == label]
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert not box.overlaps(title.get_window_extent())
        # Its frame, which is not drawn, may reach over the edge by a few pixels.
        assert box.y0 >= panel.get_window_extent().y1 - 6
        boxes[label] = box
        for other, panel_of_other in panels(figure).items():
            if other != label:
                assert not box.overlaps(panel_of_other.get_window_extent())
    assert len(boxes) == 3


def test_alignment_has_a_panel_from_minus_one_to_one() -> None:
    names = ("intra", "intra_cosine", "preconditioned", "inter", "preconditioned_by/Adam")
    records = [
        {"step": s, "layers": {}} | {f"alignment/{name}": 0.1 * s for name in names}
        for s in range(1, 9)
    ]
    (panel,) = panels(curves_figure(records)).values()
    assert [line.get_label() for line in panel.get_lines()] == ["intra", "preconditioned", "inter"]
    assert panel.get_yscale() == "linear"
    assert panel.get_ylim() == (-1.05, 1.05)


def test_constant_weights_are_left_out_and_non_finite_values_skipped() -> None:
    records = [{"step": s, "loss/pde": 1.0 / (1 + s), "weight/pde": 2.0} for s in range(20)]
    records[7]["loss/pde"] = float("nan")
    shown = panels(curves_figure(records))
    assert list(shown) == ["loss terms"]
    [line] = shown["loss terms"].get_lines()
    assert 7 not in np.asarray(line.get_xdata())
    with pytest.raises(ValueError, match="no loss/, error/, weight/, alignment/ or lr"):
        curves_figure([{"step": 0, "loss/pde": float("nan")}])


def test_figures_leave_pyplot_alone() -> None:
    script = """
import sys, io
import numpy as np
from dpinn.track import curves_figure, solution_figure
x = np.linspace(0, 1, 5)
solution_figure("u", {"t": x, "x": x}, np.outer(x, x), np.outer(x, x)).savefig(io.BytesIO())
curves_figure([{"step": 0, "loss/pde": 1.0}]).savefig(io.BytesIO())
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_figure_is_saved_as_a_picture_with_ink() -> None:
    buffer = io.BytesIO()
    figure = solution_figure("u", {"t": T, "x": X}, WAVE, WAVE)
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert len(np.unique(pixels(figure).reshape(-1, 4), axis=0)) > 100
