import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from matplotlib.lines import Line2D

from dpinn.track.comparison import Picture, looks_of, pictures, stacked_png
from dpinn.track.curves import POINTS, middle
from dpinn.track.drawing import PALETTE
from dpinn.track.experiment import TrackedRun
from dpinn.track.groups import group_runs

from .experiments import made_run, series


def drawn(*runs: TrackedRun) -> dict[str, Picture]:
    """The pictures of the only problem."""
    [groups] = group_runs(runs).values()
    return {picture.key: picture for picture in pictures(groups, looks_of(groups))}


def panels(picture: Picture) -> dict[str, Axes]:
    return {panel.get_title("left"): panel for panel in picture.figure.axes}


def thick(panel: Axes) -> list[Line2D]:
    """The lines of the groups, without those of the seeds and of the panel."""
    return [line for line in panel.lines if line.get_linewidth() == 2.0]


def legend(picture: Picture) -> list[str]:
    [box] = picture.figure.legends
    return [text.get_text() for text in box.get_texts()]


def error_runs(optimizer: str, *errors: tuple[float, float]) -> list[TrackedRun]:
    return [
        made_run(optimizer, seed, histories={"error/u": series(*pair)})
        for seed, pair in enumerate(errors)
    ]


def test_errors_run_over_steps_and_over_training_time() -> None:
    picture = drawn(*error_runs("SOAP", (1.0, 0.3), (0.8, 0.1), (0.9, 0.2)))["errors"]
    steps, time = panels(picture)["u against steps"], panels(picture)["u against time"]
    assert len(steps.lines) == 4
    [line] = thick(steps)
    assert np.allclose(line.get_xydata(), [[10, 0.9], [20, 0.2]])
    [line] = thick(time)
    assert np.allclose(line.get_xydata(), [[5, 0.9], [10, 0.2]])
    assert (steps.get_yscale(), steps.get_ylim()) == ("log", time.get_ylim())
    assert time.get_xlabel() == "training time, s"


def test_the_thick_line_is_of_the_finished_runs_and_the_thin_ones_of_all() -> None:
    failed = made_run("SOAP", 7, status="failed", histories={"error/u": series(50.0)})
    picture = drawn(*error_runs("SOAP", (1.0, 0.1)), failed)["errors"]
    panel = panels(picture)["u against steps"]
    assert len(panel.lines) == 3
    [line] = thick(panel)
    assert np.allclose(line.get_ydata(), [1.0, 0.1])


def test_runs_that_are_still_under_way_are_drawn() -> None:
    picture = drawn(*error_runs("SOAP", (1.0, 0.1)), made_run("Adam", status="running"))["errors"]
    assert legend(picture) == ["Adam", "SOAP"]
    assert len(thick(panels(picture)["u against steps"])) == 2


def test_seeds_at_different_steps_are_compared_where_all_have_been() -> None:
    sparse = made_run(seed=0, histories={"loss/pde": series(1.0, 1e-2, every=20)})
    dense = made_run(seed=1, histories={"loss/pde": series(1.0, 1.0, 1.0, every=10)})
    common = middle([sparse, dense], "loss/pde", logarithmic=True)
    assert common is not None
    assert common.steps.tolist() == [20, 30]
    assert np.allclose(common.values, [1.0, 10**-0.5])  # 1e-1 and 1: the logarithms' median
    assert middle([sparse], "error/u", logarithmic=True) is None
    late = made_run(seed=2, histories={"loss/pde": series(1.0, every=50)})
    assert middle([dense, late], "loss/pde", logarithmic=True) is None


def test_scores_have_a_mean_and_losses_a_median() -> None:
    runs = [made_run(seed=s, histories={"x": series(v)}) for s, v in enumerate((1.0, 2.0, 9.0))]
    mean, median = middle(runs, "x", logarithmic=False), middle(runs, "x", logarithmic=True)
    assert mean is not None
    assert median is not None
    assert mean.values == pytest.approx([4.0])
    assert median.values == pytest.approx([2.0])


def test_a_loss_of_zero_is_left_out_of_a_logarithmic_scale() -> None:
    run = made_run(histories={"loss/pde": series(1.0, 0.0, 0.1), "loss/bc": series(0.0, 0.0)})
    shown = panels(drawn(run)["losses"])
    assert list(shown) == ["pde", "bc"]
    assert np.allclose(thick(shown["pde"])[0].get_ydata(), [1.0, 0.1])
    assert not shown["bc"].lines


def test_each_term_has_a_panel_and_the_weighted_sum_none() -> None:
    names = ("pde", "ic", "bc", "total")
    run = made_run(histories={f"loss/{name}": series(1.0, 0.1) for name in names})
    assert list(panels(drawn(run)["losses"])) == ["pde", "ic", "bc"]


