import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure

from dpinn.analysis import FlowComparison
from dpinn.analysis.flow_comparison import FlowHistory
from dpinn.track import flow_figure, streamlines_figure

T = np.linspace(0, 2, 9)
K = 2 * np.pi * np.arange(20.0)


def history(scale: float, names: tuple[str, ...], spectrum: bool = True) -> FlowHistory:
    shells = scale * np.concatenate([[0.0], np.arange(1.0, 20) ** -3])
    histories = {name: scale * (k + 1) * np.exp(-T) for k, name in enumerate(names)}
    return FlowHistory(histories, K if spectrum else K[:0], shells if spectrum else K[:0])


ALL = ("energy", "enstrophy", "dissipation")


def panels(figure: Figure) -> dict[str, Axes]:
    return {panel.get_title("left"): panel for panel in figure.axes}


def test_statistics_of_the_prediction_are_dashed_over_those_of_the_reference() -> None:
    flow = FlowComparison(T, history(1.1, ALL), history(1.0, ALL))
    figure = flow_figure(flow, "Kolmogorov")
    shown = panels(figure)
    assert list(shown) == [
        "kinetic energy",
        "enstrophy",
        "dissipation",
        "energy spectrum at $t$ = 2",
    ]
    for name, title in zip(ALL, shown, strict=False):
        reference, prediction = shown[title].get_lines()
        assert flow.reference is not None
        np.testing.assert_array_equal(reference.get_ydata(), flow.reference.histories[name])
        np.testing.assert_array_equal(prediction.get_ydata(), flow.prediction.histories[name])
        assert (reference.get_linestyle(), prediction.get_linestyle()) == ("-", "--")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["reference", "prediction"]
    assert figure.get_suptitle() == "Kolmogorov"
    figure.canvas.draw()


def test_the_spectrum_is_a_density_over_the_wavenumber_without_the_mean_flow() -> None:
    flow = FlowComparison(T, history(1.1, ALL), history(1.0, ALL))
    panel = panels(flow_figure(flow))["energy spectrum at $t$ = 2"]
    assert panel.get_xscale() == panel.get_yscale() == "log"
    reference, prediction = panel.get_lines()
    np.testing.assert_array_equal(reference.get_xdata(), K[1:])
    density = np.asarray(reference.get_ydata())
    assert flow.reference is not None
    assert np.sum(density) * 2 * np.pi == pytest.approx(flow.reference.spectrum.sum())
    assert prediction.get_linestyle() == "--"
    assert prediction.get_zorder() >= reference.get_zorder()
    # The reference sets the scale, so that noise of the prediction does not.
    low, high = panel.get_ylim()
    assert (low, high) == pytest.approx((density.min() / 30, density.max() * 30))


def test_a_flow_between_walls_has_energy_and_enstrophy() -> None:
    walls = history(1.0, ALL[:2], spectrum=False)
    assert list(panels(flow_figure(FlowComparison(T, walls, walls)))) == [
        "kinetic energy",
        "enstrophy",
    ]


def test_a_flow_without_reference_is_drawn_alone() -> None:
    figure = flow_figure(FlowComparison(T, history(1.0, ALL), None))
    assert [len(panel.get_lines()) for panel in figure.axes] == [1, 1, 1, 1]
    assert not figure.legends
    figure.canvas.draw()


def test_a_flow_that_is_not_a_number_is_drawn() -> None:
    broken = history(float("nan"), ALL)
    flow_figure(FlowComparison(T, broken, history(1.0, ALL))).canvas.draw()
    flow_figure(FlowComparison(T, broken, None)).canvas.draw()


X, Y = np.linspace(0, 1, 21), np.linspace(0, 2, 31)
TURN = (np.broadcast_to(-(Y - 1), (21, 31)), np.broadcast_to((X - 0.5)[:, None], (21, 31)))


def test_streamlines_are_tangents_of_the_velocity_over_its_speed() -> None:
    twice = (2 * TURN[0], 2 * TURN[1])
    figure = streamlines_figure({"x": X, "y": Y}, twice, TURN, "Cavity")
    shown = panels(figure)
    assert list(shown)[:2] == ["prediction", "reference"]
    meshes = {}
    for label in ("prediction", "reference"):
        (meshes[label],) = [c for c in shown[label].collections if isinstance(c, QuadMesh)]
        assert shown[label].get_aspect() == 1.0
    np.testing.assert_allclose(meshes["prediction"].get_array(), 2 * np.hypot(*TURN).T)
    assert meshes["prediction"].norm.vmax == np.hypot(*TURN).max()  # the reference's
    (stream,) = [c for c in shown["reference"].collections if isinstance(c, LineCollection)]
    lines = stream.get_segments()
    segments = np.concatenate([np.stack([s[:-1], s[1:]], axis=1) for s in map(np.asarray, lines)])
    middle, along = segments.mean(axis=1), segments[:, 1] - segments[:, 0]
    velocity = np.stack([-(middle[:, 1] - 1), middle[:, 0] - 0.5], axis=1)
    lengths = np.linalg.norm(along, axis=1) * np.linalg.norm(velocity, axis=1)
    cosines = np.sum(along * velocity, axis=1)[lengths > 1e-9] / lengths[lengths > 1e-9]
    assert np.quantile(cosines, 0.05) > 0.98
    figure.canvas.draw()


def test_streamlines_of_a_prediction_alone_and_of_a_broken_one_are_drawn() -> None:
    figure = streamlines_figure({"x": X, "y": Y}, TURN)
    assert list(panels(figure))[:1] == ["prediction"]
    figure.canvas.draw()
    broken = (np.full((21, 31), np.nan), TURN[1])
    streamlines_figure({"x": X, "y": Y}, broken, TURN).canvas.draw()
