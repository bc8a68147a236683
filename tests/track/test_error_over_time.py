import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from dpinn.track import error_over_time_figure

T = np.linspace(0, 1, 11)
ERRORS = {"u": 1e-4 * np.exp(3 * T), "vorticity": 1e-3 * np.exp(3 * T)}


def lines(figure: Figure) -> dict[str, np.ndarray]:
    (panel,) = figure.axes
    drawn = panel.get_lines()
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in drawn}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_name_has_a_line_of_its_own_look_on_a_logarithmic_scale() -> None:
    figure = error_over_time_figure(T, ERRORS, title="Kolmogorov")
    (panel,) = figure.axes
    assert panel.get_yscale() == "log"
    assert panel.get_title("left") == "Kolmogorov"
    np.testing.assert_array_equal(lines(figure)["$u$"], ERRORS["u"])
    np.testing.assert_array_equal(lines(figure)["vorticity"], ERRORS["vorticity"])
    named = [line for line in panel.get_lines() if line.get_label() in ("$u$", "vorticity")]
    assert len({line.get_color() for line in named}) == 2
    assert len({line.get_linestyle() for line in named}) == 2
    assert legend(figure) == ["$u$", "vorticity"]


def test_what_is_not_finite_or_zero_leaves_a_gap() -> None:
    error = np.array([math.nan, 1e-3, 0.0, 2e-3, math.inf, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3])
    figure = error_over_time_figure(T, {"u": error})
    shown = lines(figure)["$u$"]
    assert np.isnan(shown[[0, 2, 4]]).all()
    np.testing.assert_array_equal(shown[5:], error[5:])
    # Without neighbours 1 and 3 would be invisible, were they not dots.
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal(np.concatenate([d.get_ydata() for d in dots]), [1e-3, 2e-3])


def test_seams_of_the_windows_are_verticals() -> None:
    figure = error_over_time_figure(T, ERRORS, seams=[0.25, 0.5, 0.75])
    verticals = [
        line.get_xdata() for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2
    ]
    np.testing.assert_array_equal([v[0] for v in verticals], [0.25, 0.5, 0.75])
    assert legend(figure)[-1] == "seams of the time windows"


@pytest.mark.parametrize(("bound", "shown"), [(5e-4, True), (1e-9, False), (math.nan, False)])
def test_what_the_reference_cannot_resolve_is_shaded(bound: float, shown: bool) -> None:
    figure = error_over_time_figure(T, ERRORS, bound=bound)
    (panel,) = figure.axes
    assert ("not resolved by the reference" in legend(figure)) is shown
    assert bool(panel.patches) is shown
    if shown:
        corners = panel.patches[0].get_extents().transformed(panel.transData.inverted())
        assert corners.y1 == pytest.approx(bound)
    low, high = panel.get_ylim()
    assert low > 1e-5  # the shade does not stretch the scale
    assert high < 0.1


def test_errors_that_are_nowhere_known_are_drawn() -> None:
    figure = error_over_time_figure(T, {"u": np.full(11, math.nan)}, bound=1e-3, seams=[0.5])
    figure.canvas.draw()