def test_alignment_is_shown_from_minus_one_to_one_with_its_zero_line() -> None:
    scores = {f"alignment/{n}": series(0.1, 0.2) for n in ("intra", "inter", "update_inter")}
    losses = {f"loss/{n}": series(1.0, 0.1) for n in ("pde", "ic", "bc")}
    shown = panels(drawn(made_run(histories=scores | losses))["alignment"])
    assert list(shown) == ["gradients of the terms", "successive gradients", "successive updates"]
    for panel in shown.values():
        assert panel.get_ylim() == (-1.05, 1.05)
        assert [0.0, 0.0] in [list(line.get_ydata()) for line in panel.lines]
    # Three orthogonal gradients score -1/3; successive ones are two, whatever the terms.
    levels = {name: [line.get_ydata()[0] for line in p.lines] for name, p in shown.items()}
    assert any(y == pytest.approx(-1 / 3) for y in levels["gradients of the terms"])
    assert not any(y == pytest.approx(-1 / 3) for y in levels["successive gradients"])


def test_preconditioners_at_the_same_parameters_have_a_panel_for_each_trajectory() -> None:
    by = {f"alignment/preconditioned_by/{n}": series(0.1, 0.2) for n in ("Kron", "SOAP")}
    compared = made_run("SOAP", histories={"alignment/intra": series(0.0, 0.0), **by})
    picture = drawn(compared, made_run("Adam"))["preconditioners"]
    [panel] = picture.figure.axes
    assert panel.get_title("left") == "trained by SOAP"
    assert legend(picture) == ["no preconditioner", "Kron", "SOAP"]
    assert len(thick(panel)) == 3


def test_an_optimizer_has_one_colour_in_all_figures_of_all_problems() -> None:
    histories = {m: series(0.5, 0.1) for m in ("error/u", "loss/pde", "alignment/intra")}
    by = {"alignment/preconditioned_by/SOAP": series(0.1, 0.2)}
    runs = [made_run("Adam", problem="wave", histories=histories)]
    runs += [made_run("SOAP", problem=p, histories=histories | by) for p in ("burgers", "wave")]
    problems = group_runs(runs)
    looks = looks_of(group for groups in problems.values() for group in groups)
    assert {name: look.colour for name, look in looks.items()} == {
        "SOAP": PALETTE[0],
        "Adam": PALETTE[1],
    }
    for picture in pictures(problems["burgers"], looks):
        for panel in picture.figure.axes:
            colours = {line.get_color() for line in thick(panel)}
            assert PALETTE[0] in colours
            assert PALETTE[1] not in colours


def test_more_optimizers_than_colours_differ_by_their_lines() -> None:
    groups = group_runs([made_run(f"Optimizer{i}") for i in range(20)])["burgers"]
    looks = looks_of(groups)
    assert len(set(looks.values())) == 20


def test_errors_that_the_reference_does_not_resolve_are_shaded() -> None:
    coarse = {"final_error/u": 0.1, "reference_error": 0.05}
    fine = coarse | {"reference_error": 1e-12}
    history = {"error/u": series(1.0, 0.1)}
    shaded = drawn(made_run(last=coarse, histories=history))["errors"].figure.axes[0]
    assert [text.get_text() for text in shaded.texts] == ["not resolved by the reference"]
    assert not drawn(made_run(last=fine, histories=history))["errors"].figure.axes[0].texts


@pytest.mark.parametrize(("errors", "top"), [((1e9, 0.1), 10.0), ((1e9, 1e8), None)])
def test_a_diverged_run_does_not_flatten_the_others(
    errors: tuple[float, float], top: float | None
) -> None:
    panel = drawn(*error_runs("SOAP", errors))["errors"].figure.axes[0]
    low, high = panel.get_ylim()
    assert low < high
    assert high == top if top else high > 1e9


@pytest.mark.parametrize(
    ("step_s", "label"), [(1.0, "s"), (60.0, "min"), (3600.0, "h"), (0.0, "s")]
)
def test_time_has_the_unit_that_suits_it(step_s: float, label: str) -> None:
    history = {"error/u": series(1.0, 0.1, step_s=step_s)}
    panel = drawn(made_run(histories=history))["errors"].figure.axes[1]
    assert panel.get_xlabel() == f"training time, {label}"
    panel.figure.canvas.draw()


def test_a_dense_curve_is_thinned_and_keeps_its_ends() -> None:
    values = np.linspace(1.0, 0.1, 5 * POINTS)
    run = made_run(histories={"error/u": series(*values)})
    for line in drawn(run)["errors"].figure.axes[0].lines:
        points = line.get_xydata()
        assert len(points) == POINTS
        assert points[0].tolist() == pytest.approx([10, 1.0])
        assert points[-1].tolist() == pytest.approx([50 * POINTS, 0.1])


def test_what_was_not_logged_has_no_figure() -> None:
    assert drawn(made_run(histories={})) == {}
    assert list(drawn(made_run(histories={"loss/pde": series(1.0)}))) == ["losses"]


def test_the_image_has_all_figures_below_each_other() -> None:
    made = drawn(made_run())
    assert list(made) == ["errors", "losses"]
    picture = stacked_png((p.title, p.figure) for p in made.values())
    assert picture.startswith(b"\x89PNG")
    pixels = imread(io.BytesIO(picture))
    height, width, _ = pixels.shape
    sizes = [p.figure.get_size_inches() * p.figure.dpi for p in made.values()]
    heading = 50
    assert (width, height) == (1200, round(sum(h + heading for _, h in sizes)))
    # Each figure is drawn as in the page, below a strip with its title.
    assert (pixels[:heading] < 1).any()
    assert not made["errors"].figure.get_suptitle()
